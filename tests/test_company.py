"""A row's values depend on that row alone, or the address is refused by name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
import toolbox
from conftest import Job
from keras import layers

from pipeline.list_taps import list_taps
from transforms.batch import Batch
from transforms.lookup import ConfigError
from transforms.models.function import FunctionForm
from transforms.models.inputs import Input
from transforms.models.model import Model
from transforms.taps.company import (
    check_company,
    deviating,
    other_company,
    refuse_mixing,
)
from transforms.taps.compile import compile_taps
from transforms.taps.device_memory import FittingTaps
from transforms.taps.language import Tap
from transforms.taps.survey import list_activations
from transforms.values import list_array


class Mixes(layers.Layer):
    """Calls a function of the whole batch."""

    def __init__(self, function: Callable[[Any], Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs: Any) -> Any:
        return self.function(inputs)


def routed(x: Any) -> Any:
    """Send rows to two experts with room for half of the batch each."""
    chosen = tf.cast(x[:, 0] > x[:, 1], tf.int32)
    room = tf.shape(x)[0] // 2
    order = tf.cumsum(tf.one_hot(chosen, 2, dtype=tf.int32), 0)
    fits = tf.gather(order, chosen, axis=1, batch_dims=1) <= room
    return tf.where(fits[:, None], x, 0.0)


def norms_of_attention(x: Any) -> Any:
    """Attend to the other rows of the batch."""
    scores = tf.nn.softmax(tf.matmul(x, x, transpose_b=True) / 10, -1)
    return tf.norm(tf.matmul(scores, x), axis=1)


counter = itertools.count()

MIXING: dict[str, Callable[[Any], Any]] = {
    "statistics of the batch": lambda x: x / tf.reduce_max(x, 0),
    "attention": norms_of_attention,
    "softmax over the batch": lambda x: tf.nn.softmax(x, axis=0),
    "rank in the batch": lambda x: tf.argsort(x, axis=0),
    "differences of neighbours": lambda x: x - tf.roll(x, 1, 0),
    "running sum": lambda x: tf.cumsum(x, 0),
    "experts with little room": routed,
    "unique values": lambda x: tf.unique(tf.round(x[:, 0]))[1],
    "place": lambda x: x[:, 0] + 1e-3 * tf.cast(tf.range(tf.shape(x)[0]), x.dtype),
    "number of rows": lambda x: x / tf.cast(tf.shape(x)[0], tf.float32),
    "a function of Python with state": lambda x: tf.ensure_shape(
        tf.py_function(lambda v: v + next(counter), [x], tf.float32), x.shape
    ),
    "numbers drawn while tracing": lambda x: x + np.random.normal(),
    "calls counted while tracing": lambda x: x * next(counter),
    "pairs of rows": lambda x: tf.matmul(x, x, transpose_b=True),
}
ALONE: dict[str, Callable[[Any], Any]] = {
    "arithmetic": lambda x: x * 2 + 1,
    "softmax over features": lambda x: tf.nn.softmax(x),
    "sorting within the row": lambda x: tf.sort(x, 1),
    "text": lambda x: tf.strings.as_string(x[:, 0]),
    "not a number": lambda x: tf.where(x > 0, x, np.nan),
    "infinite": lambda x: tf.where(x > 0, x, -np.inf),
    "one value for all": lambda x: x * 0 + 3,
    "nothing but rounding": lambda x: tf.reduce_mean(
        x - tf.reduce_mean(x, 1)[:, None], 1
    ),
    "whole numbers": lambda x: tf.argmax(x, 1),
    "truth": lambda x: x > 0,
    "halves": lambda x: tf.cast(x, tf.float16) / 3,
    "ragged": lambda x: tf.RaggedTensor.from_row_lengths(
        tf.reshape(x, [-1]), tf.fill([tf.shape(x)[0]], tf.shape(x)[1])
    ),
}


def keras_model(function: Callable[[Any], Any], batch_size: int | None = None) -> Any:
    vec = keras.Input((6,), batch_size=batch_size, name="vec")
    odd = layers.Activation(lambda x: x, name="before")(vec)

    class Outer(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="outer")
            self.odd = Mixes(function, name="odd")

        def call(self, inputs: Any) -> dict[str, Any]:
            return {"odd": self.odd(inputs), "even": inputs * 2}

    if batch_size is None:
        return Outer()
    return keras.Model(odd, odd)


def saved_model(function: Callable[[Any], Any], path: Path) -> Any:
    module = tf.Module()
    inner = tf.function(function)
    module.serve = tf.function(
        lambda vec: {"odd": inner(vec), "even": vec * 2},
        input_signature=[tf.TensorSpec([None, 6], name="vec")],
    )
    tf.saved_model.save(module, str(path), signatures=module.serve)
    return tf.saved_model.load(str(path))


def job_of(built: Any, monkeypatch: pytest.MonkeyPatch, directory: Path) -> Job:
    """A job of a model whose input is called `vec`, or is the only one."""
    monkeypatch.setattr(toolbox, "made_here", lambda: built, raising=False)
    np.save(directory / "vec.npy", rows_of(20))
    return Job(
        directory, {"reader": "numpy", "path": {"vec": str(directory / "vec.npy")}}
    )


def rows_of(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 6)).astype(np.float32)


def plan_of(job: Job, address: str, **model: Any) -> Any:
    model = {"build": "toolbox:made_here", "inputs": {"inputs": "vec"}, **model}
    return job.plan(
        source={"key": None}, model=model, taps=[{"path": address, "column": "c"}]
    )


@pytest.mark.parametrize("kind", MIXING)
def test_what_mixes_rows_in_a_layer_is_refused_by_address(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(keras_model(MIXING[kind]), monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"'odd' (depends on|differs)"):
        plan_of(job, "odd")
    assert plan_of(job, ":even").columns[-1].name == "c"


@pytest.mark.parametrize("kind", MIXING)
def test_what_mixes_rows_in_a_saved_model_is_refused_by_address(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "tracing" in kind or "Python" in kind:
        pytest.skip("what is saved was traced before")
    built = saved_model(MIXING[kind], tmp_path / "saved")
    job = job_of(built, monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match=r"':odd' (depends on|differs)"):
        plan_of(job, ":odd", inputs={})
    assert plan_of(job, ":even", inputs={}).columns[-1].name == "c"


@pytest.mark.parametrize("kind", ALONE)
def test_what_computes_each_row_by_itself_is_not_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(keras_model(ALONE[kind]), monkeypatch, tmp_path)
    assert plan_of(job, "odd").columns[-1].name.startswith("c")
    table = job.run(
        source={"key": None},
        model={"build": "toolbox:made_here", "inputs": {"inputs": "vec"}},
        taps=[{"path": "odd", "column": "c"}],
        gates={"dead_dimensions": False},  # all rows may be alike
    )
    assert table.num_rows == 20


def test_a_listing_names_what_is_padded_to_the_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = keras.Input((), dtype="string", name="text")
    words = layers.TextVectorization(vocabulary=["a"], name="words")(text)
    job = job_of(keras.Model(text, words), monkeypatch, tmp_path)
    np.save(tmp_path / "text.npy", np.array(["a", "a b b"]))
    job.source["path"] = {"text": str(tmp_path / "text.npy")}
    config = job.config(source={"key": None}, model={"build": "toolbox:made_here"})
    refused = {a.address: a.refusal for a in list_taps(config).activations}
    assert refused["words"] == "depends on the other rows of the batch"


def test_large_activations_are_computed_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transforms.taps.company._MOST_BYTES", 100)
    wired = Input("x", "x", (6,), "float32", "float32")

    def body(x: Any) -> dict[str, Any]:
        return {"a": x, "b": x - tf.reduce_mean(x, 0), "c": x, "d": x + 1}

    model = Model(FunctionForm(body), (wired,), None)
    found = refuse_mixing(model, list_activations(model))
    assert [a.address for a in found if a.refusal] == [":b"]


def test_layers_that_pad_texts_to_the_longest_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = keras.Input((), dtype="string", name="text")
    words = layers.TextVectorization(vocabulary=["a", "b"], name="words")(text)
    whole = layers.GlobalAveragePooling1D(name="whole")(layers.Embedding(9, 3)(words))
    job = job_of(keras.Model(text, whole), monkeypatch, tmp_path)
    np.save(tmp_path / "text.npy", np.array(["a", "a b b"]))
    job.source["path"] = {"text": str(tmp_path / "text.npy")}
    with pytest.raises(ConfigError, match="'whole' depends on the other rows"):
        plan_of(job, "whole", inputs={})


def test_a_wildcard_passes_over_what_mixes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vec = keras.Input((6,), name="vec")
    first = layers.Dense(3, name="block_first")(vec)
    mixed = layers.UnitNormalization(axis=0, name="block_mixed")(first)
    job = job_of(keras.Model(vec, mixed), monkeypatch, tmp_path)
    plan = job.plan(
        source={"key": None},
        model={"build": "toolbox:made_here", "inputs": {}},
        taps=[{"path": "block_*", "column": "{1}"}],
    )
    assert [tap.address for tap in plan.taps] == ["block_first"]
    why = {a.address: a.refusal for a in plan.activations}["block_mixed"]
    assert why == "depends on the other rows of the batch"


def test_a_listing_says_what_mixes_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(keras_model(MIXING["running sum"]), monkeypatch, tmp_path)
    config = job.config(
        source={"key": None},
        model={"build": "toolbox:made_here", "inputs": {"inputs": "vec"}},
    )
    refused = {a.address: a.refusal for a in list_taps(config).activations}
    assert refused["odd"] == "depends on a row's place in the batch"
    assert refused[":even"] is None


@pytest.mark.parametrize("rows", [2, 3, 8])
def test_a_fixed_batch_size_hides_nothing(rows: int) -> None:
    def listed(function: Callable[[Any], Any]) -> dict[str, str | None]:
        model = Model(
            FunctionForm(function),
            (Input("x", "x", (6,), "float32", "float32"),),
            rows,
        )
        return {
            a.address: a.refusal for a in refuse_mixing(model, list_activations(model))
        }

    found = listed(
        lambda x: {
            "mixed": x - tf.reduce_mean(x, 0),
            "turned": tf.transpose(x)[:rows],
            "same": x * 0,
            "alone": x * 2,
        }
    )
    assert "depends on" in str(found[":mixed"])
    assert found[":turned"] is not None
    assert "cannot tell" in str(found[":same"])
    assert found[":alone"] is None


def hidden(x: Any) -> Any:
    """Mix the rows of a batch only where a value is larger than any made-up one."""
    large = tf.reduce_max(x) > 50
    return tf.cond(large, lambda: x - tf.reduce_mean(x, 0), lambda: x + 0)


def test_the_first_batch_shows_what_made_up_rows_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(keras_model(hidden), monkeypatch, tmp_path)
    data = rows_of(20)
    data[3] = 100.0
    np.save(tmp_path / "vec.npy", data)
    assert plan_of(job, "odd").rows == 20
    with pytest.raises(RuntimeError, match="column 'c' of the first 16 rows comes out"):
        job.run(
            source={"key": None},
            model={"build": "toolbox:made_here", "inputs": {"inputs": "vec"}},
            taps=[{"path": "odd", "column": "c"}],
        )
    assert not (job.table / "_SUCCESS").exists()


def test_without_these_checks_the_cut_decides_the_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: what the checks are for."""
    monkeypatch.setattr("pipeline.plan.mixing_taps", lambda *args: {})
    monkeypatch.setattr("transforms.taps.ahead.check_company", lambda _, parts: parts)
    found = []
    for batch_rows in (4, 5):
        (tmp_path / str(batch_rows)).mkdir()
        built = keras_model(lambda x: x - tf.reduce_mean(x, 0))
        job = job_of(built, monkeypatch, tmp_path / str(batch_rows))
        model = {"build": "toolbox:made_here", "inputs": {"inputs": "vec"}}
        table = job.run(
            source={"key": None},
            model={**model, "batch_rows": batch_rows},
            taps=[{"path": "odd", "column": "c"}],
        )
        found.append(table.sort_by("example_id")["c"].to_pylist())
    assert found[0] != found[1]


