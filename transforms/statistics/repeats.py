"""Find out how many vectors are different ones, and which come most often.

Vectors are told apart by a hash of 64 bits. Two sketches are kept: of the different
vectors those with the smallest hashes, each with the exact number of its rows
(Bar-Yossef and others, 2002); and the most frequent ones, whose numbers are too small
by at most `error` (Misra and Gries, 1982). While there are no more than `DIFFERENT`
different vectors, all is exact. The results do not depend on the order of rows, but for
`error`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from transforms.statistics.memory import reused

DIFFERENT = 2048
"""Different vectors that are counted exactly; the relative standard error of the number
of different ones is 1 / sqrt(DIFFERENT), 2.2 %, where there are more."""
FREQUENT = 256
"""Vectors of which each that makes up more than 1 / FREQUENT of the rows is found."""
_SURE = 4  # standard errors between two estimates that cannot both be right
_MULTIPLIERS = 4096
_HALF, _TURN = np.uint64(32), np.uint64(22)
_ODD = (
    np.random.default_rng(1).integers(0, 2**63, (2, _MULTIPLIERS), np.uint64)
    * np.uint64(2)
) | np.uint64(1)


def hash_rows(values: np.ndarray) -> np.ndarray:
    """Hash the bytes of rows to uint64 `[rows]`; all rows have one length.

    Args:
      values: numbers `[rows, width]`, contiguous.
    """
    return mix(sum_rows(values))


def sum_rows(values: np.ndarray) -> np.ndarray:
    """Do the part of `hash_rows` that looks at values; the rest is to `mix`."""
    words = _words(values)
    found = np.zeros(len(words), np.uint64)
    for first in range(0, words.shape[1], _MULTIPLIERS):
        some = words[:, first : first + _MULTIPLIERS]
        found = mix(found) if first else found
        turned = _turned(some)
        found += np.einsum("ij,j->i", turned, _ODD[0, : some.shape[1]])
        turned >>= _HALF
        found += np.einsum("ij,j->i", turned, _ODD[1, : some.shape[1]])
    return found


def _turned(words: np.ndarray) -> np.ndarray:
    """Rotate words, so that signs and exponents of numbers lie low in a half of them.

    The product with a bit has only the bits from there on, so that vectors of which
    nothing but signs differ would have few hashes; now each has 39 bits or more.
    """
    turned, rest = (reused(name, words.shape, np.uint64) for name in ("words", "rest"))
    np.right_shift(words, _TURN, out=turned)
    np.left_shift(words, np.uint64(64) - _TURN, out=rest)
    turned |= rest
    return turned


def _words(values: np.ndarray) -> np.ndarray:
    """See rows as uint64 `[rows, words]`, with as few words as their bytes allow."""
    size = values.shape[1] * values.itemsize
    for kind in (np.uint64, np.uint32, np.uint16, np.uint8):
        if size % np.dtype(kind).itemsize == 0:
            found: np.ndarray = values.view(kind).astype(np.uint64, copy=False)
            return found
    raise AssertionError("every size is a multiple of 1")


def mix(hashes: np.ndarray) -> np.ndarray:
    """Spread uint64 over all of their values (Steele and others, 2014: splitmix64)."""
    mixed = hashes + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return found


@dataclass(frozen=True, slots=True)
class Frequent:
    """A vector that comes often.

    Attributes:
      rows: how many have it, at least.
      key: of one of them, as text.
    """

    rows: int
    key: str


@dataclass(slots=True)
class Repeats:
    """How often vectors come.

    Attributes:
      rows: all rows.
      hashes: the smallest hashes, in order, uint64.
      counts: rows of each, int64.
      complete: whether no other hashes have come up.
      frequent: hashes of the most frequent vectors, uint64.
      at_least: rows of each, at least, int64.
      keys: of one row of each, as text.
      error: by how much `at_least` may be too small.
    """

    rows: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    complete: bool = True
    frequent: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    at_least: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    keys: list[str] = field(default_factory=list)
    error: int = 0

    def add(self, hashes: np.ndarray, keys: pa.Array) -> None:
        """Take rows by the hashes of their vectors, uint64 `[rows]`, and their keys."""
        self.rows += len(hashes)
        unique, counts = np.unique(hashes, return_counts=True)
        self._take_smallest(unique, counts, complete=True)

        def named(wanted: np.ndarray) -> list[str]:
            order = np.argsort(hashes)
            places = order[np.searchsorted(hashes, wanted, sorter=order)]
            return [str(key) for key in keys.take(pa.array(places)).to_pylist()]

        self._take_frequent(unique, counts, named)

    def merge(self, other: Repeats) -> Self:
        """Take the rows of another."""
        self.rows += other.rows
        self._take_smallest(other.hashes, other.counts, complete=other.complete)

        def named(wanted: np.ndarray) -> list[str]:
            return [other.keys[i] for i in np.searchsorted(other.frequent, wanted)]

        self._take_frequent(other.frequent, other.at_least, named)
        self.error += other.error
        return self

    def _take_smallest(
        self, hashes: np.ndarray, counts: np.ndarray, *, complete: bool
    ) -> None:
        """Add to the counts of the smallest hashes."""
        if len(self.hashes) == DIFFERENT:
            within = hashes <= self.hashes[-1]
            complete = complete and bool(within.all())
            hashes, counts = hashes[within], counts[within]
        self.complete = self.complete and complete
        if len(hashes):
            hashes, counts = _sums(self.hashes, self.counts, hashes, counts)
            self.complete = self.complete and len(hashes) <= DIFFERENT
            self.hashes, self.counts = hashes[:DIFFERENT], counts[:DIFFERENT]

    def _take_frequent(
        self,
        hashes: np.ndarray,
        counts: np.ndarray,
        named: Callable[[np.ndarray], list[str]],
    ) -> None:
        """Add to the counts of the most frequent, and let the others go."""
        hashes, counts = _sums(self.frequent, self.at_least, hashes, counts)
        if len(counts) > FREQUENT:
            least = int(np.partition(counts, -FREQUENT - 1)[-FREQUENT - 1])
            self.error += least
            kept = counts > least
            hashes, counts = hashes[kept], counts[kept] - least
        known = dict(zip(self.frequent.tolist(), self.keys, strict=True))
        new = hashes[~np.isin(hashes, self.frequent)]
        if len(new):
            known |= dict(zip(new.tolist(), named(new), strict=True))
        self.keys = [known[found] for found in hashes.tolist()]
        self.frequent, self.at_least = hashes, counts

    @property
    def different(self) -> float:
        """Estimate how many different vectors there are; exact if `complete`.

        Rows by the mean number of rows of the vectors that were counted, apart from the
        frequent ones: so without repetition it is exact. Where that mean is less sure,
        or hashes are spread too thinly for it, by the share of all possible hashes that
        they take up.
        """
        if self.complete or not len(self.hashes):
            return float(len(self.hashes))
        rare = ~np.isin(self.hashes, self.frequent)
        counts = self.counts[rare] if rare.any() else np.ones(1, np.int64)
        rest = self.rows - int(self.at_least.sum())
        by_rows = len(self.frequent) + rest / float(counts.mean())
        by_hashes = (len(self.hashes) - 1) / (float(self.hashes[-1]) / 2.0**64)
        by_hashes = min(by_hashes, float(self.rows))
        error = by_hashes / np.sqrt(len(self.hashes))
        is_surer = counts.std() <= counts.mean()  # than the error of `by_hashes`
        is_near = abs(by_rows - by_hashes) <= _SURE * error
        return by_rows if is_surer and is_near else by_hashes

    @property
    def share(self) -> float:
        """Estimate the share of rows whose vector another row has had before."""
        return max(1 - self.different / self.rows, 0.0) if self.rows else 0.0

    def most(self, number: int) -> list[Frequent]:
        """Give the vectors that come most often, more than once; the first so many."""
        exact = dict(zip(self.hashes.tolist(), self.counts.tolist(), strict=True))
        rows = [
            exact.get(hashed, count)
            for hashed, count in zip(
                self.frequent.tolist(), self.at_least.tolist(), strict=True
            )
        ]
        order = sorted(range(len(rows)), key=lambda i: (-rows[i], self.keys[i]))
        return [Frequent(rows[i], self.keys[i]) for i in order if rows[i] > 1][:number]


def _sums(*pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add counts up by hash: `hashes, counts, hashes, counts` -> `hashes, counts`."""
    hashes, counts = np.concatenate(pairs[::2]), np.concatenate(pairs[1::2])
    if not len(hashes):
        return hashes, counts
    order = np.argsort(hashes)
    hashes = hashes[order]
    first = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1]))
    return hashes[first], np.add.reduceat(counts[order], first)
