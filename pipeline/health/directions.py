"""Vectors of length 1, and the cosines between all pairs of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 512


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Bring vectors to length 1, float64 `[rows, width]`; those of length 0 stay.

    Args:
      vectors: finite, `[rows, width]`.
    """
    wide = vectors.astype(np.float64)
    most = np.abs(wide).max(axis=1, initial=0.0, keepdims=True)
    wide /= np.where(most > 0, most, 1.0)  # so that no square is too large or small
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    found: np.ndarray = wide / np.where(lengths > 0, lengths, 1.0)
    return found


def cosine_blocks(units: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the cosines of some rows with all rows, until each row has come.

    Args:
      units: of length 1 or 0, `[rows, width]`.

    Yields:
      Which rows, and their cosines `[some, rows]`: minus infinity with themselves, so
      that no row is its own neighbour.
    """
    for first in range(0, len(units), _BLOCK):
        at = slice(first, first + _BLOCK)
        cosines = units[at] @ units.T
        own = np.arange(len(cosines))
        cosines[own, first + own] = -np.inf
        yield at, cosines
