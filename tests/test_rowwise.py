"""What the graph proves to compute each row by itself needs no made-up rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import toolbox
from conftest import Job
from keras import layers

from pipeline.list_taps import list_taps
from pipeline.plan import Plan
from transforms.lookup import ConfigError
from transforms.taps.company import deviating, other_company
from transforms.taps.compile import CompiledTaps
from transforms.taps.rowwise import prove_rows_alone

ROWS = 1009
SHAPE = (4, 4, 6)
KERNEL = tf.ones([2, 2, 6, 6])
TABLE = tf.reshape(tf.range(40.0), [20, 2])
Body = Callable[[Any], Any]


def proved(body: Body) -> bool:
    function = tf.function(body, input_signature=[tf.TensorSpec([ROWS, *SHAPE])])
    traced = function.get_concrete_function()
    (value,) = traced.outputs
    return prove_rows_alone(traced.graph, ROWS, [value])[0]


def mixes(body: Body) -> bool:
    """Whether rows come out differently in other company, computed eagerly."""
    x = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype(np.float32) * 3
    order = other_company(len(x))
    one, other = (np.asarray(body(tf.constant(rows))) for rows in (x, x[order]))
    return one.shape != other.shape or deviating(one[order], other, 1e-4).any()


def flat(x: Any) -> Any:
    return tf.reshape(x, [-1, 96])


def batch_norm(x: Any, training: bool) -> Any:
    ones, zeros = tf.ones([6]), tf.zeros([6])
    made = tf.raw_ops.FusedBatchNormV3
    given = (zeros, ones) if not training else (tf.zeros([0]), tf.zeros([0]))
    return made(
        x=x,
        scale=ones,
        offset=zeros,
        mean=given[0],
        variance=given[1],
        is_training=training,
    ).y


def places(x: Any) -> Any:
    return tf.cast(tf.math.argmax(flat(x), 1) % 20, tf.int32)


@tf.custom_gradient
def halved(x: Any) -> Any:
    return x * 0.5, lambda change: change


ALONE: dict[str, Body] = {
    "values": lambda x: tf.nn.relu(x * 2.0 - tf.ones([6])) + tf.exp(-tf.abs(x)),
    "broadcast over rows": lambda x: x + tf.ones([1, 4, 4, 6]),
    "choice": lambda x: tf.where(x > 0.0, x, tf.zeros_like(x)),
    "means": lambda x: tf.reduce_mean(x, [1, 2]) - tf.reduce_max(x, [-2, -3]),
    "sum to one value": lambda x: tf.reduce_sum(x, [1, 2, 3]),
    "cumulative sum": lambda x: tf.cumsum(x, 2, reverse=True),
    "reversed steps": lambda x: tf.reverse(x, [1, -1]),
    "parts": lambda x: tf.add_n(tf.split(x, 2, 1)[:1]) + tf.split(x, [2, 2], 1)[1],
    "flattened": flat,
    "folded": lambda x: tf.reshape(tf.reshape(x, [-1, 6]) @ KERNEL[0, 0], [-1, 96]),
    "more axes": lambda x: tf.squeeze(tf.expand_dims(x, 1), 1),
    "transposed": lambda x: tf.transpose(x, [0, 3, 1, 2]),
    "joined": lambda x: tf.concat([x, x * 2.0], -1),
    "with a first step": lambda x: tf.concat([tf.ones([len(x), 1, 4, 6]), x], 1),
    "with a token": lambda x: tf.concat(
        [tf.tile(tf.reshape(tf.range(24.0), [1, 1, 4, 6]), [len(x), 1, 1, 1]), x], 1
    ),
    "product": lambda x: flat(x) @ tf.ones([96, 2]),
    "attention": lambda x: tf.nn.softmax(tf.matmul(x, x, transpose_b=True)) @ x,
    "product with weights": lambda x: x @ tf.ones([4, 6, 2]),
    "einsum": lambda x: tf.einsum("abcd,ed->abce", x, tf.ones([5, 6])),
    "einsum of two": lambda x: tf.einsum("abcd,abed->abce", x, x),
    "convolution": lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME"),
    "convolution backwards": lambda x: tf.nn.conv2d_transpose(
        x, KERNEL, [len(x), 8, 8, 6], 2
    ),
    "pooling": lambda x: tf.nn.max_pool2d(x, 2, 2, "SAME"),
    "batch norm at rest": lambda x: batch_norm(x, training=False),
    "bias": lambda x: tf.nn.bias_add(x, tf.range(6.0)),
    "rows of a table": lambda x: tf.gather(TABLE, places(x)),
    "chosen steps": lambda x: tf.gather(x, [2, 0], axis=1),
    "padded": lambda x: tf.pad(x, [[0, 0], [1, 1], [0, 2], [0, 0]]),
    "cut": lambda x: x[:, 1:, ::2, :1] + tf.slice(x, [0, 0, 0, 1], [-1, 3, 2, 1]),
    "one step": lambda x: x[:, 1, :, tf.newaxis],
    "repeated steps": lambda x: tf.tile(x, [1, 2, 1, 1]),
    "stretched": lambda x: tf.broadcast_to(x[:, :1], [len(x), 3, 4, 6]),
    "resized": lambda x: tf.image.resize(x, [7, 7]),
    "through a gradient's function": halved,
}  # fmt: skip
MIXING: dict[str, Body] = {
    "mean of the batch": lambda x: x - tf.reduce_mean(x, 0),
    "mean of everything": lambda x: x - tf.reduce_mean(x),
    "mean of the batch by a negative axis": lambda x: (
        x - tf.reduce_mean(x, [-4, -1], True)
    ),
    "cumulative sum of rows": lambda x: tf.cumsum(x, 0),
    "reversed rows": lambda x: tf.reverse(x, [0]),
    "batch norm at work": lambda x: batch_norm(x, training=True),
    "softmax of one value each": lambda x: tf.nn.softmax(tf.reduce_mean(x, [1, 2, 3])),
    "product of rows": lambda x: tf.matmul(x[:, 0, 0], x[:, 0, 0], transpose_b=True),
    "attention among rows": lambda x: tf.einsum(
        "ab,cb,cd->ad", flat(x), flat(x), flat(x)
    ),
    "rows summed by an einsum": lambda x: flat(x) + tf.einsum("ab->b", flat(x)),
    "other rows": lambda x: tf.gather(flat(x), places(x) % len(x)),
    "place": lambda x: flat(x) + tf.range(float(len(x)))[:, None],
    "place by a table": lambda x: tf.where(
        tf.reshape(tf.range(len(x)) > 2, [-1, 1]), flat(x), 0.0
    ),
    "rows in another order": lambda x: tf.roll(flat(x), 1, 0),
    "rows beside each other": lambda x: tf.reshape(tf.transpose(flat(x)), [-1, 96]),
    "a step back": lambda x: tf.concat([flat(x)[1:], flat(x)[:1]], 0),
    "backwards": lambda x: flat(x)[::-1],
    "moved by padding": lambda x: tf.pad(flat(x), [[1, 0], [0, 0]])[:-1],
    "two of each": lambda x: tf.tile(flat(x), [2, 1])[1 : len(x) + 1],
    "against the rows": lambda x: tf.reduce_sum(
        tf.reduce_sum(x, [1, 2, 3]) * tf.reduce_sum(x, [1, 2, 3])[:, None], 1
    ),
    "sorted": lambda x: tf.sort(flat(x), 0),
    "a loop": lambda x: tf.scan(lambda a, b: a + b, flat(x)),
}


@pytest.mark.parametrize("what", ALONE)
def test_what_keeps_rows_apart_is_proved(what: str) -> None:
    assert proved(ALONE[what])
    assert not mixes(ALONE[what])


@pytest.mark.parametrize("what", MIXING)
def test_of_what_mixes_rows_nothing_is_proved(what: str) -> None:
    assert mixes(MIXING[what])
    assert not proved(MIXING[what])


def test_random_numbers_are_no_constants() -> None:
    assert not proved(lambda x: x + tf.random.normal([6]))


def test_what_is_no_tensor_of_the_graph_is_not_proved() -> None:
    function = tf.function(lambda x: x * 2.0, input_signature=[tf.TensorSpec([ROWS])])
    graph = function.get_concrete_function().graph
    others = [None, 3, tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.ones([ROWS])]
    with graph.as_default():
        places, values = tf.identity_n([tf.where(graph.inputs[0] > 0), graph.inputs[0]])
        others.append(tf.SparseTensor(places, values, [ROWS]))
    found = prove_rows_alone(graph, ROWS, [*others, *graph.outputs])
    assert found == [False, False, False, False, False, True]


@pytest.fixture
def convolutional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    vec = keras.Input((6,), name="vec")
    made = layers.Dense(3, "gelu", name="hidden")(layers.Reshape((3, 2))(vec))
    model = keras.Model(vec, layers.BatchNormalization(name="head")(made))
    monkeypatch.setattr(toolbox, "made_here", lambda: model, raising=False)
    monkeypatch.setattr(
        toolbox, "own", lambda x: x - tf.reduce_mean(x, 0), raising=False
    )
    np.save(tmp_path / "vec.npy", np.ones([4, 6], np.float32))
    return Job(tmp_path, {"reader": "numpy", "path": {"vec": f"{tmp_path}/vec.npy"}})


def plan_of(job: Job, reduce: str) -> Plan:
    return job.plan(
        source={"key": None},
        model={"build": "toolbox:made_here"},
        taps=[{"path": "h*", "reduce": ["mean(axis='steps')", reduce]}],
    )


def test_what_is_proved_is_not_computed_to_plan(
    convolutional: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CompiledTaps, "__call__", None)
    plan = plan_of(convolutional, "l2_normalize")
    assert [tap.address for tap in plan.taps] == ["hidden", "head"]
    listing = list_taps(plan.config)
    assert all(a.alone for a in listing.activations if a.refusal is None)


def test_reductions_of_the_users_own_are_not_covered_by_a_proof(
    convolutional: Job,
) -> None:
    with pytest.raises(ConfigError, match="'hidden' depends on the other rows"):
        plan_of(convolutional, "toolbox:own")
