"""Compute a shard in processes that may die, and set the rows apart that kill them.

A process computes batch after batch and sends what it made. Where it dies, the next one
goes on after the last batch that came: row by row through the rows of the batch that
did not, saying which one it is about to take. So a row that kills costs two processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from transforms import child_process
from transforms.batch import Extracted
from transforms.errors.failure import Failure
from transforms.shard import Piece, Shard

_MOST_DEATHS = 20
_PROGRAM = "transforms.programs.isolated_rows"


@dataclass(frozen=True, slots=True)
class Request:
    """What a process is to compute.

    Attributes:
      table: URI of a planned table.
      seal: of its plan, as the launcher says.
      shard: whose rows.
      pieces: of the shard, where the source can open them.
      copies: local copies of remote files that the model is loaded from, by URI.
      start: position to begin at.
      careful: take the first batch's rows one by one, and say which is next.
    """

    table: str
    seal: str
    shard: Shard
    pieces: tuple[Piece, ...]
    copies: Mapping[str, str]
    start: int = 0
    careful: bool = False


class ProcessDiedError(Exception):
    """A process ended without having been asked to."""


@dataclass(frozen=True, slots=True)
class AtRow:
    """The process is about to take the row at this position, by itself."""

    position: int


@dataclass(frozen=True, slots=True)
class Made:
    """What the process has made of some rows.

    Attributes:
      rows: those that came through.
      failures: those that did not.
      next: the position after them all.
    """

    rows: tuple[Extracted, ...]
    failures: tuple[Failure, ...]
    next: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The process has come to the end of the shard.

    Attributes:
      error: what stopped it; empty if it has computed all rows.
    """

    error: str = ""


def isolated_rows(
    request: Request, on_failure: Callable[[Failure], None]
) -> Iterator[Extracted]:
    """Compute the rows of a shard in processes of their own, one after the other.

    Args:
      request: for the first process.
      on_failure: called with each row that failed, or at which a process died.

    Raises:
      RuntimeError: processes die at no row in particular, or at too many.
    """
    for _ in range(_MOST_DEATHS):
        end = yield from _one_process(request, on_failure)
        if not end.death:
            return
        if end.row is not None:
            error = ProcessDiedError(f"a worker process {end.death} at this row")
            on_failure(Failure.of(end.row, "crash", error))
            following = end.row + 1
        elif request.careful and end.next == request.start:
            raise RuntimeError(
                f"the worker process for shard {request.shard.index} {end.death} before"
                " its first row, so no row is to blame; its output is above"
            )
        else:
            following = end.next
        request = replace(request, start=following, careful=True)
    raise RuntimeError(
        f"{_MOST_DEATHS} processes died at shard {request.shard.index} (the last"
        f" {end.death}), which is the most that may: the machine or the model is to"
        " blame, rather than rows"
    )


@dataclass(frozen=True, slots=True)
class _End:
    """How a process ended.

    Attributes:
      next: the position after all that it has sent.
      row: position of the row that it had taken by itself, None if there was none.
      death: how it died; empty if it had come to the end of the shard.
    """

    next: int
    row: int | None
    death: str


def _one_process(
    request: Request, on_failure: Callable[[Failure], None]
) -> Generator[Extracted, None, _End]:
    """Yield what one process makes; return how it ended (`_End`)."""
    row, following = None, request.start
    with contextlib.closing(child_process.start(_PROGRAM, request)) as child:
        for message in _messages(child):
            if isinstance(message, AtRow):
                row = message.position
            elif isinstance(message, Made):
                for failure in message.failures:
                    on_failure(failure)
                yield from message.rows
                row, following = None, message.next
            elif message.error:
                raise RuntimeError(message.error)
            else:
                return _End(following, None, "")
        return _End(following, row, child.death())


def _messages(child: child_process.Child) -> Iterator[Any]:
    """Yield what a process sends until it ends."""
    with contextlib.suppress(EOFError):
        while True:
            yield child.receive()
