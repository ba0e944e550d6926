"""Compute a shard in processes that may die, and set the rows apart that kill them.

A process computes batch after batch and sends what it made. Where it dies, the next one
goes on behind the last batch that came: row by row through the rows of the batch that
did not, saying which one it is about to take. So a row that kills costs two processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transforms import child_process
from transforms.batch import Extracted
from transforms.errors.failure import BadRow, Failure
from transforms.shard import Piece, Shard

_MOST_DEATHS = 20
_PROGRAM = "transforms.programs.isolated_rows"


@dataclass(frozen=True, slots=True)
class Request:
    """What a process is to compute.

    Attributes:
      table: URI of a planned table.
      shard: whose rows.
      pieces: of the shard, where the source can open them.
      at: position to begin at.
      careful: take the first batch's rows one by one, and say which is next.
    """

    table: str
    shard: Shard
    pieces: tuple[Piece, ...]
    at: int
    careful: bool


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
    table: str,
    shard: Shard,
    pieces: Sequence[Piece],
    on_failure: Callable[[Failure], None],
    on_found: Callable[[Found], None],
) -> Iterator[Extracted]:
    """Compute the rows of a shard in processes of their own.

    Args:
      table: URI of a planned table.
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
        request = Request(table, shard, tuple(pieces), behind, careful)
        with contextlib.closing(child_process.start(_PROGRAM, request)) as child:
            for message in _messages(child):
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
            death = child.death()
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


def _messages(child: child_process.Child) -> Iterator[Any]:
    """Yield what a process sends until it ends."""
    with contextlib.suppress(EOFError):
        while True:
            yield child.receive()