def compiled_of(function: Callable[[Any], Any], rows: int = 4) -> FittingTaps:
    wired = Input("x", "x", (6,), "float32", "float32")
    model = Model(FunctionForm(function), (wired,), None)
    compile_for = functools.partial(
        compile_taps, model, [Tap("", (), "c", None, "taps[0]")]
    )
    return FittingTaps(compile_for(rows), compile_for)


def computed_by(taps: FittingTaps, rows: int) -> tuple[Batch, dict[str, Any]]:
    inputs = {"x": tf.constant(rows_of(rows))}
    return Batch(np.arange(rows), inputs, {}), taps(inputs)


def test_only_the_first_part_of_a_batch_is_computed_again() -> None:
    calls = []
    taps = compiled_of(lambda x: x * 2)
    parts = [computed_by(taps, 4), computed_by(taps, 3)]

    class Counting:
        computes_in_16_bits = False

        def __call__(self, inputs: Any) -> Any:
            calls.append(len(inputs["x"]))
            return taps(inputs)

    passed: Any = list(check_company(Counting(), parts))  # type: ignore[arg-type]
    assert passed == parts
    assert calls == [4]


def test_one_row_alone_has_no_company() -> None:
    taps = compiled_of(lambda x: x * 2)
    parts = [computed_by(taps, 1)]
    assert list(check_company(taps, parts)) == parts


