"""Turn the pieces of a shard into batches of model inputs, fast.

Batches normally come from a fast tf.data pipeline. When it fails, the next batch of
rows is read and preprocessed row by row (`transforms.sources.rows`), and a new fast
pipeline takes over after it. So a bad row costs time around it, and never its
neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.batch import Batch, Uneven
from transforms.errors.failure import Failure
from transforms.errors.stages import preprocess_errors
from transforms.shard import Piece, position
from transforms.sources.positions import (
    are_gapless,
    nothing_between,
    piece_and_row,
    pieces_from,
    shard_positions,
)
from transforms.sources.prepared import Preparation
from transforms.sources.rows import dataset_options, position_after, read_rows
from transforms.sources.source import Source

_PREFETCH_BATCHES = 2


@dataclass(frozen=True, slots=True)
class InputPipeline:
    """Everything between stored bytes and model inputs.

    Attributes:
      source: reader of the stored rows.
      preparation: what turns the features that were read into model inputs.
      batch_rows: rows in a full batch.
    """

    source: Source
    preparation: Preparation
    batch_rows: int

    def batches(
        self,
        pieces: Sequence[Piece],
        on_failure: Callable[[Failure], None],
        at: int = 0,
    ) -> Iterator[Batch]:
        """Read the pieces of a shard.

        Args:
          pieces: pieces of the shard, their files where the source can open them.
          on_failure: called with each row that cannot be read or preprocessed.
          at: position of the first row to read.

        Yields:
          Batches of `batch_rows` rows in order; fewer at the end and around bad rows.

        Raises:
          OSError, tf.errors.OpError: the storage failed, rather than a row.
        """
        while True:
            at, finished = yield from self._fast(pieces, at)
            if finished:
                return
            at, finished = yield from self._careful(pieces, at, on_failure)
            if finished:
                return

    def rows(
        self,
        pieces: Sequence[Piece],
        at: int,
        about_to: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Batch | Failure]:
        """Read rows one at a time from a position on: `transforms.sources.rows`."""
        return read_rows(self.source, self.preparation, pieces, at, about_to)

    def _fast(
        self, pieces: Sequence[Piece], at: int
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield batches up to the first that fails or leaves out a row.

        Returns:
          The position at which to go on, and whether the pieces are finished.
        """
        rest = pieces_from(pieces, at)
        if not rest:
            return at, True
        first = at = position(*piece_and_row(pieces, at))
        iterator = iter(self._dataset(rest))
        while True:
            try:
                element = next(iterator, None)
            except preprocess_errors():
                return at, False
            if element is None:
                return at, nothing_between(pieces, at, position(len(pieces)))
            batch = _batch(element, first)
            if not are_gapless(pieces, at, batch.positions):
                return at, False
            yield batch
            at = int(batch.positions[-1]) + 1

    def _careful(
        self, pieces: Sequence[Piece], at: int, on_failure: Callable[[Failure], None]
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield the sound ones of the next `batch_rows` rows as one batch.

        Returns:
          The position at which to go on, and whether the pieces are finished.
        """
        outcomes = list(itertools.islice(self.rows(pieces, at), self.batch_rows))
        sound: list[Batch] = []
        for outcome in outcomes:
            at = position_after(outcome)
            if isinstance(outcome, Batch):
                sound.append(outcome)
            else:
                on_failure(outcome)
        if sound:
            yield Batch.concatenate(sound)
        return at, len(outcomes) < self.batch_rows

    def _dataset(self, pieces: Sequence[Piece]) -> Any:
        """Give the fast pipeline: elements `(positions, (inputs, passed))`, batched."""
        batched = self.preparation.takes_batches
        rows = self.batch_rows if batched else None
        read = self.source.read(pieces, self.preparation.features, rows)
        ready = self.preparation.batches(read, self.batch_rows, batched=batched)
        return ready.prefetch(_PREFETCH_BATCHES).with_options(dataset_options())


def _batch(element: Any, first: int) -> Batch:
    positions, (inputs, passed) = element

    def values(found: Any) -> Any:
        return Uneven(found[0], found[1].numpy()) if isinstance(found, tuple) else found

    return Batch(
        shard_positions(positions.numpy(), first),
        {name: values(found) for name, found in inputs.items()},
        {name: values(found) for name, found in passed.items()},
    )
