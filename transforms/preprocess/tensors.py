"""Preprocess numbers and text: cast, scale, reshape, pad, stack."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from transforms import casts
from transforms.dtypes import DTYPES, holds
from transforms.lookup import ConfigError, nearest

Features = dict[str, Any]


def decode_raw(data: Any, *, dtype: str, shape: tuple[int, ...]) -> Any:
    """Decode little-endian bytes: string `[batch]` to `[batch, *shape]`.

    Args:
      data: one string for each example, of exactly the bytes that `shape` needs.
      dtype: type of the values, such as `uint8`.
      shape: shape of one example.
    """
    import tensorflow as tf

    values = tf.io.decode_raw(data, tf.as_dtype(dtype))
    return tf.reshape(values, [tf.shape(data)[0], *shape])


def reshape(values: Any, *, shape: tuple[int, ...]) -> Any:
    """Reshape `[batch, ...]` to `[batch, *shape]`; one length may be -1, the rest."""
    import tensorflow as tf

    return tf.reshape(values, [tf.shape(values)[0], *shape])


def rescale(values: Any, *, scale: float, offset: float = 0.0) -> Any:
    """Compute `values * scale + offset` in float32."""
    scaled = casts.cast(values, "float32", "what step rescale takes") * scale
    return scaled + offset if offset else scaled


def cast(features: Features, feature: str, *, dtype: str) -> Features:
    """Convert to another type by the rule of `transforms.casts`.

    Args:
      features: features of a batch.
      feature: name of the feature to convert.
      dtype: type to convert to, such as `float32`.
    """
    made = casts.cast(features[feature], dtype, f"feature {feature!r}")
    return {**features, feature: made}


def standardize(
    values: Any,
    *,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
) -> Any:
    """Compute `(values - mean) / std` in float32.

    Args:
      values: `[batch, ...]`.
      mean: one number, or one for each channel (the last axis). Without `mean` and
        `std` each example gets mean 0 and standard deviation 1, as
        `tf.image.per_image_standardization` does it.
      std: one number, or one for each channel; required if `mean` is given.
    """
    import tensorflow as tf

    values = casts.cast(values, "float32", "what step standardize takes")
    if (mean is None) != (std is None):
        raise ConfigError("step standardize needs both mean and std, or none of them")
    if mean is not None:
        return (values - tf.constant(mean)) / tf.constant(std)
    axes = list(range(1, values.shape.rank))
    count = tf.cast(tf.reduce_prod(tf.shape(values)[1:]), tf.float32)
    deviation = tf.math.reduce_std(values, axes, keepdims=True)
    middle = tf.reduce_mean(values, axes, keepdims=True)
    return (values - middle) / tf.maximum(deviation, tf.math.rsqrt(count))


def reverse_channels(values: Any) -> Any:
    """Turn RGB into BGR and back: the last axis of `[batch, ...]` in reverse."""
    return values[..., ::-1]


def transpose(values: Any, *, order: tuple[int, ...]) -> Any:
    """Reorder the axes of examples, such as by `[2, 0, 1]` for channels first.

    Args:
      values: `[batch, ...]`.
      order: the axes of one example in their new order, counted from 0.
    """
    import tensorflow as tf

    return tf.transpose(values, [0, *(axis + 1 for axis in order)])


def one_hot(values: Any, *, depth: int) -> Any:
    """Turn whole numbers `[batch, ...]` into float32 `[batch, ..., depth]`.

    A number below 0, or not below `depth`, makes its row a bad row.

    Args:
      values: whole numbers from 0 to below `depth`.
      depth: number of classes.
    """
    import tensorflow as tf

    inside = tf.debugging.Assert(
        tf.reduce_all((values >= 0) & (values < depth)),
        ["one_hot needs numbers from 0 to below depth", values],
    )
    with tf.control_dependencies([inside]):
        return tf.one_hot(values, depth)


def keras_application(values: Any, *, name: str) -> Any:
    """Preprocess images `[batch, h, w, 3]`, RGB from 0 to 255, for a well-known model.

    Args:
      values: the images.
      name: module of `keras.applications` whose `preprocess_input` is applied, such as
        `resnet50` or `mobilenet_v2`.
    """
    import keras

    module = getattr(keras.applications, name, None)
    function = getattr(module, "preprocess_input", None)
    if function is None:
        known = [
            one
            for one in dir(keras.applications)
            if hasattr(getattr(keras.applications, one), "preprocess_input")
        ]
        raise ConfigError(
            f"step keras_application must name a module of keras.applications, got"
            f" {name!r}{nearest(name, known)} (known: {', '.join(known)})"
        )
    values = casts.cast(values, "float32", "what step keras_application takes")
    return function(values, data_format="channels_last")


def fill(values: Any, *, value: int | float | str, nan: bool = False) -> Any:
    """Put a value where rows, or elements of their lists, have none.

    The reader does so where this is the first step for the feature, since tensors have
    no place for nulls; this step puts it where NaN stands.

    Args:
      values: `[batch, ...]`.
      value: what to put there, of the type of the feature.
      nan: whether NaN is no value, too.
    """
    import tensorflow as tf

    made = _fitting_value("fill", value, values.dtype)
    if nan and values.dtype.is_floating:
        return tf.where(tf.math.is_nan(values), made, values)
    return values


def lower(text: Any) -> Any:
    """Turn UTF-8 text `[batch, ...]` into lower case."""
    import tensorflow as tf

    return tf.strings.lower(text, encoding="utf-8")


def strip(text: Any) -> Any:
    """Cut white space off both ends of text `[batch, ...]`."""
    import tensorflow as tf

    return tf.strings.strip(text)


def pad(
    features: Features,
    feature: str,
    *,
    lengths: tuple[int, ...],
    value: float | str = 0,
    truncate: Literal["start", "end"] | None = None,
    at: Literal["start", "end"] = "end",
    mask: str | None = None,
) -> Features:
    """Fill the first axis of an example up to the smallest of `lengths` that holds it.

    With one length all rows get the same shape. With several, rows that are filled up
    to the same length go through the model together: it sees as many shapes as there
    are lengths, and a row's values still depend on that row alone.

    Args:
      features: features of one example.
      feature: name of the feature to fill up, `[length, ...]`.
      lengths: the lengths to fill up to.
      value: value to fill with; for text, 0 means empty text.
      truncate: which end to cut off from a row that is longer than all lengths. If
        None, such a row is a bad row.
      at: which end to fill up.
      mask: name of a new feature, bool `[length]`, that is true where the row's own
        values are. If None, there is no such feature.
    """
    import tensorflow as tf

    values, longest = features[feature], max(lengths)
    if values.dtype == tf.string and value == 0:
        value = ""
    if truncate:
        kept = slice(None, longest) if truncate == "end" else slice(-longest, None)
        values = values[kept]
    count = tf.shape(values)[0]
    fits = tf.debugging.Assert(
        count <= longest, ["pad: the row is longer than all lengths", count, longest]
    )
    with tf.control_dependencies([fits]):
        known = tf.constant(sorted(lengths))
        missing = tf.reduce_min(tf.boolean_mask(known, known >= count)) - count
    margin = [missing, 0] if at == "start" else [0, missing]
    shape = [longest if len(lengths) == 1 else None]

    def filled(what: Any, value: Any) -> Any:
        margins = [margin, *([0, 0] for _ in what.shape[1:])]
        put = _fitting_value("pad", value, what.dtype)
        made = tf.pad(what, margins, constant_values=put)
        return tf.ensure_shape(made, [*shape, *what.shape[1:]])

    made = {feature: filled(values, value)}
    if mask:
        own = tf.ones([count], tf.int32)
        made[mask] = tf.cast(filled(own, 0), tf.bool)
    return {**features, **made}


def _fitting_value(step: str, value: float | str, dtype: Any) -> Any:
    """Make the value that a step puts into a feature.

    Raises:
      ConfigError: the type of the feature cannot hold it.
    """
    import tensorflow as tf

    if dtype.name in DTYPES and not holds(dtype.name, value):
        raise ConfigError(
            f"step {step} must fill up with a value that fits into {dtype.name}, the"
            f" type of its feature, got {value!r}; cast the feature before, or give"
            " another value"
        )
    if isinstance(value, str):
        return tf.constant(value)
    return tf.constant(np.asarray(value).astype(dtype.as_numpy_dtype))


def stack(features: Features, feature: str, *, of: tuple[str, ...]) -> Features:
    """Stack several features of one shape into one: float32 `[batch, ..., len(of)]`.

    Args:
      features: features of a batch.
      feature: name of the new feature.
      of: names of the features to stack along a new last axis, in order.
    """
    import tensorflow as tf

    parts = [casts.cast(features[n], "float32", f"feature {n!r}") for n in of]
    return {**features, feature: tf.stack(parts, -1)}
