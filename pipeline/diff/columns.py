"""A column of two tables -> numbers that say how far it has moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.diff.sample import Samples, halves, vectors
from pipeline.health.classifier import classifier_auc
from pipeline.health.pairs import FEWEST, cka, cosines, moved, neighbour_overlap
from transforms.column_names import KEY
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.drift import drift
from transforms.statistics.sample import WIDEST
from transforms.table.columns import Column
from transforms.values import finite_rows

STILL = 0.02
"""Of a column's spread: a row that moved no further is where it was."""
_MOST_MOVED = 5


@dataclass(frozen=True, slots=True)
class MovedRow:
    """A row that moved far.

    Attributes:
      key: as text.
      distance: that it moved, in units of the spread of A; None of other widths.
      cosine: between its two vectors; None of other widths.
      overlap: the share of its neighbours that it kept; None where there are too few
        rows, or of single numbers.
    """

    key: str
    distance: float | None
    cosine: float | None
    overlap: float | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the rows that both samples have say of a column.

    Numbers are None where they are not defined: of other widths `equal` to `distance`,
    of single numbers cosines and `overlap`, of fewer than `FEWEST` rows all but `equal`
    to `distance`.

    Attributes:
      rows: that are compared: those that are finite in both tables.
      not_finite: rows that are left out, not being so.
      equal: share of rows that hold the same values.
      still: share of rows that moved no further than `STILL`.
      distance: that rows moved (root mean square), in units of the spread of A.
      cosine: median of the cosines between both vectors of a row.
      low_cosine: their hundredth part, from below.
      overlap: the share of its ten neighbours that a row keeps, on average.
      cka: linear centred kernel alignment, debiased.
      moved: the rows that moved most; where most rows moved, those that kept the fewest
        of their neighbours.
    """

    rows: int = 0
    not_finite: int = 0
    equal: float | None = None
    still: float | None = None
    distance: float | None = None
    cosine: float | None = None
    low_cosine: float | None = None
    overlap: float | None = None
    cka: float | None = None
    moved: tuple[MovedRow, ...] = ()


@dataclass(frozen=True, slots=True)
class ColumnDiff:
    """How a column of numbers differs between two tables.

    Attributes:
      name: of the column.
      widths: values in a row, in A and in B; None where rows differ.
      made_alike: whether model, tap and preprocessing are the same, by their hashes.
      norms: mean length of the vectors of all rows, in A and in B; None without any.
      drift: how far all rows moved, as the gate of that name has it; None where widths
        differ or are too large, or a table has no finite row.
      auc: how well a classifier tells rows of A and B apart; None where widths differ,
        or there are too few rows.
      pairs: of the rows that both samples have; none of columns that samples do not
        have: wider than 4,096 values, or of rows of several lengths.
    """

    name: str
    widths: tuple[int | None, int | None]
    made_alike: bool
    norms: tuple[float | None, float | None]
    drift: float | None = None
    auc: float | None = None
    pairs: Pairs = Pairs()


def is_sampled(a: Column, b: Column) -> bool:
    """Whether both samples hold a column of numbers."""
    widths = (a.width, b.width)
    return all(width is not None and 0 < width <= WIDEST for width in widths)


def compare_column(
    columns: tuple[Column, Column],
    statistics: tuple[ColumnStatistics, ColumnStatistics],
    samples: Samples | None,
) -> ColumnDiff:
    """Compare a column of numbers.

    Args:
      columns: it, in A and in B.
      statistics: of all its rows.
      samples: that have it; None if they do not.
    """
    a, b = columns
    ours, theirs = statistics
    alike = a.width == b.width
    return ColumnDiff(
        name=a.name,
        widths=(a.width, b.width),
        made_alike=bool(a.made_by) and a.made_by == b.made_by,
        norms=(_norm(ours), _norm(theirs)),
        drift=_drift(ours, theirs) if alike else None,
        auc=_auc(samples, a, b) if samples and alike else None,
        pairs=compare_pairs(samples, a, b) if samples else Pairs(),
    )


def _norm(column: ColumnStatistics) -> float | None:
    """Give the mean length of rows that are not zero."""
    lengths = column.norms.moments
    return float(lengths.mean[0]) if lengths.count else None


def _drift(ours: ColumnStatistics, theirs: ColumnStatistics) -> float | None:
    """Give how far B moved from A; None where there are no moments, or no rows."""
    if ours.moments is None or theirs.moments is None:
        return None
    return _finite(drift(theirs.moments, ours.moments))


def _auc(samples: Samples, a: Column, b: Column) -> float | None:
    ours, theirs = halves(samples, a, b)
    if min(len(ours), len(theirs)) < FEWEST:
        return None
    return classifier_auc(ours, theirs)


def compare_pairs(samples: Samples, a: Column, b: Column) -> Pairs:
    """Compare the vectors of the rows that both samples have."""
    ours, theirs = vectors(samples.both_a, a), vectors(samples.both_b, b)
    sound = finite_rows(ours) & finite_rows(theirs)
    ours, theirs, rows = ours[sound], theirs[sound], int(sound.sum())
    alike = rows > 0 and a.width == b.width
    are_vectors = a.width != 1 and b.width != 1
    same = (ours == theirs).all(axis=1) if alike else None
    far = moved(ours, theirs) if alike else None
    angles = cosines(ours, theirs) if alike and are_vectors else None
    enough = rows >= FEWEST
    kept = neighbour_overlap(ours, theirs) if enough and are_vectors else None
    each = far, angles, kept
    order = _by_movement(*each)
    keys = samples.both_a[KEY].filter(sound).take(pa.array(order)).to_pylist()
    return Pairs(
        rows=rows,
        not_finite=len(sound) - rows,
        equal=_number(np.mean, same),
        still=_number(lambda found: np.mean(found <= STILL), far),
        distance=_number(lambda found: np.sqrt(np.square(found).mean()), far),
        cosine=_number(np.median, angles),
        low_cosine=_number(lambda found: np.quantile(found, 0.01), angles),
        overlap=_number(np.mean, kept),
        cka=_finite(cka(ours, theirs)) if enough else None,
        moved=tuple(
            MovedRow(str(key), *(None if v is None else _finite(v[row]) for v in each))
            for key, row in zip(keys, order, strict=True)
        ),
    )


def _by_movement(
    far: np.ndarray | None, angles: np.ndarray | None, kept: np.ndarray | None
) -> np.ndarray:
    """Give the rows that moved most, the first first; none that did not move."""
    if far is not None and (kept is None or (far <= STILL).mean() >= 0.5):
        order = np.argsort(-far, kind="stable")
        return order[far[order] > 0][:_MOST_MOVED]
    if kept is None:
        return np.zeros(0, np.int64)
    lasts = (angles, kept) if angles is not None else (kept,)
    order = np.lexsort(lasts)
    return order[kept[order] < 1][:_MOST_MOVED]


def _number(
    summary: Callable[[np.ndarray], Any], values: np.ndarray | None
) -> float | None:
    """Give a number of many values, if there are any."""
    return None if values is None else _finite(summary(values))


def _finite(value: float) -> float | None:
    """Give a number that JSON has."""
    return float(value) if np.isfinite(value) else None
