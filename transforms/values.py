"""Hold the values of a column, whether all rows have one length or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

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


def list_array(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    """Make an Arrow array of lists, one list for each row.

    Args:
      values: the values of all rows one after the other, `[n]`; for text an object
        array of bytes.
      lengths: number of values in each row, int `[rows]`.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    kind = pa.binary() if values.dtype == object else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))
