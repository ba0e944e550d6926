"""Cast numbers to another type: the one rule of casts, as operations of a graph.

Floats become whole numbers by rounding half to even, and end where the type ends, as
pixels do. Nothing else changes a value beyond rounding: a whole number stays what it
is, a flag is 0 or 1, and a finite number stays finite. What cannot be had so makes its
row a bad row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transforms.lookup import ConfigError


def cast(values: Any, dtype: str, what: str) -> Any:
    """Cast a tensor, ragged or not, of any shape.

    Args:
      values: numbers or flags.
      dtype: TensorFlow type to cast to, such as `uint8`.
      what: what the values are, for errors, such as `feature 'image'`.

    Returns:
      The tensor. Where `fitting` refuses a value, running it raises an
      InvalidArgumentError.

    Raises:
      ConfigError: the values are text.

    >>> cast(np.array([-3.0, 0.5, 1.5, 300.0]), "uint8", "feature 'x'").numpy()
    array([  0,   0,   2, 255], dtype=uint8)
    """
    import tensorflow as tf

    if isinstance(values, tf.RaggedTensor):
        return values.with_flat_values(cast(values.flat_values, dtype, what))
    values = tf.convert_to_tensor(values)
    wanted = tf.as_dtype(dtype)
    if values.dtype == tf.string != wanted:
        raise ConfigError(
            f"{what} must be numbers to become {dtype}, got text; give its type in"
            " source.features, and of CSV files with decimal commas source.decimal"
        )
    values = fitting(values, dtype, what)
    if values.dtype.is_floating and wanted.is_integer:
        return _rounded(values, wanted)
    return tf.cast(values, wanted)


def fitting(values: Any, dtype: str, what: str) -> Any:
    """Give a tensor as it is, if another type can hold its values.

    Whole numbers and flags must be among those of the type, NaN and infinite values
    must not become whole numbers, nor finite values infinite ones.

    Args:
      values: as `cast` takes them.
      dtype: TensorFlow type that must be able to hold them.
      what: what the values are, for errors.

    Returns:
      The tensor; running it raises an InvalidArgumentError where a value does not fit.
    """
    import tensorflow as tf

    values = tf.convert_to_tensor(values)
    wrong = _misfits(values, tf.as_dtype(dtype))
    if wrong is None:
        return values

    def refuse() -> Any:
        first = tf.reshape(values, [-1])[tf.argmax(tf.reshape(wrong, [-1]))]
        told = [f"{what} must hold values that fit into {dtype}, got", first]
        return tf.raw_ops.Assert(condition=False, data=told)

    checked = tf.cond(tf.reduce_any(wrong), refuse, tf.no_op)
    with tf.control_dependencies([checked] if checked is not None else []):
        return tf.identity(values)


def _misfits(values: Any, wanted: Any) -> Any:
    """Mark the values that do not fit; None if all values of their type do."""
    import tensorflow as tf

    found = values.dtype
    if found.is_bool or not (found.is_integer or found.is_floating):
        return None
    if wanted.is_bool:
        return (values != tf.zeros([], found)) & (values != tf.ones([], found))
    if wanted.is_integer:
        if found.is_floating:
            return ~tf.math.is_finite(values)
        low, high = max(found.min, wanted.min), min(found.max, wanted.max)
        if (low, high) == (found.min, found.max):
            return None
        return (values < tf.constant(low, found)) | (values > tf.constant(high, found))
    if not wanted.is_floating or float(found.max) <= float(wanted.max):
        return None
    too_large = tf.math.is_inf(tf.cast(values, wanted))
    return too_large & tf.math.is_finite(values) if found.is_floating else too_large


def _rounded(values: Any, wanted: Any) -> Any:
    """Cast finite floats to the nearest whole numbers that a type has."""
    import tensorflow as tf

    if values.dtype.size < 4:
        values = tf.cast(values, tf.float32)
    kind = values.dtype.as_numpy_dtype
    low, high = kind(wanted.min), kind(wanted.max)
    if int(high) > wanted.max:  # there is no such float: take the one before it
        high = np.nextafter(high, kind(0))
    inside = tf.clip_by_value(tf.round(values), low, high)
    made = tf.cast(inside, wanted)
    if int(high) == wanted.max:
        return made
    return tf.where(values > high, tf.constant(wanted.max, wanted), made)
