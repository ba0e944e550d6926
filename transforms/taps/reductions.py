"""Reduce an activation inside the compiled graph: the table of reductions.

A reduction is a function from a tensor `[batch, ...]` to a tensor `[batch, ...]`. Axes
count the batch as axis 0, which cannot be reduced; they also go by name. Rows of
differing length (ragged tensors) are reduced over their own length.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from transforms.lookup import ConfigError, nearest
from transforms.messages import shape_text

Axis = int | str | list[int | str] | None
AXES: dict[str, int] = {
    "channels": -1,
    "depth": -4,
    "features": -1,
    "height": -3,
    "steps": 1,
    "time": 1,
    "tokens": 1,
    "width": -2,
}
"""What names of axes stand for, in Keras's default order: `[batch, steps, features]`
and `[batch, (depth or time,) height, width, channels]`."""
_LEAST_RANK = {"depth": 5, "height": 4, "width": 4, "steps": 3, "time": 3, "tokens": 3}


def mean(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Average over axes, all but the batch if none is given; whole numbers as float32.

    Args:
      values: `[batch, ...]`.
      axis: number or name of an axis, or a list of several.
      keepdims: keep the reduced axes, with length 1.
    """
    import tensorflow as tf

    return tf.reduce_mean(_real(values), _axes(values, axis), keepdims)


