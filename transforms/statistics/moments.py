"""Sum up numbers by dimension: mean, spread, least, greatest; sums can be merged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np


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

    Sums are of differences from the first row: their squares lose few digits.
    """

    def __init__(self, first: np.ndarray) -> None:
        self._shift = first.astype(np.float64)
        self._rows = 0
        self._total = np.zeros(len(first))
        self._squares = np.zeros(len(first))
        self._least = np.full(len(first), np.inf)
        self._most = np.full(len(first), -np.inf)

    def add(self, values: np.ndarray, wide: np.ndarray) -> None:
        """Take rows, at least one.

        Args:
          values: finite numbers `[rows, width]`.
          wide: the same as float64; overwritten.
        """
        self._rows += len(values)
        with np.errstate(over="ignore", invalid="ignore"):  # of float64 beyond 1e154
            wide -= self._shift
            self._total += wide.sum(axis=0)
            self._squares += np.einsum("ij,ij->j", wide, wide)
        self._least = np.minimum(self._least, values.min(axis=0))
        self._most = np.maximum(self._most, values.max(axis=0))

    def moments(self) -> Moments:
        """Give what has been added up, of at least one row."""
        apart = self._total / self._rows
        with np.errstate(over="ignore", invalid="ignore"):
            m2 = np.maximum(self._squares - self._total * apart, 0)
        mean = self._shift + apart
        width = len(mean)
        return Moments(width, self._rows, mean, m2, self._least, self._most)
