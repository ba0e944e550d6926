"""Tell which rows of a shard's pieces exist between two positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from transforms.errors.failure import Failure
from transforms.shard import Piece, position, split_position, split_positions


def next_position(failure: Failure) -> int:
    """Give the position at which reading goes on after a row that failed."""
    if failure.rest_lost:
        return position(split_position(failure.position)[0] + 1)
    return failure.position + 1


def piece_and_row(pieces: Sequence[Piece], at: int) -> tuple[int, int]:
    """Split a position into piece and row.

    A position past the end of a piece is the first row of the next piece that has rows.
    """
    index, row = split_position(at)
    while index < len(pieces) and _is_past(pieces[index], row):
        index, row = index + 1, 0
    return index, row


def _is_past(piece: Piece, row: int) -> bool:
    return piece.rows is not None and row >= piece.rows


def pieces_from(pieces: Sequence[Piece], at: int) -> list[Piece]:
    """Give the pieces from a position on, the first of them cut to begin there."""
    index, row = piece_and_row(pieces, at)
    if index >= len(pieces):
        return []
    first = pieces[index]
    left = None if first.rows is None else first.rows - row
    cut = replace(first, start=first.start + row, rows=left)
    return [cut, *pieces[index + 1 :]]


def nothing_between(pieces: Sequence[Piece], at: int, found: int) -> bool:
    """Whether no row that is known to exist lies between two positions."""
    return next(positions_between(pieces, at, found), None) is None


def positions_between(pieces: Sequence[Piece], at: int, found: int) -> Iterator[int]:
    """Yield the positions known to exist from `at` to just before `found`."""
    index, row = piece_and_row(pieces, at)
    last, end = split_position(found)
    while (index, row) < (last, end) and index < len(pieces):
        rows = pieces[index].rows or 0
        stop = end if index == last else max(rows, row)
        yield from (position(index, r) for r in range(row, stop))
        index, row = index + 1, 0


def are_gapless(pieces: Sequence[Piece], at: int, positions: np.ndarray) -> bool:
    """Whether rising positions begin at `at` and leave out no row known to exist."""
    expected = np.concatenate([[at], positions[:-1] + 1])
    breaks = np.flatnonzero(positions != expected)
    return all(
        positions[i] > expected[i]
        and nothing_between(pieces, int(expected[i]), int(positions[i]))
        for i in breaks
    )


def shard_positions(found: np.ndarray, first: int) -> np.ndarray:
    """Turn positions as a reader counts them into positions in the shard.

    Args:
      found: positions that the reader gave, int64; it counts from where it began.
      first: position in the shard at which the reader began.
    """
    index, row = split_position(first)
    in_first_piece = split_positions(found)[0] == 0
    return position(index) + found + np.where(in_first_piece, row, 0)
