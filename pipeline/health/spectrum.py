"""How vectors lie in space: their principal components, and how alike they point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.health.directions import unit_vectors
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
      vectors: finite, `[rows, width]`.
    """
    wide = vectors.astype(np.float64)
    scale = float(np.abs(wide).max(initial=0.0)) or 1.0  # so that squares stay finite
    wide /= scale
    wide -= wide[:1].copy()  # what is alike is 0, and not a rounding more
    rows, width = wide.shape
    wide -= wide.sum(axis=0) / max(rows, 1)
    # The smaller one of two matrices, which have the same eigenvalues.
    squares, axes = np.linalg.eigh(wide @ wide.T if rows < width else wide.T @ wide)
    squares, axes = squares[::-1].clip(0.0), axes[:, ::-1][:, :2]
    first = axes * np.sqrt(squares[:2]) if rows < width else wide @ axes
    scores = np.zeros((rows, 2))
    scores[:, : first.shape[1]] = first
    if rows:
        farthest = np.abs(scores).argmax(axis=0)
        scores *= np.where(scores[farthest, [0, 1]] < 0, -1.0, 1.0)
    return Components(squares / (squares.sum() or 1.0), scores * scale)


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
