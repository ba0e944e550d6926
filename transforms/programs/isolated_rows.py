"""The program of a process that computes rows of one shard, some of which may kill it.

It gets a `Request` from its parent, `transforms.errors.isolate`, and sends `AtRow`,
`Made` and at the end `Finished` through the pipe.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection

from transforms import child_process
from transforms.batch import Batch, Extracted
from transforms.errors.failure import Failure
from transforms.errors.isolate import AtRow, Finished, Made, Request
from transforms.extract import compute_rows
from transforms.sources import staging
from transforms.sources.positions import next_position
from transforms.table.directory import Table
from transforms.taps.ahead import OnFailure
from transforms.worker import Worker, worker_for


def main() -> None:
    """Compute the rows of a request, and send them to the parent."""
    pipe, request = child_process.parent()
    # If the parent has ended, nobody needs the rest.
    with contextlib.suppress(BrokenPipeError):
        try:
            staging.use_copies(request.copies)
            worker = worker_for(Table(request.table), request.seal)
            _Computation(worker, request, pipe).run()
        except Exception as error:
            pipe.send(Finished(f"{type(error).__name__}: {error}"))
        else:
            pipe.send(Finished())


class _Computation:
    """Computes the rows of a request, and sends them batch by batch."""

    def __init__(self, worker: Worker, request: Request, pipe: Connection) -> None:
        self._worker = worker
        self._request = request
        self._pipe = pipe
        self._next = request.start
        self._failures: list[Failure] = []

    def run(self) -> None:
        """Compute to the end of the shard; if careful, the first batch row by row."""
        pipeline, pieces = self._worker.pipeline, self._request.pieces
        if self._request.careful:
            rows = pipeline.rows(pieces, self._next, self._announce)
            for row in itertools.islice(rows, self._worker.compiled.batch_rows):
                if isinstance(row, Batch):
                    self._compute(iter([row]))
                else:
                    self._fail(row)
                    self._send(())
        self._compute(pipeline.batches(pieces, self._fail, self._next))
        self._send(())

    def _announce(self, position: int) -> None:
        self._pipe.send(AtRow(position))

    def _compute(self, batches: Iterator[Batch]) -> None:
        shard = self._request.shard
        for batch in batches:
            read = partial(_only, batch)
            made = tuple(compute_rows(self._worker, shard, read, self._fail))
            self._next = max(self._next, int(batch.positions[-1]) + 1)
            self._send(made)

    def _fail(self, failure: Failure) -> None:
        self._next = max(self._next, next_position(failure))
        self._failures.append(failure)

    def _send(self, made: tuple[Extracted, ...]) -> None:
        self._pipe.send(Made(made, tuple(self._failures), self._next))
        self._failures.clear()


def _only(batch: Batch, _: OnFailure) -> Iterator[Batch]:
    """Read one batch that is there already."""
    yield batch
