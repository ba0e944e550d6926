"""Measure how far a column lies from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.table.columns import Column

TOLERANCES = {
    "float32": (1e-2, 1e-4, 0.0),
    "float16": (5e-2, 1e-3, 0.05),
    "bfloat16": (2e-1, 1e-2, 0.05),
}
"""Largest relative deviation, largest cosine deviation, and largest share of whole
numbers that differ (such as the place of a maximum), by the shortest type on the way
from model to column. Those of float32 leave room for the TF32 of GPUs; on CPUs
deviations of 1e-6 are usual (docs/models.md)."""
_TYPICAL = 1e-3  # a value below this share of usual ones counts as next to nothing
_ROUNDING = 1e-4  # least typical value, as a share of the largest unreduced value


@dataclass(frozen=True, slots=True)
class ColumnParity:
    """How far one column lies from the reference, over all rows drawn.

    Attributes:
      precision: the shortest type on the way from model to column; it decides which
        tolerance holds.
      max_abs: largest absolute deviation; None if the column holds no floating-point
        numbers.
      relative: largest deviation of a value as a share of that value plus a typical
        value of the column, so that values near zero do not count too much; None if
        the column holds no floating-point numbers.
      cosine: largest of 1 - cos between stored and expected vector of a row; None for
        scalars.
      mismatched: how many values should be equal and are not: whole numbers, text,
        keys, kept features, shapes, and numbers that are finite on one side only.
      passed: whether all of this lies within the tolerance.
    """

    precision: str
    max_abs: float | None
    relative: float | None
    cosine: float | None
    mismatched: int
    passed: bool

    @property
    def has_error(self) -> bool:
        """Whether the column may deviate at all; if not, it must be equal."""
        return self.relative is not None or self.precision != "float32"


class Tally:
    """Collects one column of the drawn rows, and measures how far it deviates.

    Attributes:
      column: the column.
    """

    def __init__(self, column: Column) -> None:
        self.column = column
        self._kinds = {column.dtype}
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        self._misshapen = 0
        self._unequal_nulls = 0

    def add(self, stored: Any, expected: Any, shape: list[int] | None) -> None:
        """Add a row.

        Args:
          stored: the value in the table.
          expected: the value that the reference has computed.
          shape: the value's shape as the table holds it; None if it is in the schema.
        """
        column = self.column
        if stored is None or expected is None:  # a null of a kept feature
            self._unequal_nulls += stored is not expected
            return
        wanted = np.asarray(expected)
        fits = shape is None or tuple(shape) == wanted.shape
        if column.width is not None:
            fits = column.shape == wanted.shape
        found = np.asarray(stored if isinstance(stored, list) else [stored])
        if not fits or len(found) != wanted.size:
            self._misshapen += 1
            return
        self._kinds.add(wanted.dtype.name)
        wanted = wanted.reshape(-1)
        if column.dtype == "string":
            wanted = np.array([_plain(value) for value in wanted.tolist()])
        elif column.dtype == "bytes":
            found, wanted = found.astype(object), wanted.astype(object)
        self._rows.append((found, wanted))

    def result(self, precision: str, magnitude: float = 0.0) -> ColumnParity:
        """Compare all rows that were added.

        Args:
          precision: the shortest type in which the model computes.
          magnitude: the largest value before reductions. Where reductions cancel large
            values out, the float error of these values is what is left.
        """
        kinds = {*self._kinds, precision if self.column.role == "feature" else ""}
        kind = next((k for k in ("bfloat16", "float16") if k in kinds), "float32")
        if self.column.family == "float":
            return self._deviations(kind, magnitude)
        unequal = sum(int((a != b).sum()) for a, b in self._rows)
        unequal += self._misshapen + self._unequal_nulls
        values = sum(len(a) for a, _ in self._rows)
        whole = self.column.family != "text"
        allowed = TOLERANCES[kind][2] * values if whole else 0
        fits = self._misshapen == self._unequal_nulls == 0
        passed = fits and unequal <= allowed
        return ColumnParity(kind, None, None, None, unequal, passed)

    def _deviations(self, kind: str, magnitude: float) -> ColumnParity:
        mismatched = self._misshapen + self._unequal_nulls
        pairs = []
        for stored, expected in self._rows:
            one, other = stored.astype(np.float64), expected.astype(np.float64)
            finite = np.isfinite(one) & np.isfinite(other)
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            mismatched += int((~finite & ~same).sum())
            pairs.append((np.where(finite, one, 0), np.where(finite, other, 0)))
        typical = _typical([other for _, other in pairs])
        typical = max(typical, _ROUNDING * magnitude)
        max_abs = relative = cosine = 0.0
        for one, other in pairs:
            apart = np.abs(one / 2 - other / 2)  # of halves, which cannot overflow
            scale = np.abs(other) / 2 + typical / 2
            max_abs = max(max_abs, 2 * float(apart.max(initial=0)))
            relative = max(relative, float((apart / scale).max(initial=0)))
            cosine = max(cosine, _cosine_deviation(one, other, typical))
        relative_most, cosine_most, _ = TOLERANCES[kind]
        within = relative <= relative_most and cosine <= cosine_most
        largest = float(np.finfo(np.float64).max)
        return ColumnParity(
            precision=kind,
            max_abs=min(max_abs, largest),
            relative=min(relative, largest),
            cosine=cosine if self.column.width != 1 else None,
            mismatched=mismatched,
            passed=mismatched == 0 and within,
        )


def _typical(rows: Sequence[np.ndarray]) -> float:
    """Give the median size of values other than zero, but not much less than the RMS.

    The limit keeps the float error of large values from counting against tiny medians.
    """
    values = np.abs(np.concatenate([row[row != 0] for row in rows] or [np.zeros(0)]))
    if not len(values):
        return float(np.finfo(np.float32).tiny)
    largest = float(values.max())
    spread = largest * float(np.sqrt(np.mean((values / largest) ** 2)))
    return max(float(np.median(values)), _TYPICAL * spread)


def _cosine_deviation(one: np.ndarray, other: np.ndarray, typical: float) -> float:
    """Give 1 - cos of two vectors; 0 if both are tiny compared with a typical value."""
    largest = max(np.abs(one).max(initial=0), np.abs(other).max(initial=0))
    if len(one) < 2 or largest <= _TYPICAL * typical:
        return 0.0
    one, other = one / largest, other / largest
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return max(0.0, 1.0 - float(one @ other) / lengths) if lengths else 1.0


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
