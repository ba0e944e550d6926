"""How far a column has moved from another of the same dimensions."""

from __future__ import annotations

import numpy as np

from transforms.statistics.moments import Moments

_FEW = 16
"""Rows: a deviation that rests on no more is no unit, such as that of a unit of a
network that fires in one row of a thousand."""


def drift(now: Moments, before: Moments) -> float:
    """Measure how far values have moved, in standard deviations of before.

    The root mean square over dimensions of the distance between two normal
    distributions (2-Wasserstein), each in standard deviations of `before`; of both,
    where those of `before` rest on a few rows that lie far out. What chance alone adds
    to its square in so many rows, if nothing has moved, is taken off. Dimensions that
    had one value count only if they have moved: then as one deviation, and as less if
    they have done so in a few rows.

    Args:
      now: of the column.
      before: of what it is compared with, of as many dimensions.

    Returns:
      0 if nothing has moved; infinite if one of them has no rows.
    """
    if not now.count or not before.count:
        return float("inf")
    std = before.std
    with np.errstate(over="ignore", invalid="ignore"):  # of float64 beyond 1e154
        far_now, far_before = _farthest(now), _farthest(before)
        both = np.sqrt((np.square(now.std) + np.square(std)) / 2)
        unit = np.where(far_before * _FEW > before.count, both, std)
        scale = np.where(std > 0, unit, 1.0)
        moved = np.square((now.mean - before.mean) / scale)
        moved += np.square((now.std - std) / scale)
        moved -= _by_chance(now, before, scale)
        alone = far_now / now.count  # 1 if it is one row that has moved
        still = (now.mean == before.mean) & (now.std == 0)
        squares = np.where(std > 0, moved, np.where(still, 0.0, 1.0 - alone))
    found = float(squares.mean())
    return float(np.sqrt(max(found, 0.0))) if np.isfinite(found) else float("inf")


def _farthest(moments: Moments) -> np.ndarray:
    """Give the greatest squared distance from the mean, in variances; 0 without any."""
    far = np.maximum(moments.most - moments.mean, moments.mean - moments.least)
    std = moments.std
    found: np.ndarray = np.square(far / np.where(std > 0, std, 1.0)) * (std > 0)
    return found


def _by_chance(now: Moments, before: Moments, scale: np.ndarray) -> np.ndarray:
    """Give what chance adds to squared distances, in squares of a scale.

    A mean of `n` rows has the variance of one of them over `n`; a variance has that of
    squares: of normal values twice the variance squared, of others it is taken from how
    far the farthest row lies beyond where it would lie among so many normal ones.
    """
    spread = now.std + before.std
    share = np.where(spread > 0, spread, 1.0)
    found = np.zeros(before.width)
    for one in (now, before):
        squares = np.maximum(_farthest(one) - 2 * np.log(one.count), 2.0)
        by_spread = np.square(one.std / share) * squares
        found += np.square(one.std / scale) * (1.0 + by_spread) / one.count
    return found
