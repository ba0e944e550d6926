"""How vectors lie in space: their principal components, and how alike they point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transforms.statistics.spread import rank_of


@dataclass(frozen=True, slots=True)
class Components:
    """Vectors along their principal components.

    Attributes:
      shares: that each component has of the variance, the greatest first, float64
        `[min(rows, width)]`; all 0 if the vectors are alike.
      scores: coordinates along the first two, float64 `[rows, 2]`; 0 along a component
        that there is not.
    """

    shares: np.ndarray
    scores: np.ndarray

    @property
    def effective_rank(self) -> float:
        """How many dimensions the vectors really use; 0 if all are alike."""
        return rank_of(self.shares)


def principal_components(vectors: np.ndarray) -> Components:
    """Give the principal components of vectors about their mean.

    Each component points to where the row that is farthest along it lies.

    Args:
      vectors: finite, `[rows, width]`, at least one.
    """
    wide = vectors.astype(np.float64)
    scale = float(np.abs(wide).max()) or 1.0  # so that squares stay finite
    wide /= scale
    wide -= wide.mean(axis=0)
    left, lengths, _ = np.linalg.svd(wide, full_matrices=False)
    scores = np.zeros((len(wide), 2))
    scores[:, : len(lengths)] = (left * lengths)[:, :2]
    farthest = np.abs(scores).argmax(axis=0)
    signs = np.where(scores[farthest, [0, 1]] < 0, -1.0, 1.0)
    squares = lengths**2
    with np.errstate(over="ignore"):
        return Components(squares / (squares.sum() or 1.0), scores * signs * scale)


def anisotropy(vectors: np.ndarray) -> float:
    """Give the mean cosine between different rows: 0 if they point everywhere.

    Args:
      vectors: finite, `[rows, width]`; those of length 0 do not count.

    Returns:
      From about 0 to 1; NaN of fewer than two vectors.
    """
    units = unit_vectors(vectors)
    units = units[np.any(units != 0, axis=1)]
    rows = len(units)
    if rows < 2:
        return float("nan")
    total = units.sum(axis=0, dtype=np.float64)
    return float((total @ total - rows) / (rows * (rows - 1)))


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Bring vectors to length 1, float32 `[rows, width]`; those of length 0 stay.

    Args:
      vectors: finite, `[rows, width]`.
    """
    wide = vectors.astype(np.float64)
    wide /= np.maximum(np.abs(wide).max(axis=1, keepdims=True), np.finfo(float).tiny)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    found: np.ndarray = (wide / np.maximum(lengths, 1e-300)).astype(np.float32)
    return found
