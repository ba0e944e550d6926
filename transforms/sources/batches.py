"""Turn the pieces of a shard into batches of model inputs, fast.

Batches normally come from a fast tf.data pipeline. Rows that are bad in their block are
left out of it, which costs nothing. When it fails, the next batch of rows is read and
preprocessed row by row (`transforms.sources.rows`), and a new fast pipeline takes over
after it; where this soon fails again, after twice as many batches. So a bad row costs
time around it at most, and never its neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transforms import device
from transforms.batch import Batch, Uneven
from transforms.errors.failure import Failure, loses_rest
from transforms.errors.stages import preprocess_errors
from transforms.shard import Piece, position, split_position
from transforms.sources.blocks import Batches, Block, leaving_out
from transforms.sources.positions import (
    are_gapless,
    next_position,
    nothing_between,
    piece_and_row,
    pieces_from,
    shard_positions,
)
from transforms.sources.prepared import Preparation
from transforms.sources.read_ahead import read_ahead
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
        careful = 1
        while True:
            at, finished, fast = yield from self._fast(pieces, at, on_failure)
            if finished:
                return
            careful = 1 if fast > careful else 2 * careful
            at, finished = yield from self._careful(pieces, at, on_failure, careful)
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
        self, pieces: Sequence[Piece], at: int, on_failure: Callable[[Failure], None]
    ) -> Generator[Batch, None, tuple[int, bool, int]]:
        """Yield batches up to the first that fails or loses a row.

        Returns:
          The position at which to go on, whether the pieces are finished, and how many
          batches there were.
        """
        most, count = self.batch_rows, 0
        while rest := pieces_from(pieces, at):
            with leaving_out(most) as faults:
                iterator = self._elements(rest)
            first = at = position(*piece_and_row(pieces, at))
            while True:
                try:
                    element = next(iterator, None)
                except preprocess_errors():
                    return at, False, count
                if element is None:
                    break
                batch = _batch(element, first)
                told = faults.before(int(element[0][-1]))
                failures = _failures(pieces, first, told)
                if not are_gapless(pieces, at, _merged(batch, failures)):
                    return at, False, count
                yield from self._between(failures, batch, on_failure)
                count += 1
                at = int(batch.positions[-1]) + 1
            end = position(len(pieces))
            for failure in _failures(pieces, first, faults.before(end)):
                on_failure(failure)
                at = next_position(failure)
            if not faults.broke_off:
                return at, nothing_between(pieces, at, end), count
            most *= 2
        return at, True, count

    def _between(
        self,
        failures: Sequence[Failure],
        batch: Batch,
        on_failure: Callable[[Failure], None],
    ) -> Iterator[Batch]:
        """Tell of the failures between the rows of a batch, and yield the batch.

        Where the failures could fill a batch themselves, all rows are taken in parts of
        `batch_rows`: whoever hears of so many failures before any sound row may stop.
        """
        bad = np.array([failure.position for failure in failures], np.int64)
        ends = batch.positions[-1:]
        if len(bad) >= self.batch_rows:
            rows = _merged(batch, failures)
            ends = np.append(rows[self.batch_rows - 1 : -1 : self.batch_rows], ends)
        told = sent = 0
        for end in ends:
            until = int(np.searchsorted(bad, end, side="right"))
            for failure in failures[told:until]:
                on_failure(failure)
            part = np.arange(sent, np.searchsorted(batch.positions, end, side="right"))
            if len(part):
                yield batch if len(part) == len(batch) else batch.take(part)
            told, sent = until, sent + len(part)

    def _careful(
        self,
        pieces: Sequence[Piece],
        at: int,
        on_failure: Callable[[Failure], None],
        batches: int,
    ) -> Generator[Batch, None, tuple[int, bool]]:
        """Yield the sound ones of each of the next `batch_rows` rows as a batch.

        Returns:
          The position at which to go on, and whether the pieces are finished.
        """
        rows = self.rows(pieces, at)
        for _ in range(batches):
            outcomes = list(itertools.islice(rows, self.batch_rows))
            sound: list[Batch] = []
            for outcome in outcomes:
                at = position_after(outcome)
                if isinstance(outcome, Batch):
                    sound.append(outcome)
                else:
                    on_failure(outcome)
            if sound:
                yield Batch.concatenate(sound)
            if len(outcomes) < self.batch_rows:
                return at, True
        return at, False

    def _elements(self, pieces: Sequence[Piece]) -> Iterator[Any]:
        """Give the fast pipeline: elements `(positions, (inputs, passed))`, batched."""
        batched = self.preparation.takes_batches
        rows = self.batch_rows if batched else None
        read = self.source.read(pieces, self.preparation.features, rows)
        if isinstance(read, Batches) and self._reads_blocks():
            made = self.preparation.batches_of(_as_tensorflow_fails(read.blocks()))
            return read_ahead(made, _PREFETCH_BATCHES)
        ready = self.preparation.batches(read, self.batch_rows, batched=batched)
        ready = ready.prefetch(_PREFETCH_BATCHES).with_options(dataset_options())
        return iter(ready)

    def _reads_blocks(self) -> bool:
        """Whether blocks are prepared best without a dataset.

        A dataset uses several threads, keeps off the GPU, and begins anew what steps
        remember, such as the state of random numbers.
        """
        alone = device.reader_threads() == 1 and not device.has_gpu()
        return alone and not self.preparation.keeps_state


def _as_tensorflow_fails(blocks: Iterator[Block]) -> Iterator[Block]:
    """Raise what Python raises as a dataset does.

    Raises:
      tf.errors.OpError: anything was raised but want of memory.
    """
    import tensorflow as tf

    try:
        yield from blocks
    except (MemoryError, tf.errors.OpError):
        raise
    except Exception as error:
        raise tf.errors.UnknownError(None, None, repr(error)) from error


def _failures(
    pieces: Sequence[Piece], first: int, faults: Iterable[tuple[int, str]]
) -> list[Failure]:
    """Make failures of what a reader says of rows that it left out.

    Args:
      pieces: all pieces of the shard.
      first: position in the shard at which the reader began.
      faults: positions as the reader counts them, and what is wrong there.
    """
    import tensorflow as tf

    told = list(faults)
    places = np.array([found for found, _ in told], np.int64)
    alike: dict[str, Failure] = {}  # many rows fail with the same words
    made = []
    for at, (_, fault) in zip(shard_positions(places, first), told, strict=True):
        if fault not in alike:
            error = tf.errors.InvalidArgumentError(None, None, fault)
            lost = pieces[split_position(int(at))[0]].rows is None and loses_rest(error)
            alike[fault] = Failure.of(int(at), "read", error, rest_lost=lost)
        made.append(replace(alike[fault], position=int(at)))
    return made


def _merged(batch: Batch, failures: Sequence[Failure]) -> np.ndarray:
    """Give the positions of sound and failed rows, rising."""
    bad = np.array([failure.position for failure in failures], np.int64)
    return np.sort(np.concatenate([batch.positions, bad]))


def _batch(element: Any, first: int) -> Batch:
    positions, (inputs, passed) = element

    def values(found: Any) -> Any:
        return Uneven(found[0], found[1].numpy()) if isinstance(found, tuple) else found

    return Batch(
        shard_positions(np.asarray(positions), first),
        {name: values(found) for name, found in inputs.items()},
        {name: values(found) for name, found in passed.items()},
    )
