"""Sum up numbers by dimension: mean, spread, least, greatest; sums can be merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np

_LONG = 1024  # values of a row from which on NumPy reduces at full speed


@dataclass(slots=True)
class Moments:
    """What is known of some rows, dimension by dimension.

    Attributes:
      width: dimensions.
      count: rows; all of their values are finite.
      mean: of each dimension, float64 `[width]`; 0 without rows.
      m2: sum of squared differences from the mean, float64 `[width]`.
      least: smallest value, float64 `[width]`; infinite without rows.
      most: greatest value, float64 `[width]`; minus infinite without rows.
    """

    width: int
    count: int = 0
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    m2: np.ndarray = field(default_factory=lambda: np.zeros(0))
    least: np.ndarray = field(default_factory=lambda: np.zeros(0))
    most: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.mean):
            self.mean, self.m2 = np.zeros(self.width), np.zeros(self.width)
            self.least = np.full(self.width, np.inf)
            self.most = np.full(self.width, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Take rows: finite numbers `[rows, width]`."""
        if len(values):
            sums = Sums(values[0])
            sums.add(values, values.astype(np.float64))
            self.merge(sums.moments())

    def merge(self, other: Moments) -> Self:
        """Take the rows of another (Chan, Golub and LeVeque, 1979)."""
        rows = self.count + other.count
        if other.count:
            apart = other.mean - self.mean
            share = other.count / rows
            self.mean = self.mean + apart * share
            with np.errstate(over="ignore", invalid="ignore"):
                between = apart * apart * share * self.count
            self.m2 = self.m2 + other.m2 + between
            self.least = np.minimum(self.least, other.least)
            self.most = np.maximum(self.most, other.most)
            self.count = rows
        return self

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of each dimension over all rows, float64 `[width]`."""
        found: np.ndarray = np.sqrt(self.m2 / max(self.count, 1))
        return found

    @property
    def is_constant(self) -> np.ndarray:
        """Whether all rows have one value in a dimension, bool `[width]`."""
        found: np.ndarray = self.least == self.most
        return found


class Sums:
    """Adds up blocks of rows: cheaper than to merge their moments one by one.

    Sums are of differences from the first row: their squares lose few digits. NumPy
    reduces row by row, which takes longer than the arithmetic where rows are short, so
    several rows are seen as one long row, and its sums are folded in the end.
    """

    def __init__(self, first: np.ndarray) -> None:
        self._shift = first.astype(np.float64)
        self._rows = 0
        self._fold = max(_LONG // len(first), 1)
        shape = self._fold, len(first)
        self._total, self._squares = np.zeros(shape), np.zeros(shape)
        self._least, self._most = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, values: np.ndarray, wide: np.ndarray) -> None:
        """Take rows, at least one.

        Args:
          values: finite numbers `[rows, width]`.
          wide: the same as float64; overwritten.
        """
        self._rows += len(values)
        with np.errstate(over="ignore", invalid="ignore"):  # of float64 beyond 1e154
            wide -= self._shift
            self._reduce(np.add, wide, self._total)
            self._reduce(np.add, np.square(wide, out=wide), self._squares)
        self._reduce(np.minimum, values, self._least)
        self._reduce(np.maximum, values, self._most)

    def _reduce(
        self, operation: np.ufunc, values: np.ndarray, into: np.ndarray
    ) -> None:
        fold, rest = self._fold, len(values) % self._fold
        whole = len(values) - rest
        if whole:
            long = values[:whole].reshape(-1, fold, values.shape[1])
            operation(into, operation.reduce(long, axis=0), out=into)
        if rest:
            operation(into[:rest], values[whole:], out=into[:rest])

    def moments(self) -> Moments:
        """Give what has been added up, of at least one row."""
        with np.errstate(over="ignore", invalid="ignore"):
            total, squares = self._total.sum(axis=0), self._squares.sum(axis=0)
            apart = total / self._rows
            m2 = np.maximum(squares - total * apart, 0)
        mean = self._shift + apart
        least, most = self._least.min(axis=0), self._most.max(axis=0)
        return Moments(len(mean), self._rows, mean, m2, least, most)
