"""Which sampled rows are nearest to which, by cosine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.health.directions import cosine_blocks, unit_vectors

NEAREST = 5
"""Neighbours of a row that are shown and counted."""
_SHOWN = 4  # rows whose neighbours are shown
_ENOUGH = 4 * NEAREST  # rows with pictures, so that only such are shown


@dataclass(frozen=True, slots=True)
class Near:
    """A row, and the rows that are nearest to it.

    Attributes:
      row: index in the sample.
      others: indexes of its neighbours with their cosines, the nearest first.
    """

    row: int
    others: Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Who is near whom in one column.

    Attributes:
      shown: some rows with their neighbours.
      agreement: share of the nearest neighbours that have the label of their row; None
        without classes.
      chance: what that share would be if neighbours were drawn by chance.
    """

    shown: Sequence[Near]
    agreement: float | None
    chance: float


def find_neighbours(
    vectors: np.ndarray,
    rows: Sequence[int],
    labels: Sequence[str] | None,
    pictured: Collection[int],
) -> Neighbours:
    """Find the nearest neighbours of sampled rows, exactly.

    Args:
      vectors: finite, `[rows, width]`.
      rows: indexes of them in the sample.
      labels: of all sampled rows, if they are classes.
      pictured: rows of the sample that have pictures; only such are shown if there are
        enough of them.
    """
    units = unit_vectors(vectors).astype(np.float32)
    index = np.asarray(rows)
    seen = np.flatnonzero(np.isin(index, [*pictured]))
    able = seen if len(seen) >= _ENOUGH else np.arange(len(units))
    places, cosines = _nearest(units[able[:_SHOWN]], units[able])
    shown = [
        Near(
            int(index[able[i]]),
            [
                (int(index[able[j]]), float(cosine))
                for j, cosine in zip(places[i], cosines[i], strict=True)
                if j != i
            ][:NEAREST],
        )
        for i in range(len(places))
    ]
    agreement, chance = _agreement(units, [labels[i] for i in rows] if labels else [])
    return Neighbours(shown, agreement, chance)


def _nearest(some: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give places and cosines of the nearest rows, each row itself among them."""
    cosines = some @ units.T
    most = min(NEAREST + 1, len(units))
    places = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
    return places, np.take_along_axis(cosines, places, axis=1)


def _agreement(units: np.ndarray, labels: Sequence[str]) -> tuple[float | None, float]:
    """Count how often neighbours have one label: share found, and share by chance."""
    if len(labels) < 2:
        return None, 0.0
    kinds = np.unique(np.array(labels), return_inverse=True)[1]
    same = total = 0
    most = min(NEAREST, len(units) - 1)
    for at, cosines in cosine_blocks(units):
        near = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        same += int((kinds[near] == kinds[at][:, None]).sum())
        total += near.size
    counts = np.array([*Counter(labels).values()], np.float64)
    rest = len(labels) * (len(labels) - 1)
    return same / total, float((counts * (counts - 1)).sum() / rest)