def std(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the population standard deviation over axes, all but the batch by default.

    Args:
      values: `[batch, ...]`.
      axis: number or name of an axis, or a list of several.
      keepdims: keep the reduced axes, with length 1.
    """
    import tensorflow as tf

    return tf.math.reduce_std(_real(values), _axes(values, axis), keepdims)


def max_(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the maximum over axes, all but the batch if none is given.

    The maximum of booleans is whether any of them is true.
    """
    import tensorflow as tf

    reduce = tf.reduce_any if values.dtype == tf.bool else tf.reduce_max
    return reduce(values, _axes(values, axis), keepdims)


def min_(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the minimum over axes, all but the batch if none is given.

    The minimum of booleans is whether all of them are true.
    """
    import tensorflow as tf

    reduce = tf.reduce_all if values.dtype == tf.bool else tf.reduce_min
    return reduce(values, _axes(values, axis), keepdims)


def sum_(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over axes, all but the batch if none is given.

    Whole numbers and booleans are added up in 64 bits.

    Args:
      values: `[batch, ...]`.
      axis: number or name of an axis, or a list of several.
      keepdims: keep the reduced axes, with length 1.
    """
    import tensorflow as tf

    if not values.dtype.is_floating:
        values = tf.cast(values, tf.uint64 if values.dtype.is_unsigned else tf.int64)
    return tf.reduce_sum(values, _axes(values, axis), keepdims)


def flatten(values: Any) -> Any:
    """Flatten `[batch, ...]` to `[batch, n]`, in C order."""
    import tensorflow as tf

    if isinstance(values, tf.RaggedTensor):
        return values.merge_dims(1, -1) if values.shape.rank > 2 else values
    inner = values.shape[1:]
    size = inner.num_elements() if inner.is_fully_defined() else -1
    return tf.reshape(values, [values.shape[0], size])


def first(values: Any, axis: int | str = 1) -> Any:
    """Take the first entry along an axis, such as the class token."""
    return _entry(values, axis, 0)


def last(values: Any, axis: int | str = 1) -> Any:
    """Take the last entry along an axis, such as the last token."""
    return _entry(values, axis, -1)


def global_average_pool(values: Any) -> Any:
    """Average over all axes between batch and channels: `[batch, ..., channels]`."""
    import tensorflow as tf

    if values.shape.rank < 3:
        raise ConfigError(
            "there must be axes between batch and channels; leave the reduction out"
        )
    return tf.reduce_mean(_real(values), list(range(1, values.shape.rank - 1)))


def l2_normalize(values: Any, axis: Axis = -1, epsilon: float = 1e-12) -> Any:
    """Scale to unit Euclidean length along an axis.

    A sum of squares below `epsilon` counts as `epsilon`, so that zeros stay zeros.
    """
    import tensorflow as tf

    return tf.math.l2_normalize(_real(values), _axes(values, axis), epsilon)


def top_k(values: Any, k: int, indices: bool = False) -> Any:
    """Take the `k` largest values along the last axis, falling: `[batch, ..., k]`.

    Args:
      values: `[batch, ..., n]`.
      k: how many values to take, at most `n`.
      indices: give the places of the values along the axis, as int32, instead of the
        values; of equal values the one of lower place comes first.
    """
    import tensorflow as tf

    width = values.shape[-1]
    if k < 1 or (width is not None and k > width):
        raise ConfigError(f"k must be between 1 and {width}, got {k}")
    return tf.math.top_k(values, k)[1 if indices else 0]


def random_projection(values: Any, dim: int, seed: int = 0) -> Any:
    """Project the last axis on `dim` random directions: `[batch, ..., dim]`.

    Distances between rows are kept up to an error that falls with `dim` (Johnson and
    Lindenstrauss). The directions are Gaussian, of variance 1/dim.

    Args:
      values: `[batch, ..., n]`.
      dim: number of directions, and so of values along the last axis of the result.
      seed: seed of the random directions, which are always the same for one seed.
    """
    import tensorflow as tf

    width = values.shape[-1]
    if width is None or dim < 1:
        raise ConfigError(
            f"dim must be at least 1 and the last axis of known length, got {dim} for"
            f" {shape_text(values.shape)}"
        )
    values = _real(values)
    with tf.init_scope():  # kept outside of the graph, whose size is limited
        directions = tf.constant(projection(width, dim, seed), values.dtype)
    return tf.tensordot(values, directions, 1)


def projection(width: int, dim: int, seed: int) -> np.ndarray:
    """Make the matrix of `random_projection`: float64 `[width, dim]`.

    It is the same everywhere: numpy promises that RandomState never changes (NEP 19).
    """
    normal: np.ndarray = np.random.RandomState(seed).standard_normal((width, dim))
    normal /= np.sqrt(dim)
    return normal


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "first": first,
    "flatten": flatten,
    "global_average_pool": global_average_pool,
    "l2_normalize": l2_normalize,
    "last": last,
    "max": max_,
    "mean": mean,
    "min": min_,
    "random_projection": random_projection,
    "std": std,
    "sum": sum_,
    "top_k": top_k,
}


def axes_of(reduction: Any, values: Any) -> list[int]:
    """Give the axes of an activation that a reduction goes over.

    Args:
      reduction: a partial of a function in `REDUCTIONS`, with its options.
      values: the activation `[batch, ...]`.
    """
    rank = values.shape.rank
    if reduction.func is global_average_pool:
        return list(range(1, rank - 1))
    if reduction.func in (top_k, random_projection):
        return [rank - 1]
    if reduction.func is flatten:
        return []
    default = inspect.signature(reduction.func).parameters["axis"].default
    return _axes(values, reduction.keywords.get("axis", default))


def _axes(values: Any, axis: Axis) -> list[int]:
    """Turn names and negative numbers of axes into positive numbers.

    None stands for all axes but the batch.
    """
    rank = values.shape.rank
    if axis is None:
        return list(range(1, rank))
    axes = axis if isinstance(axis, list) else [axis]
    return [_axis(one, rank) for one in axes]


def _axis(axis: int | str, rank: int) -> int:
    if isinstance(axis, str):
        if axis not in AXES:
            raise ConfigError(
                f"axis must be a number or one of {', '.join(AXES)}, got {axis!r}"
                f"{nearest(axis, AXES)}"
            )
        if rank < _LEAST_RANK.get(axis, 2):
            raise ConfigError(
                f"axis {axis!r} is for tensors of rank {_LEAST_RANK[axis]} and more"
                " with the batch; give its number"
            )
        axis = AXES[axis]
    if not -rank < axis < rank or axis % rank == 0:
        raise ConfigError(
            f"axis must be between 1 and {rank - 1} (0 is the batch), got {axis}"
        )
    return axis % rank


def _real(values: Any) -> Any:
    """Cast whole numbers and booleans to float32, so that averages are not rounded."""
    import tensorflow as tf

    return values if values.dtype.is_floating else tf.cast(values, tf.float32)


def _entry(values: Any, axis: int | str, index: int) -> Any:
    import tensorflow as tf

    place = _axis(axis, values.shape.rank)
    if isinstance(values, tf.RaggedTensor) and place == 1:
        some = tf.debugging.assert_positive(
            values.row_lengths(), "a row must have an entry to take, one has none"
        )
        with tf.control_dependencies([some]):
            rows = values.row_limits() - 1 if index else values.row_starts()
            return tf.gather(values.flat_values, rows)
    size = values.shape[place]
    if size is None:
        size = tf.shape(values)[place]
    return tf.gather(values, size - 1 if index else 0, axis=place)
