"""Hold the values of a column, whether all rows have one length or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

MOST_VALUES = 2**31 - 1
"""Of an Arrow array of lists, whose offsets are int32; of text, in bytes."""
Values: TypeAlias = np.ndarray | pa.Array
"""Values of a column: an array `[rows, *shape]`, or a list array where the length
differs between rows."""


def take_rows(values: Values, chosen: np.ndarray) -> Values:
    """Copy some rows of a column's values, by index."""
    if isinstance(values, pa.Array):
        return values.take(pa.array(chosen))
    picked: np.ndarray = values[chosen]
    return picked


def join_rows(parts: Sequence[Values]) -> Values:
    """Concatenate the values of one column."""
    if isinstance(parts[0], pa.Array):
        return pa.concat_arrays(parts)
    return np.concatenate(parts)


def matrix(column: pa.Array | pa.ChunkedArray, width: int) -> np.ndarray:
    """Give a column whose rows have one length, of numbers or flags, as an array.

    Args:
      column: single values, or lists of `width` elements; without nulls.
      width: values in a row.

    Returns:
      `[rows, width]`, in the column's own type; over the same memory where it can be.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = whole.flatten() if pa.types.is_list(whole.type) else whole
    found: np.ndarray = flat.to_numpy(zero_copy_only=False).reshape(len(whole), width)
    return found


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Tell which rows, `[rows, width]`, hold finite numbers only: bool `[rows]`."""
    found: np.ndarray = np.isfinite(values).all(axis=1)
    return found


def list_array(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """Make an Arrow array of lists, one list for each row.

    Args:
      values: the values of all rows one after the other, `[n]`; for text an object
        array of bytes.
      lengths: number of values in each row, int `[rows]`.

    Raises:
      RuntimeError: they are more than an Arrow array can hold.
    """
    flat = text_array(values) if values.dtype == object else pa.array(values)
    return pa.ListArray.from_arrays(offsets_of(lengths), flat)


def offsets_of(lengths: np.ndarray) -> pa.Array:
    """Give where each row's values begin, and where the last ones end: `[rows + 1]`.

    Args:
      lengths: number of values in each row, int `[rows]`.

    Raises:
      RuntimeError: they are more than an Arrow array can hold.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    total, longest = int(ends[-1]) if len(ends) else 0, int(np.max(lengths, initial=1))
    if total > MOST_VALUES:
        raise RuntimeError(
            f"a column must have at most {MOST_VALUES} values in a batch, got {total}"
            f" in {len(lengths)} rows; set model.batch_rows to"
            f" {max(MOST_VALUES // longest, 1)} or less, or reduce the column"
        )
    return pa.array(np.concatenate([[0], ends]).astype(np.int32))


def text_array(texts: np.ndarray) -> pa.Array:
    """Make an Arrow array of bytes.

    Args:
      texts: bytes, an object array `[n]`.

    Raises:
      RuntimeError: they are more than an Arrow array can hold.
    """
    made = pa.array(texts, pa.binary())
    if isinstance(made, pa.ChunkedArray):  # which Arrow makes where one is not enough
        raise RuntimeError(
            f"a column of text must have at most {MOST_VALUES} bytes in a batch, got"
            f" {sum(map(len, texts))} in {len(texts)} texts; set model.batch_rows to"
            " less, or leave the column out"
        )
    return made
