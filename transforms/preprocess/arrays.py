"""Decode arrays that NumPy has written: the bytes of `.npy` files."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from transforms.dtypes import DTYPES
from transforms.lookup import ConfigError, nearest

_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    # Other names of fields may be spelled in version 3, and numbers have no fields.
    (3, 0): np.lib.format.read_array_header_2_0,
}


def decode_npy(data: Any, *, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Decode the bytes of a `.npy` file: string `[]` to `[*shape]`.

    Any version of the format is read, C and Fortran order, little and big endian.

    Args:
      data: the bytes of one array.
      shape: shape of the array; -1 for a length that differs between examples.
      dtype: type of the result. Floats are rounded to it; whole numbers and flags that
        it does not hold, and floats for whole numbers, make a bad row.
    """
    import tensorflow as tf

    kinds = ("flag", "integer", "float")
    numbers = [name for name, one in DTYPES.items() if one.family in kinds]
    if dtype not in numbers:
        raise ConfigError(
            f"step decode_npy needs one of {', '.join(numbers)} as dtype, got {dtype!r}"
            f"{nearest(dtype, numbers)}"
        )

    def decode(data: Any) -> np.ndarray:  # bytes in a graph, an array outside of one
        data = data if isinstance(data, bytes) else data.item()
        return _array(data, shape, np.dtype(dtype))

    made = tf.numpy_function(decode, [data], dtype)
    return tf.ensure_shape(made, [None if n == -1 else n for n in shape])


def read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read up to the first value of an array.

    Returns:
      The array's shape, whether it is in Fortran order, and its type.

    Raises:
      ValueError: what is stored is no array, or one of pickled objects.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _READ_HEADER:
        raise ValueError(f"arrays must be of version 1 to 3, this is {version}")
    shape, fortran, dtype = _READ_HEADER[version](stream)
    if dtype.hasobject:
        raise ValueError("arrays of pickled objects are not read")
    return shape, fortran, dtype


def _array(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Decode an array that should be of a shape and type.

    Raises:
      ValueError: it is not, or is damaged.
    """
    stream = io.BytesIO(data)
    try:
        found, fortran, stored = read_npy_header(stream)
    except ValueError as error:
        raise ValueError(
            f"decode_npy needs the bytes of a .npy file: {error}"
        ) from None
    fits = [want in (-1, has) for want, has in zip(shape, found, strict=False)]
    if len(shape) != len(found) or not all(fits):
        raise ValueError(
            f"decode_npy needs arrays of shape {list(shape)}, got {list(found)}"
        )
    if stored.kind not in "biuf" or (stored.kind == "f" != dtype.kind):
        raise ValueError(f"decode_npy to {dtype} cannot take arrays of type {stored}")
    values = data[stream.tell() :]
    if len(values) != math.prod(found) * stored.itemsize:
        raise ValueError(
            f"decode_npy needs whole files, the array of shape {list(found)} and type"
            f" {stored} has {len(values)} bytes"
        )
    made = _converted(np.frombuffer(values, stored), dtype)
    return made.reshape(found, order="F" if fortran else "C")


def _converted(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        made = values.astype(dtype)
    if dtype.kind == "f":
        wrong = np.isinf(made) & ~np.isinf(values)
    else:
        wrong = (made.astype(values.dtype) != values) | ((made < 0) != (values < 0))
    if wrong.any():
        raise ValueError(
            f"decode_npy needs values that fit into {dtype}, got {values[wrong][0]}"
        )
    return made
