"""How many dimensions vectors really use."""

from __future__ import annotations

import numpy as np


def effective_rank(vectors: np.ndarray) -> float:
    """Give the effective rank of vectors about their mean (Roy and Vetterli, 2007).

    That is e to the entropy of the shares that principal components have of the
    variance: as many as there are if all have the same, 1 if one has all of it. It is
    at most the number of rows less one.

    Args:
      vectors: finite, `[rows, width]`.

    Returns:
      1 or more; 0 if all vectors are alike.
    """
    wide = vectors.astype(np.float64)
    most = float(np.abs(wide).max(initial=0.0)) or 1.0
    return rank_of(variances(wide / most))  # so that squares are safe


def variances(vectors: np.ndarray) -> np.ndarray:
    """Give the variance along each principal component, the greatest first.

    Args:
      vectors: finite, `[rows, width]`.

    Returns:
      float64 `[min(rows, width)]`.
    """
    centred = vectors.astype(np.float64)
    centred -= centred[:1].copy()  # what is alike is 0, and not a rounding more
    centred -= centred.sum(axis=0) / max(len(centred), 1)
    rows, width = centred.shape
    product = centred @ centred.T if rows < width else centred.T @ centred
    found: np.ndarray = np.linalg.eigvalsh(product)[::-1].clip(0.0) / max(rows, 1)
    return found


def rank_of(spectrum: np.ndarray) -> float:
    """Give the effective rank of variances along principal components."""
    total = spectrum.sum()
    if not total > 0:
        return 0.0
    shares = spectrum[spectrum > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
