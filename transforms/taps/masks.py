"""Reduce over the steps that Keras has not masked.

Layers such as `Embedding(mask_zero=True)` tell by a mask which steps of a row are its
own and which only fill it up; Keras passes it on from layer to layer beside the values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transforms.lookup import ConfigError
from transforms.taps import reductions

_STEPS = 1  # the axis that masks are about
_OVER_STEPS = (
    reductions.first,
    reductions.global_average_pool,
    reductions.last,
    reductions.max_,
    reductions.mean,
    reductions.min_,
    reductions.std,
    reductions.sum_,
)


def mask_of(value: Any) -> Any:
    """Give the mask of an activation `[batch, steps, ...]`: bool `[batch, steps]`.

    It is None if Keras masks nothing there.
    """
    mask = getattr(value, "_keras_mask", None)
    if mask is None or value.shape.rank is None:
        return None
    return mask if mask.shape.rank == 2 <= value.shape.rank else None


def reduce_masked(
    reduction: Callable[[Any], Any], values: Any, mask: Any
) -> tuple[Any, Any]:
    """Apply a reduction; if it goes over the steps, over those alone that count.

    Args:
      reduction: a function that `parse_reduction` has made. A user's own is given all
        steps; the mask is their attribute `_keras_mask`.
      values: an activation `[batch, steps, ...]`.
      mask: bool `[batch, steps]`, False for steps that do not count.

    Returns:
      The reduced values, and the mask of their steps, None if they have none.

    Raises:
      ConfigError: the reduction cannot leave steps out.
    """
    function = getattr(reduction, "func", reduction)
    if function not in reductions.REDUCTIONS.values():
        values._keras_mask = mask
        return reduction(values), None
    axes = reductions.axes_of(reduction, values)
    if _STEPS not in axes:
        return reduction(values), None if function is reductions.flatten else mask
    if function not in _OVER_STEPS:
        raise ConfigError(
            f"Keras masks steps of this activation, which {function.__name__} cannot"
            " leave out; reduce the steps first, such as by \"mean(axis='time')\", or"
            " tap a layer that pools them"
        )
    if not values.shape[1:2].is_compatible_with(mask.shape[1:]):
        raise ConfigError(
            f"Keras masks {mask.shape[1]} steps of this activation, which has"
            f" {values.shape[1]}; reduce it inside the model"
        )
    return reduction(_own_steps(values, mask)), None


def _own_steps(values: Any, mask: Any) -> Any:
    """Leave masked steps out: a ragged tensor `[batch, (steps), ...]`."""
    import tensorflow as tf

    mask = tf.ensure_shape(tf.cast(mask, tf.bool), [values.shape[0], None])
    lengths = tf.math.count_nonzero(mask, 1)
    kept = tf.boolean_mask(values, mask)
    return tf.RaggedTensor.from_row_lengths(kept, lengths, validate=False)
