"""The program of a process that computes rows of one shard and may die of it.

It gets a request and sends messages through the pipe to its parent (`isolate`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from multiprocessing.connection import Connection

from transforms import child_process
from transforms.batch import Batch, Extracted
from transforms.errors.failure import Failure, bad_row
from transforms.errors.isolate import AtRow, Finished, Found, Made, Request
from transforms.extract import compute_rows
from transforms.sources.positions import next_position
from transforms.table.directory import Table
from transforms.worker import worker_for


def main() -> None:
    """Compute from a position on; at first row by row if asked to be careful."""
    pipe, request = child_process.parent()
    # whoever asked has gone: nobody needs the rest
    with contextlib.suppress(BrokenPipeError):
        try:
            _compute(request, pipe)
        except Exception as error:
            pipe.send(Finished(f"{type(error).__name__}: {error}"))
        else:
            pipe.send(Finished())


def _compute(request: Request, pipe: Connection) -> None:
    worker = worker_for(Table(request.table))
    shard, pieces, at = request.shard, request.pieces, request.at
    found: list[Found] = []

    def fail(failure: Failure) -> None:
        nonlocal at
        at = max(at, next_position(failure))
        row = bad_row(shard, worker.layout.columns[0].source, failure)
        found.append(Found(failure.position, row, failure.rest_lost))

    def compute(batches: Iterator[Batch]) -> None:
        nonlocal at
        for batch in batches:
            made = tuple(compute_rows(worker, shard, iter([batch]), fail))
            at = max(at, int(batch.positions[-1]) + 1)
            send(made)

    def send(made: tuple[Extracted, ...]) -> None:
        pipe.send(Made(made, tuple(found), at))
        found.clear()

    if request.careful:
        rows = worker.pipeline.one_by_one(
            pieces, at, lambda position: pipe.send(AtRow(position))
        )
        for outcome in itertools.islice(rows, worker.compiled.batch_rows):
            if isinstance(outcome, Batch):
                compute(iter([outcome]))
            else:
                fail(outcome)
                send(())
    compute(worker.pipeline.batches(pieces, fail, at))
    send(())
