"""Every reduction against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from transforms.lookup import ConfigError
from transforms.taps.chains import parse_reduction, reduce_chain
from transforms.taps.reductions import REDUCTIONS

VALUES = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def norm(values: np.ndarray) -> np.ndarray:
    return np.sqrt((values**2).sum((1, 2, 3), keepdims=True))


def directions(width: int, dim: int, seed: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal((width, dim)) / np.sqrt(dim)


EXPECTED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda v: v.mean((1, 2, 3)),
    "mean(axis=1)": lambda v: v.mean(1),
    "mean(axis=[1, 2], keepdims=True)": lambda v: v.mean((1, 2), keepdims=True),
    "max(axis=-1)": lambda v: v.max(-1),
    "min(axis=2)": lambda v: v.min(2),
    "sum(axis=[-1, 1])": lambda v: v.sum((1, 3)),
    "flatten": lambda v: v.reshape(3, -1),
    "first": lambda v: v[:, 0],
    "first(axis=2)": lambda v: v[:, :, 0],
    "last": lambda v: v[:, -1],
    "last(axis=-1)": lambda v: v[..., -1],
    "global_average_pool": lambda v: v.mean((1, 2)),
    "std": lambda v: v.std((1, 2, 3)),
    "std(axis=2)": lambda v: v.std(2),
    "mean(axis='height')": lambda v: v.mean(1),
    "mean(axis=['height', 'width'])": lambda v: v.mean((1, 2)),
    "max(axis='channels')": lambda v: v.max(3),
    "sum(axis='tokens')": lambda v: v.sum(1),
    "last(axis='width')": lambda v: v[:, :, -1],
    "l2_normalize(axis=[1, 2, 3])": lambda v: v / norm(v),
    "top_k(k=2)": lambda v: -np.sort(-v)[..., :2],
    "top_k(k=2, indices=True)": lambda v: np.argsort(-v)[..., :2],
    "random_projection(dim=4, seed=3)": lambda v: v @ directions(6, 4, 3),
    "l2_normalize": unit,
    "toolbox:scaled_sum(scale=3.0)": lambda v: v.sum(-1, keepdims=True) * 3,
}


@pytest.mark.parametrize("text", EXPECTED)
def test_reduction_equals_numpy(text: str) -> None:
    reduced = reduce_chain(tf.constant(VALUES), [parse_reduction(text, "reduce")], "r")
    np.testing.assert_allclose(reduced.numpy(), EXPECTED[text](VALUES), atol=1e-5)


def test_every_built_in_is_compared() -> None:
    assert REDUCTIONS.keys() <= {text.partition("(")[0] for text in EXPECTED}


def test_reductions_are_chained_left_to_right() -> None:
    chain = [
        parse_reduction(t, "r") for t in ("mean(axis=1)", "flatten", "l2_normalize")
    ]
    reduced = reduce_chain(tf.constant(VALUES), chain, "r").numpy()
    np.testing.assert_allclose(reduced, unit(VALUES.mean(1).reshape(3, -1)), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("men", "nearest is 'mean'"),
        ("mean(1)", "keyword arguments, such as"),
        ("mean(axis=", "keyword arguments, such as"),
        ("mean(axis=x)", "keyword arguments, such as"),
        ("mean(axes=1)", "axes is not an option here; nearest is 'axis'"),
        ("mean(axis=1.5)", "reduce.axis"),
        ("top_k", "reduce.k is required"),
        ("toolbox:nothing", "must name something in module 'toolbox'"),
    ],
)
def test_reductions_that_cannot_be_parsed_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_reduction(text, "reduce")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean(axis=0)", r"r\[0\] must fit .*0 is the batch"),
        ("max(axis=-4)", "0 is the batch"),
        ("min(axis=4)", "between 1 and 3"),
        ("mean(axis='chanels')", "one of .* got 'chanels'; nearest is 'channels'"),
        ("mean(axis='depth')", "'depth' is for tensors of rank 5 and more"),
        ("top_k(k=7)", "k must be between 1 and 6, got 7"),
        ("random_projection(dim=0)", "dim must be at least 1"),
        ("toolbox:no_tensor", r"r\[0\] must return a tensor, got float"),
        ("toolbox:drop_rows", r"r\[0\] must keep the batch axis of 3 rows"),
    ],
)
def test_the_batch_axis_is_protected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reduce_chain(tf.constant(VALUES), [parse_reduction(text, "reduce")], "r")


def test_pooling_without_anything_to_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="axes between batch and channels"):
        reduce_chain(
            tf.ones([3, 4]), [parse_reduction("global_average_pool", "r")], "r"
        )


def reduced(text: str, values: object) -> tf.Tensor:
    return reduce_chain(tf.constant(values), [parse_reduction(text, "reduce")], "r")


def test_whole_numbers_and_flags_are_not_reduced_as_such() -> None:
    counts = np.array([[200, 100, 1]], np.uint8)
    assert reduced("mean", counts).numpy() == pytest.approx(301 / 3)
    assert reduced("std", counts).numpy() == pytest.approx(counts.std())
    assert reduced("sum", counts).numpy() == 301
    assert reduced("max", counts).dtype == tf.uint8
    flags = np.array([[True, False]])
    assert reduced("sum", flags).numpy() == 1
    assert reduced("mean", flags).numpy() == 0.5
    assert reduced("max", flags).numpy().tolist() == [True]
    assert reduced("min", flags).numpy().tolist() == [False]


def test_rows_of_differing_length_are_reduced_over_their_own() -> None:
    rows = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    ragged = tf.RaggedTensor.from_row_splits(
        tf.constant([entry for row in rows for entry in row]), [0, 2, 3]
    )

    def of(text: str) -> list[object]:
        chain = [parse_reduction(text, "reduce")]
        result = reduce_chain(ragged, chain, "r")
        return list(result.to_list() if hasattr(result, "to_list") else result.numpy())

    assert np.array(of("mean(axis=1)")).tolist() == [[2, 3], [5, 6]]
    assert np.array(of("max(axis='tokens')")).tolist() == [[3, 4], [5, 6]]
    assert np.array(of("std(axis=1)")).tolist() == [[1, 1], [0, 0]]
    assert np.array(of("first")).tolist() == [[1, 2], [5, 6]]
    assert np.array(of("last")).tolist() == [[3, 4], [5, 6]]
    assert np.array(of("mean")).tolist() == [2.5, 5.5]
    assert of("flatten") == [[1, 2, 3, 4], [5, 6]]
    assert of("sum(axis=2)") == [[3, 7], [11]]


def test_there_is_no_first_entry_of_an_empty_row() -> None:
    ragged = tf.RaggedTensor.from_row_splits(tf.constant([1.0]), [0, 1, 1])
    with pytest.raises(ConfigError, match="a row must have an entry to take"):
        reduce_chain(ragged, [parse_reduction("first", "reduce")], "r")
