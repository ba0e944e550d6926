"""Compute a shard in processes that may die, and set the rows apart that kill them.

A process computes batch after batch and sends what it made. Where it dies, the next one
goes on behind the last batch that came: row by row through the rows of the batch that
did not, saying which one it is about to take. So a row that kills costs two processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import fsspec

from transforms.batch import Extracted, Failure
from transforms.shard import BadRow, Piece, Shard
from transforms.table import Table

_MOST_DEATHS = 20
_PROGRAM = "transforms.isolated"


class ProcessDiedError(Exception):
    """A process ended without having been asked to."""


@dataclass(frozen=True, slots=True)
class Found:
    """A bad row of another process.

    Attributes:
      position: in the shard.
      row: what the errors table says of it.
      rest_lost: as in `Failure`.
    """

    position: int
    row: BadRow
    rest_lost: bool


@dataclass(frozen=True, slots=True)
class AtRow:
    """A process is about to take this row, by itself."""

    position: int


@dataclass(frozen=True, slots=True)
class Made:
    """What a process has made of some rows.

    Attributes:
      rows: those that came through.
      bad: those that did not.
      behind: position behind them all.
    """

    rows: tuple[Extracted, ...]
    bad: tuple[Found, ...]
    behind: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A process has come to the end of the shard; `failure` says what stopped it."""

    failure: str = ""


def isolated_rows(
    table: Table,
    shard: Shard,
    pieces: Sequence[Piece],
    on_failure: Callable[[Failure], None],
    on_found: Callable[[Found], None],
) -> Iterator[Extracted]:
    """Compute the rows of a shard in processes of their own.

    Args:
      table: a planned table.
      shard: whose rows.
      pieces: of the shard, where the source can open them.
      on_failure: called with each row at which a process died.
      on_found: called with each other bad row.

    Raises:
      RuntimeError: processes die at no row in particular, or at too many.
    """
    behind, careful = 0, False
    for _ in range(_MOST_DEATHS):
        row, began = None, behind
        with _child(table, shard, pieces, behind, careful=careful) as (process, pipe):
            for message in _messages(pipe):
                if isinstance(message, AtRow):
                    row = message.position
                elif isinstance(message, Made):
                    for found in message.bad:
                        on_found(found)
                    yield from message.rows
                    row, behind = None, message.behind
                elif message.failure:
                    raise RuntimeError(message.failure)
                else:
                    return
            death = _death(process.wait())
        if row is not None:
            error = ProcessDiedError(f"a worker process {death} at this row")
            on_failure(Failure(row, "crash", error))
            behind = row + 1
        elif careful and behind == began:
            raise RuntimeError(
                f"a process of its own must be able to compute shard {shard.index}, it"
                f" {death} before its first row; what it printed stands above"
            )
        careful = True
    raise RuntimeError(
        f"at most {_MOST_DEATHS} processes may die at one shard, at shard {shard.index}"
        f" as many did (the last {death}): the machine or the model is at fault, rather"
        " than rows"
    )


@contextlib.contextmanager
def _child(
    table: Table, shard: Shard, pieces: Sequence[Piece], at: int, *, careful: bool
) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    """Start a process at a position; on leaving it is gone."""
    request = {
        "table": table.uri,
        "shard": shard.index,
        "pieces": [asdict(piece) for piece in pieces],
        "at": at,
        "careful": careful,
        "fsspec": fsspec.config.conf,  # may hold credentials: goes through a pipe
    }
    receiver, sender = Pipe(duplex=False)
    with receiver:
        with sender:
            process = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM, str(sender.fileno())],
                stdin=subprocess.PIPE,
                stdout=2,  # ours may carry a JSON document
                pass_fds=[sender.fileno()],
                start_new_session=True,  # Ctrl-C is for us: it is to finish the shard
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        try:
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None
                with process.stdin as stream:
                    stream.write(json.dumps(request).encode())
            yield process, receiver
        finally:
            process.kill()
            process.wait()


def _messages(pipe: Connection) -> Iterator[Any]:
    """Yield what a process sends until it ends."""
    while True:
        try:
            yield pipe.recv()
        except (EOFError, OSError):
            return


def _death(code: int) -> str:
    """Say how a process ended.

    >>> _death(-11)
    'died of SIGSEGV'
    """
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
