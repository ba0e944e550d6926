"""Tell the workers of this process to end soon: begin no shard, and leave long ones."""

from __future__ import annotations

import threading
import time

_SHORT_SECONDS = 5


class StoppedError(Exception):
    """A shard was left before its end, since the run is to end.

    Nothing of it is written; the next run begins it anew.
    """


class _Stopping(threading.Event):
    """An event that knows when it was set."""

    def __init__(self) -> None:
        super().__init__()
        self._since = 0.0

    def set(self) -> None:
        """Set it, unless it is set already."""
        if not self.is_set():
            self._since = time.monotonic()
        super().set()

    def seconds(self) -> float:
        """For how long it has been set; 0 if it is not."""
        return time.monotonic() - self._since if self.is_set() else 0.0


stopping = _Stopping()
"""Set it and this process's workers take no more shards; those that they are at they
finish if that takes a few seconds, and else leave after the batch at hand."""


def leave_if_long(seconds: float, done: int, rows: int | None) -> None:
    """Leave a shard between two batches if this process is to end before it is done.

    Args:
      seconds: how long the shard has taken so far.
      done: how many of its rows are done, at least one.
      rows: how many rows it has; None if only reading tells, then it is left when it
        has not ended in a few seconds.

    Raises:
      StoppedError: it would take more than a few seconds more.
    """
    if not stopping.is_set():
        return
    left = stopping.seconds() if rows is None else seconds / done * (rows - done)
    if left > _SHORT_SECONDS:
        raise StoppedError
