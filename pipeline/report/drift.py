"""How far the columns of a table lie from those of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from transforms.statistics.column import ColumnStatistics
from transforms.statistics.drift import drift
from transforms.table.columns import Column
from transforms.table.statistics import finished_statistics

_FARTHEST = 3


@dataclass(frozen=True, slots=True)
class Moved:
    """One column that two tables have.

    Attributes:
      name: of the column.
      distance: in standard deviations of the other table; None where columns cannot be
        compared.
      farthest: dimensions whose means have moved farthest, with by how many of the
        other's standard deviations.
      why_not: what keeps the columns from being compared; empty where nothing does.
    """

    name: str
    distance: float | None
    farthest: Sequence[tuple[int, float]] = ()
    why_not: str = ""


def compare(
    columns: Sequence[Column], statistics: Mapping[str, ColumnStatistics], against: str
) -> list[Moved]:
    """Compare columns with those of the same name in another table.

    Args:
      columns: of this table.
      statistics: of them, by name.
      against: URI of the other, finished table.

    Raises:
      ConfigError: it is no finished table.
    """
    other = finished_statistics(against, "--against")
    return [_moved(c.name, statistics[c.name], other.get(c.name)) for c in columns]


def _moved(name: str, now: ColumnStatistics, before: ColumnStatistics | None) -> Moved:
    if before is None:
        return Moved(name, None, why_not="the other table has no such column")
    if now.moments is None or before.moments is None:
        return Moved(name, None, why_not="rows differ in length, or are too wide")
    if now.width != before.width:
        return Moved(name, None, why_not=f"the other one has {before.width} dimensions")
    if not now.moments.count or not before.moments.count:
        return Moved(name, None, why_not="one of them has no finite rows")
    std = before.moments.std
    apart = now.moments.mean - before.moments.mean
    steps = np.where(std > 0, apart / np.where(std > 0, std, 1.0), np.sign(apart))
    first = np.argsort(-np.abs(steps), kind="stable")[:_FARTHEST]
    farthest = [(int(i), float(steps[i])) for i in first if steps[i]]
    return Moved(name, drift(now.moments, before.moments), farthest)
