"""Find rows whose activations are NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from transforms.batch import Batch
from transforms.errors.failure import Failure
from transforms.values import Values, take_rows


def non_finite_rows(values: Mapping[str, Values]) -> dict[str, np.ndarray]:
    """Mark the rows of each column that hold NaN or infinite values.

    Args:
      values: of the activations, by column.

    Returns:
      `{column: bool [rows]}`, only of columns that have such rows.

    >>> non_finite_rows({"a": np.array([[1.0], [np.nan]]), "b": np.array([1, 2])})
    {'a': array([False,  True])}
    """
    marked = {name: _marks(column) for name, column in values.items()}
    return {name: rows for name, rows in marked.items() if rows.any()}


def set_apart(
    batch: Batch,
    values: Mapping[str, Values],
    marked: Mapping[str, np.ndarray],
    on_failure: Callable[[Failure], None],
) -> tuple[Batch, dict[str, Values]]:
    """Leave marked rows out, and report each.

    Args:
      batch: the rows.
      values: of the activations, by column.
      marked: what `non_finite_rows` found.
      on_failure: called with each row that is left out.
    """
    bad = np.logical_or.reduce(list(marked.values()))
    for row in np.flatnonzero(bad):
        columns = ", ".join(name for name, rows in marked.items() if rows[row])
        error = FloatingPointError(
            f"activations must be finite, column {columns} has NaN or infinite values"
        )
        at, passed = int(batch.positions[row]), batch.passed_of(int(row))
        on_failure(Failure.of(at, "infer", error, passed))
    kept = np.flatnonzero(~bad)
    return batch.take(kept), {n: take_rows(v, kept) for n, v in values.items()}


def _marks(values: Values) -> np.ndarray:
    """Mark rows: bool [rows]."""
    if isinstance(values, pa.Array):
        flat = values.values.to_numpy(zero_copy_only=False)
        rows: np.ndarray = np.zeros(len(values), bool)
        if flat.dtype.kind == "f" and not np.isfinite(flat).all():
            ends = values.offsets.to_numpy()[1:]
            rows[np.searchsorted(ends, np.flatnonzero(~np.isfinite(flat)), "right")] = 1
        return rows
    if values.dtype.kind != "f":
        return np.zeros(len(values), bool)
    of_a_row = tuple(range(1, values.ndim))
    return np.asarray(~np.isfinite(values).all(axis=of_a_row))
