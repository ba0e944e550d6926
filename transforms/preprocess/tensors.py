"""Preprocess numbers and text: cast, scale, reshape, pad, stack."""

from __future__ import annotations

from typing import Any, Literal

from transforms.lookup import ConfigError, nearest

Features = dict[str, Any]


def decode_raw(data: Any, *, dtype: str, shape: tuple[int, ...]) -> Any:
    """Decode little-endian bytes: string `[batch]` to `[batch, *shape]`.

    Args:
      data: one string an example, of exactly the bytes that `shape` needs.
      dtype: type of the values, such as `uint8`.
      shape: of one example.
    """
    import tensorflow as tf

    values = tf.io.decode_raw(data, tf.as_dtype(dtype))
    return tf.reshape(values, [tf.shape(data)[0], *shape])


def reshape(values: Any, *, shape: tuple[int, ...]) -> Any:
    """Reshape `[batch, ...]` to `[batch, *shape]`; one length may be -1."""
    import tensorflow as tf

    return tf.reshape(values, [tf.shape(values)[0], *shape])


def rescale(values: Any, *, scale: float, offset: float = 0.0) -> Any:
    """Compute `values * scale + offset` in float32."""
    import tensorflow as tf

    scaled = tf.cast(values, tf.float32) * scale
    return scaled + offset if offset else scaled


def cast(values: Any, *, dtype: str) -> Any:
    """Convert to another type, such as `float32`."""
    import tensorflow as tf

    return tf.cast(values, tf.as_dtype(dtype))


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
        `std` each example gets mean 0 and deviation 1, as
        `tf.image.per_image_standardization` does it.
      std: likewise.
    """
    import tensorflow as tf

    values = tf.cast(values, tf.float32)
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
    """Order axes anew, such as `[2, 0, 1]` for channels first.

    Args:
      values: `[batch, ...]`.
      order: axes of one example, counted from 0.
    """
    import tensorflow as tf

    return tf.transpose(values, [0, *(axis + 1 for axis in order)])


def one_hot(values: Any, *, depth: int) -> Any:
    """Turn whole numbers `[batch, ...]` into float32 `[batch, ..., depth]`.

    A number below 0 or from `depth` on makes its row a bad row.

    Args:
      values: from 0 to below `depth`.
      depth: how many classes there are.
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
      values: pixels.
      name: module of `keras.applications` whose `preprocess_input` it is, such as
        `resnet50` or `mobilenet_v2`.
    """
    import keras
    import tensorflow as tf

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
    return function(tf.cast(values, tf.float32), data_format="channels_last")


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
    """Fill the first axis of an example up to the least of some lengths that holds it.

    One length makes all rows alike. With several, rows of one length are computed
    together, so their number is that of the shapes that the model sees, and what comes
    out for a row still depends on that row alone.

    Args:
      features: of one example.
      feature: `[length, ...]`.
      lengths: to fill up to.
      value: to fill with.
      truncate: which end of a row is cut off that is longer than all lengths; without
        it that is a bad row.
      at: which end is filled up.
      mask: name of a new feature, bool `[length]`, true where the row's own values are.
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
        made = tf.pad(what, margins, constant_values=tf.cast(value, what.dtype))
        return tf.ensure_shape(made, [*shape, *what.shape[1:]])

    made = {feature: filled(values, value)}
    if mask:
        own = tf.ones([count], tf.int32)
        made[mask] = tf.cast(filled(own, 0), tf.bool)
    return {**features, **made}


def stack(features: Features, feature: str, *, of: tuple[str, ...]) -> Features:
    """Make one feature of several of the same shape: float32 `[batch, ..., len(of)]`.

    Args:
      features: of a batch.
      feature: name of the new one.
      of: what it is made of, in order.
    """
    import tensorflow as tf

    parts = [tf.cast(features[name], tf.float32) for name in of]
    return {**features, feature: tf.stack(parts, -1)}
