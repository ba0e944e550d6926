"""Read the rows of a shard one at a time, each of them sound or failed.

This is slow, but a bad row does not harm its neighbours. `transforms.sources.batches`
reads like this only around bad rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transforms import device
from transforms.batch import Batch
from transforms.errors.failure import Failure, loses_rest
from transforms.errors.stages import read_errors
from transforms.shard import Piece, position
from transforms.sources.positions import (
    next_position,
    nothing_between,
    piece_and_row,
    pieces_from,
    positions_between,
    shard_positions,
)
from transforms.sources.prepared import Preparation
from transforms.sources.source import Source


def read_rows(
    source: Source,
    preparation: Preparation,
    pieces: Sequence[Piece],
    at: int,
    about_to: Callable[[int], None] = lambda _: None,
) -> Iterator[Batch | Failure]:
    """Read and preprocess rows one at a time, from a position on.

    Pieces whose number of rows is unknown are read separately: an error between two of
    them could be an error of either.

    Args:
      source: reader of the stored rows.
      preparation: what turns the features that were read into model inputs.
      pieces: pieces of the shard, their files where the source can open them.
      at: position of the first row to read.
      about_to: called with each row's position before the row is read.

    Yields:
      For each row a batch of just that row, or its failure.
    """
    while rest := pieces_from(pieces, at):
        index = piece_and_row(pieces, at)[0]
        known = list(itertools.takewhile(lambda piece: piece.rows is not None, rest))
        end = position(index + max(len(known), 1))
        run = _Run(pieces, known or rest[:1], at, end)
        for outcome in run.read(source, preparation, about_to):
            yield outcome
            at = position_after(outcome)
        if not known:
            at = end


def position_after(outcome: Batch | Failure) -> int:
    """Give the position at which to go on after a row."""
    if isinstance(outcome, Batch):
        return int(outcome.positions[0]) + 1
    return next_position(outcome)


class _Run:
    """Some pieces that are read with one dataset.

    Args:
      pieces: all pieces of the shard.
      some: the pieces to read, cut to begin at `at`.
      at: position of the first row to read.
      end: position after the last row to read.
    """

    def __init__(
        self, pieces: Sequence[Piece], some: Sequence[Piece], at: int, end: int
    ) -> None:
        self._pieces = pieces
        self._some = some
        self._at = position(*piece_and_row(pieces, at))
        self._end = end
        self._rows_are_known = some[0].rows is not None

    def read(
        self,
        source: Source,
        preparation: Preparation,
        about_to: Callable[[int], None],
    ) -> Iterator[Batch | Failure]:
        """Yield the outcome of each row: a batch of it alone, or its failure.

        If the dataset ends right after an error, this ends with the piece of that
        error, and later pieces are left to another run.
        """
        first, error = self._at, None
        about_to(first)
        dataset = source.read(self._some, preparation.features, None)
        iterator = iter(dataset.with_options(dataset_options()))
        while True:
            self._at = position(*piece_and_row(self._pieces, self._at))
            if self._at < self._end:
                about_to(self._at)
            try:
                element = next(iterator, None)
            except read_errors() as raised:
                error = raised
                failure = self._failed(error)
                if failure is None:
                    return
                yield failure
                if failure.rest_lost:
                    return
                continue
            found = self._found(element, first, broke_off=error is not None)
            yield from self._left_out(found, error)
            if element is None:
                return
            yield preparation.one(found, element[1])
            self._at, error = found + 1, None

    def _failed(self, error: Exception) -> Failure | None:
        """Make an error the failure of the next row; None if no row is left."""
        none_left = nothing_between(self._pieces, self._at, self._end)
        if none_left and self._rows_are_known:
            return None
        lost = not self._rows_are_known and loses_rest(error)
        failure = Failure.of(self._at, "read", error, rest_lost=lost)
        self._at += 1
        return failure

    def _found(self, element: Any, first: int, *, broke_off: bool) -> int:
        """Give the position of an element, or without one that of the end."""
        if element is not None:
            return int(shard_positions(element[0].numpy(), first))
        if not broke_off:
            return self._end
        following = position(piece_and_row(self._pieces, self._at)[0] + 1)
        return min(self._end, following)

    def _left_out(self, found: int, error: Exception | None) -> Iterator[Failure]:
        """Yield failures of the rows before a position that the reader left out."""
        for missing in positions_between(self._pieces, self._at, found):
            piece = self._pieces[piece_and_row(self._pieces, missing)[0]]
            short = EOFError(f"{piece.name} holds fewer rows than planned")
            yield Failure.of(missing, "read", error or short)


def dataset_options() -> Any:
    """Give tf.data a small thread pool of its own, and no autotuning."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    options.deterministic = True
    options.threading.private_threadpool_size = device.reader_threads()
    return options
