"""Say what the values of one column are like, from any rows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.statistics.memory import BLOCK_BYTES, reused
from transforms.statistics.moments import Moments, Sums
from transforms.statistics.norms import Norms
from transforms.statistics.repeats import Repeats, hash_rows, mix, sum_rows
from transforms.values import matrix

WIDEST = 16_384
"""Values of a row up to which each dimension has statistics of its own."""
_EXAMPLES = 8
_LARGEST, _SMALLEST = np.finfo(np.float64).max, np.finfo(np.float64).tiny


@dataclass(slots=True)
class Examples:
    """Some rows of a kind: those with the smallest hashes of their keys.

    Attributes:
      hashes: of the keys, uint64, in order.
      keys: as text.
    """

    hashes: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def add(self, chosen: np.ndarray, keys: pa.Array, hashes: np.ndarray) -> None:
        """Take rows by index, of those with these keys and hashes of keys."""
        first = chosen[np.argsort(hashes[chosen], kind="stable")[:_EXAMPLES]]
        names = [str(key) for key in keys.take(pa.array(first)).to_pylist()]
        self.merge(Examples(hashes[first].tolist(), names))

    def merge(self, other: Examples) -> Self:
        """Take the rows of another."""
        both = {*zip(self.hashes, self.keys, strict=True)}
        both |= {*zip(other.hashes, other.keys, strict=True)}
        some = sorted(both)[:_EXAMPLES]
        self.hashes, self.keys = [h for h, _ in some], [key for _, key in some]
        return self


@dataclass(slots=True)
class ColumnStatistics:
    """What the values of one column are like, over some rows.

    Attributes:
      name: of the column.
      width: values in a row; None if rows differ.
      rows: all of them.
      zero_rows: of which all values are 0, or that have none.
      non_finite_rows: that hold NaN or infinite values; nothing below counts them but
        `repeats`.
      moments: by dimension; None where rows differ in length or are wider than
        `WIDEST`.
      norms: Euclidean lengths of the rows that are not zero.
      repeats: how often whole rows come.
      zeros: examples of zero rows.
      non_finite: examples of rows that are not finite.
    """

    name: str
    width: int | None
    rows: int = 0
    zero_rows: int = 0
    non_finite_rows: int = 0
    moments: Moments | None = None
    norms: Norms = field(default_factory=Norms)
    repeats: Repeats = field(default_factory=Repeats)
    zeros: Examples = field(default_factory=Examples)
    non_finite: Examples = field(default_factory=Examples)

    def __post_init__(self) -> None:
        if self.moments is None and self.width and self.width <= WIDEST:
            self.moments = Moments(self.width)

    def add(
        self, values: pa.Array | pa.ChunkedArray, keys: pa.Array, hashes: np.ndarray
    ) -> None:
        """Take rows.

        Args:
          values: numbers or flags, or lists of them.
          keys: of the rows.
          hashes: of the keys, uint64.
        """
        chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        look = self._look_at_lists if self.width is None else self._look
        squares, hashed = look(chunks, len(values))
        finite, zero = np.isfinite(squares), squares == 0
        self.rows += len(values)
        self.repeats.add(hashed, keys)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            self.non_finite_rows += len(bad)
            self.non_finite.add(bad, keys, hashes)
        if zero.any():
            self.zero_rows += int(zero.sum())
            self.zeros.add(np.flatnonzero(zero), keys, hashes)
        some = np.flatnonzero(finite & ~zero)
        alone = len(some) == len(values)
        self.norms.add(
            np.sqrt(squares[some]), keys if alone else keys.take(pa.array(some))
        )

    def _look(
        self, chunks: Sequence[pa.Array], rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take rows by dimension; give their squared lengths and hashes."""
        squares, hashed = np.zeros(rows), np.zeros(rows, np.uint64)
        end, sums = 0, None
        for block in _blocks(chunks, self.width or 1):
            at = slice(end, end + len(block))
            end = at.stop
            wide = reused("wide", block.shape, np.float64)
            np.copyto(wide, block)
            squares[at], hashed[at] = _squares(wide), sum_rows(block)
            if self.moments is None:
                continue
            finite = np.isfinite(squares[at])
            if not finite.all():
                block, wide = block[finite], wide[finite]
            if len(block):
                sums = sums or Sums(block[0])
                sums.add(block, wide)
        if sums and self.moments:
            self.moments.merge(sums.moments())
        return squares, mix(hashed)

    def _look_at_lists(
        self, chunks: Sequence[pa.ListArray], rows: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give squared lengths and hashes of rows that differ in their number."""
        values = pa.concat_arrays(chunks)
        lengths = pc.list_value_length(values).to_numpy(zero_copy_only=False)
        flat = values.flatten().to_numpy(zero_copy_only=False)
        squares, hashed = np.zeros(rows), mix(lengths.astype(np.uint64))
        ends = np.cumsum(lengths)
        for length in np.unique(lengths[lengths > 0]).tolist():
            alike, step = np.flatnonzero(lengths == length), _rows_of_block(length)
            for first in range(0, len(alike), step):
                at = alike[first : first + step]
                block = flat[(ends[at] - length)[:, None] + np.arange(length)]
                squares[at] = _squares(block.astype(np.float64))
                hashed[at] = mix(hashed[at] ^ hash_rows(block))
        return squares, hashed

    def merge(self, other: ColumnStatistics) -> Self:
        """Take the rows of another part of the column."""
        self.rows += other.rows
        self.zero_rows += other.zero_rows
        self.non_finite_rows += other.non_finite_rows
        if self.moments is not None and other.moments is not None:
            self.moments.merge(other.moments)
        self.norms.merge(other.norms)
        self.repeats.merge(other.repeats)
        self.zeros.merge(other.zeros)
        self.non_finite.merge(other.non_finite)
        return self

    @property
    def constant_dimensions(self) -> int:
        """Dimensions that have one value in all rows; 0 if there are fewer than two."""
        if self.moments is None or self.moments.count < 2:
            return 0
        return int(self.moments.is_constant.sum())


def _squares(wide: np.ndarray) -> np.ndarray:
    """Give squared lengths of rows of float64; NaN where a value is not finite.

    Squares that float64 does not hold are the largest or smallest that it does: such
    rows are still finite, and not zero.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        squares: np.ndarray = np.vecdot(wide, wide)
    usual = (squares > 0) & (squares < np.inf)
    if not usual.all():
        rows = np.flatnonzero(~usual)
        finite, zero = np.isfinite(wide[rows]).all(axis=1), ~wide[rows].any(axis=1)
        held = np.where(squares[rows] > 0, _LARGEST, _SMALLEST)
        squares[rows] = np.where(finite, np.where(zero, 0.0, held), np.nan)
    return squares


def _blocks(chunks: Sequence[pa.Array], width: int) -> Iterator[np.ndarray]:
    """Yield rows of one length, `[rows, width]`; a block is valid until the next."""
    step = wanted = _rows_of_block(width)
    pieces: list[np.ndarray] = []
    for chunk in chunks:
        rows = matrix(chunk, width)
        while len(rows):
            pieces.append(rows[:wanted])
            rows, wanted = rows[wanted:], wanted - len(rows[:wanted])
            if not wanted:
                yield _block(pieces)
                pieces, wanted = [], step
    if pieces:
        yield _block(pieces)


def _block(pieces: Sequence[np.ndarray]) -> np.ndarray:
    if len(pieces) == 1:
        return np.ascontiguousarray(pieces[0])
    shape = sum(map(len, pieces)), pieces[0].shape[1]
    block = reused("block", shape, pieces[0].dtype.type)
    return np.concatenate(pieces, out=block)


def _rows_of_block(width: int) -> int:
    return max(BLOCK_BYTES // (8 * width), 1)
