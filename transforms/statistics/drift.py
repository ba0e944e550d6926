"""How far a column has moved from another of the same dimensions."""

from __future__ import annotations

import numpy as np

from transforms.statistics.moments import Moments


def drift(now: Moments, before: Moments) -> float:
    """Measure how far values have moved, in standard deviations of before.

    The root mean square over dimensions of the distance between two normal
    distributions (2-Wasserstein), each in standard deviations of `before`. What chance
    alone adds to its square in so many rows, if nothing has moved, is taken off.
    Dimensions that had one value count only if they have moved: then as one deviation.

    Args:
      now: of the column.
      before: of what it is compared with, of as many dimensions.

    Returns:
      0 if nothing has moved; infinite if one of them has no rows.
    """
    if not now.count or not before.count:
        return float("inf")
    std = before.std
    varies = std > 0
    scale = np.where(varies, std, 1.0)
    means = (now.mean - before.mean) / scale
    spreads = (now.std - std) / scale
    ratio = (now.std / scale) ** 2 / now.count + 1.0 / before.count
    by_chance = 1.5 * ratio  # of a mean the variance is that of one row over the rows,
    # of a standard deviation half of that
    moved = means**2 + spreads**2 - by_chance
    still = (now.mean == before.mean) & (now.std == 0)
    squares = np.where(varies, moved, np.where(still, 0.0, 1.0))
    return float(np.sqrt(max(float(squares.mean()), 0.0)))
