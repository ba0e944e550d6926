"""Lengths of vectors: moments, a histogram over fixed bins, and who is at the ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from transforms.statistics.moments import Moments

_BINS_PER_OCTAVE = 4
_OCTAVES = 64  # on either side of length 1
BINS = 2 * _OCTAVES * _BINS_PER_OCTAVE
"""Of a histogram: quarters of an octave from 2^-64 to 2^64, the ends hold the rest."""


@dataclass(slots=True)
class Norms:
    """Euclidean lengths of finite vectors that are not zero.

    Attributes:
      moments: of the lengths, one dimension.
      histogram: rows in each bin, int64 `[BINS]`.
      shortest: key of the shortest vector, as text; empty without rows.
      longest: key of the longest.
    """

    moments: Moments = field(default_factory=lambda: Moments(1))
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    shortest: str = ""
    longest: str = ""

    def add(self, lengths: np.ndarray, keys: pa.Array) -> None:
        """Take rows.

        Args:
          lengths: greater than 0, float64 `[rows]`.
          keys: of the rows.
        """
        if not len(lengths):
            return
        low, high = int(lengths.argmin()), int(lengths.argmax())
        moments = Moments(1)
        moments.add(lengths[:, None])
        bins = np.floor(np.log2(lengths) * _BINS_PER_OCTAVE) + BINS // 2
        inside = np.clip(bins, 0, BINS - 1).astype(np.int64)
        histogram = np.bincount(inside, minlength=BINS)
        self.merge(Norms(moments, histogram, str(keys[low]), str(keys[high])))

    def merge(self, other: Norms) -> Self:
        """Take the rows of another."""
        if other.moments.least[0] < self.moments.least[0]:
            self.shortest = other.shortest
        if other.moments.most[0] > self.moments.most[0]:
            self.longest = other.longest
        self.moments.merge(other.moments)
        self.histogram = self.histogram + other.histogram
        return self


def bin_edges() -> np.ndarray:
    """Give where the bins of a histogram begin and end: float64 `[BINS + 1]`."""
    octaves = (np.arange(BINS + 1) - BINS // 2) / _BINS_PER_OCTAVE
    edges: np.ndarray = np.exp2(octaves)
    return edges
