"""Every reduction against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from transforms.lookup import ConfigError
from transforms.reductions import REDUCTIONS, parse_reduction, reduce_chain

VALUES = np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


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
        ("mean(axis='a')", "reduce.axis"),
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
