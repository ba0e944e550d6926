"""Compare two sets of vectors of the same rows: how far rows moved, and among whom."""

from __future__ import annotations

import numpy as np

from pipeline.health.directions import cosine_blocks, unit_vectors

NEIGHBOURS = 10
"""Of each row that are compared."""
FEWEST = 32
"""Rows by which two sets of vectors can be compared."""
_DIGITS = 9  # what is the same is 1, and not a rounding less
_TIED = 1e-7  # cosines that stored float32 cannot tell apart


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Give the cosine between the two vectors of each row, float64 `[rows]`.

    Two zero vectors have 1, one of them and any other has 0.

    Args:
      a: finite, `[rows, width]`.
      b: of the same rows and width.
    """
    unit_a, unit_b = unit_vectors(a), unit_vectors(b)
    found: np.ndarray = np.einsum("ij,ij->i", unit_a, unit_b).clip(-1, 1)
    return np.where((unit_a == unit_b).all(axis=1), 1.0, found)


def moved(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Give how far each row moved, float64 `[rows]`.

    The unit is how far rows of `a` lie from their mean (root mean square). Where all of
    them are alike, rows that moved at all have infinity.

    Args:
      a: finite, `[rows, width]`.
      b: of the same rows and width.
    """
    before, after = a.astype(np.float64), b.astype(np.float64)
    most = max(np.abs(before).max(initial=0.0), np.abs(after).max(initial=0.0)) or 1.0
    before, after = before / most, after / most  # so that squares are safe
    apart: np.ndarray = np.linalg.norm(after - before, axis=1)
    centred = before - before.mean(axis=0)
    spread = float(np.sqrt(np.square(centred).sum(axis=1).mean()))
    alike = bool((before == before[0]).all()) or not spread > 0
    return np.where(apart > 0, np.inf, 0.0) if alike else apart / spread


def neighbour_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Give the share of each row's neighbours that it keeps, float64 `[rows]`.

    Neighbours are the `NEIGHBOURS` other rows of the greatest cosine. Where several
    rows tie for the last places each counts with its chance of one, so that repeated
    vectors neither help nor harm: the share is then the cosine between both lists of
    such weights. By chance alone it is `NEIGHBOURS / (rows - 1)`.

    Args:
      a: finite, `[rows, width]`, more than `NEIGHBOURS` rows.
      b: of the same rows, of any width.
    """
    found = np.empty(len(a))
    blocks = (cosine_blocks(unit_vectors(vectors)) for vectors in (a, b))
    for (at, cosines_a), (_, cosines_b) in zip(*blocks, strict=True):
        ours, theirs = _neighbours(cosines_a), _neighbours(cosines_b)
        both = np.einsum("ij,ij->i", ours, theirs)
        squares = np.square(ours).sum(axis=1) * np.square(theirs).sum(axis=1)
        found[at] = both / np.sqrt(squares)
    return found.clip(0, 1).round(_DIGITS)


def _neighbours(cosine: np.ndarray) -> np.ndarray:
    """Weigh all rows as neighbours of some, by cosine; each sums to NEIGHBOURS."""
    last = np.partition(cosine, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS, None]
    nearer, tied = cosine > last + _TIED, np.abs(cosine - last) <= _TIED
    places = NEIGHBOURS - nearer.sum(axis=1, keepdims=True)
    chance = places / tied.sum(axis=1, keepdims=True)
    found: np.ndarray = nearer + tied * chance
    return found


def cka(a: np.ndarray, b: np.ndarray) -> float:
    """Give the linear centred kernel alignment of two sets of vectors, debiased.

    That is 1 if they differ by a rotation, a shift and a factor, about 0 if they have
    nothing to do with each other (Kornblith and others, 2019). Its three products are
    the unbiased estimates of Song and others (2012), so it does not grow with the width
    where rows are few; by chance it may be a little below 0 or above 1.

    Args:
      a: finite, `[rows, width]`, at least four rows.
      b: of the same rows, of any width.

    Returns:
      NaN if all vectors of one set are alike.
    """
    a, b = _centred(a), _centred(b)
    own_a, own_b = _product(a, a), _product(b, b)
    if not (own_a > 0 and own_b > 0):
        return float("nan")
    return round(float(_product(a, b) / np.sqrt(own_a * own_b)), _DIGITS)


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """Estimate the sum of squares of the covariance of centred vectors, unbiased."""
    rows = len(a)
    if max(a.shape[1], b.shape[1]) > rows:
        total = float(np.vdot(a @ a.T, b @ b.T))
    else:
        total = float(np.square(a.T @ b).sum())
    lengths_a, lengths_b = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
    by_own = rows / (rows - 2) * float(lengths_a @ lengths_b)
    by_all = float(lengths_a.sum() * lengths_b.sum()) / ((rows - 1) * (rows - 2))
    return total - by_own + by_all


def _centred(vectors: np.ndarray) -> np.ndarray:
    """Give vectors less their mean, of a size whose fourth power is safe."""
    found: np.ndarray = vectors.astype(np.float64)
    found -= found[:1].copy()  # what is alike is 0, and not a rounding more
    found -= found.mean(axis=0)
    most = float(np.abs(found).max(initial=0.0))
    return found / most if most > 0 else found