def test_a_value_that_once_falls_on_the_other_side_of_a_step_is_passed() -> None:
    taps = compiled_of(lambda x: x * 2)
    part = computed_by(taps, 4)
    jumps = iter([1.0, 0.0])

    class Jumping:
        computes_in_16_bits: ClassVar[bool] = False

        def __call__(self, inputs: Any) -> Any:
            return {"c": taps(inputs)["c"] + next(jumps)}

    assert list(check_company(Jumping(), [part])) == [part]  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", range(1, 9))
def test_other_company_moves_rows_and_leaves_some_out(rows: int) -> None:
    order = other_company(rows)
    assert len(order) == rows
    assert set(order) <= set(range(rows))
    assert rows == 1 or rows - 1 not in order


def lists(*rows: list[float]) -> pa.Array:
    flat = np.array([value for row in rows for value in row], np.float32)
    return list_array(flat, np.array([len(row) for row in rows]))


@pytest.mark.parametrize(
    ("one", "other", "rows"),
    [
        (
            np.array([[1.0, 2.0], [3.0, 4.0]]),
            np.array([[1.0, 2.0], [3.0, 4.1]]),
            [0, 1],
        ),
        (np.array([[1.0, np.nan]]), np.array([[1.0, np.nan]]), [0]),
        (np.array([[1.0, np.nan]]), np.array([[1.0, 2.0]]), [1]),
        (np.array([[np.inf]]), np.array([[-np.inf]]), [1]),
        (np.array([[np.inf]]), np.array([[np.inf]]), [0]),
        (np.array([[1e-9]]), np.array([[-1e-9]]), [0]),
        (np.array([1, 2]), np.array([1, 3]), [0, 1]),
        (np.array([True]), np.array([False]), [1]),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), [0, 1]),
        (np.zeros((2, 0)), np.zeros((2, 0)), [0, 0]),
        (np.zeros((2, 3)), np.zeros((2, 4)), [1, 1]),
        (lists([1, 2], [3]), lists([1, 2], [4]), [0, 1]),
        (lists([1, 2], [3]), lists([1, 2, 3], [3]), [1, 0]),
    ],
)
def test_rows_that_deviate_are_told(one: Any, other: Any, rows: list[int]) -> None:
    assert deviating(one, other, 1e-5).astype(int).tolist() == rows
