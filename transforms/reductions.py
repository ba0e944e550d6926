"""Reduce an activation inside the compiled graph: the table of reductions.

A reduction is a function from a tensor `[batch, ...]` to a tensor `[batch, ...]`. Axes
count the batch as axis 0, which cannot be reduced.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Sequence
from typing import Any

from transforms.lookup import ConfigError, bind, resolve, shape_text

Axis = int | list[int] | None


def _axes(values: Any, axis: Axis) -> list[int]:
    """Resolve axes to positive numbers; None is all but the batch."""
    rank = values.shape.rank
    if axis is None:
        return list(range(1, rank))
    axes = [axis] if isinstance(axis, int) else axis
    for one in axes:
        if not -rank < one < rank or one % rank == 0:
            raise ConfigError(
                f"axis must be between 1 and {rank - 1} (0 is the batch), got {one}"
            )
    return [one % rank for one in axes]


def mean(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Average over axes, all but the batch if none is given."""
    import tensorflow as tf

    return tf.reduce_mean(values, _axes(values, axis), keepdims)


def max_(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the maximum over axes, all but the batch if none is given."""
    import tensorflow as tf

    return tf.reduce_max(values, _axes(values, axis), keepdims)


def min_(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Take the minimum over axes, all but the batch if none is given."""
    import tensorflow as tf

    return tf.reduce_min(values, _axes(values, axis), keepdims)


def sum_(values: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over axes, all but the batch if none is given."""
    import tensorflow as tf

    return tf.reduce_sum(values, _axes(values, axis), keepdims)


def flatten(values: Any) -> Any:
    """Flatten `[batch, ...]` to `[batch, n]`, in C order."""
    import tensorflow as tf

    size = functools.reduce(lambda a, b: a * b, values.shape.as_list()[1:], 1)
    return tf.reshape(values, [values.shape[0], size])


def first(values: Any, axis: int = 1) -> Any:
    """Take the first entry along an axis, such as the class token."""
    return _entry(values, axis, 0)


def last(values: Any, axis: int = 1) -> Any:
    """Take the last entry along an axis, such as the last token."""
    return _entry(values, axis, -1)


def global_average_pool(values: Any) -> Any:
    """Average over all axes between batch and channels: `[batch, ..., channels]`."""
    import tensorflow as tf

    if values.shape.rank < 3:
        raise ConfigError(
            "there must be axes between batch and channels; leave the reduction out"
        )
    return tf.reduce_mean(values, list(range(1, values.shape.rank - 1)))


def l2_normalize(values: Any, axis: int = -1, epsilon: float = 1e-12) -> Any:
    """Scale to unit Euclidean length; squares count as `epsilon` at least."""
    import tensorflow as tf

    return tf.math.l2_normalize(values, _axes(values, axis), epsilon)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "first": first,
    "flatten": flatten,
    "global_average_pool": global_average_pool,
    "l2_normalize": l2_normalize,
    "last": last,
    "max": max_,
    "mean": mean,
    "min": min_,
    "sum": sum_,
}


def parse_reduction(text: str, where: str) -> Callable[[Any], Any]:
    """Turn `mean(axis=1)` or `package.module:function(k=3)` into a function.

    Args:
      text: a name, with keyword arguments that are Python literals if any.
      where: place in the config, for error messages.

    Raises:
      ConfigError: the text cannot be parsed, names no reduction, or has a bad option.
    """
    name, arguments = reduction_name(text), text.partition("(")[2]
    options: dict[str, Any] = {}
    if arguments:
        try:
            call = ast.parse(f"_({arguments}", mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError(text)
            options = {k.arg or "**": ast.literal_eval(k.value) for k in call.keywords}
        except (SyntaxError, ValueError):
            raise ConfigError(
                f"{where} must be a name with keyword arguments, such as"
                f" 'mean(axis=1)', got {text!r}"
            ) from None
    function = resolve(name, REDUCTIONS, where)
    checked = bind(functools.partial(function, None), options, where)
    return functools.partial(function, **checked)


def reduction_name(text: str) -> str:
    """The name in a reduction's text, without arguments.

    >>> reduction_name("mean(axis=1)")
    'mean'
    """
    return text.partition("(")[0].strip()


def reduce_chain(
    values: Any, reductions: Sequence[Callable[[Any], Any]], where: str
) -> Any:
    """Apply reductions left to right and check that the batch axis is left.

    Args:
      values: an activation `[batch, ...]`.
      reductions: as `parse_reduction` makes them.
      where: place of the list in the config, for error messages.

    Raises:
      ConfigError: a reduction fails, or changes the number of rows.
    """
    rows = values.shape[0]
    for index, reduction in enumerate(reductions):
        given, shown = values, shape_text(("batch", *values.shape[1:]))
        try:
            values = reduction(given)
        except Exception as error:
            raise ConfigError(
                f"{where}[{index}] must fit an activation of shape {shown}: {error}"
            ) from error
        if values.shape.rank == 0 or values.shape[0] != rows:
            raise ConfigError(
                f"{where}[{index}] must keep the batch axis of {rows} rows, it turns"
                f" shape {shown} into {shape_text(values.shape)}"
            )
    return values


def _entry(values: Any, axis: int, index: int) -> Any:
    import tensorflow as tf

    return tf.gather(values, index % values.shape[axis], axis=_axes(values, axis)[0])
