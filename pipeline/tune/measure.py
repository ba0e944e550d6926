"""Run work in several threads for some seconds, and count rows, time and CPU time."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

Work = Generator[int, None, None]
"""Does a piece of work for each `next`, and gives the number of rows in it."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What some rows took.

    Attributes:
      rows: number of rows.
      seconds: by the clock, of all threads together, less what they waited for cores
        that other programs had.
      cpu_seconds: of this process, all of its threads.
    """

    rows: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float | None:
        """Rows a second by the clock; None if too little time was seen to tell."""
        return self.rows / self.seconds if self.rows and self.seconds > 0 else None

    @property
    def cpu_per_row(self) -> float:
        """CPU seconds of a row."""
        return self.cpu_seconds / self.rows if self.rows else 0.0

    def beyond(self, part: Measure) -> Measure:
        """Give what was left if `part`, of rows of the same kind, took no time."""
        share = self.rows / part.rows if part.rows else 0.0
        return Measure(
            self.rows,
            max(self.seconds - part.seconds * share, 0.0),
            max(self.cpu_seconds - part.cpu_seconds * share, 0.0),
        )

    def slower(self, seconds_per_row: float) -> Measure:
        """Give the same if each row had taken some seconds more by the clock."""
        seconds = self.seconds + self.rows * seconds_per_row
        return Measure(self.rows, seconds, self.cpu_seconds)


def measure(works: Sequence[Work], seconds: float, cores: int) -> Measure:
    """Let each of some works go on in a thread of its own for some seconds.

    The first piece of each warms up and does not count; at least one more does.

    Args:
      works: what to do; they are closed at the end, however it comes.
      seconds: after which no further piece is begun.
      cores: that the works may use.
    """
    ended = threading.Event()
    pool = ThreadPoolExecutor(len(works), thread_name_prefix="tune")
    try:
        list(pool.map(lambda work: next(work, 0), works))
        queued, cpu = _queued_seconds(), time.process_time()
        end = time.perf_counter() + seconds
        done = list(pool.map(lambda work: _go_on(work, end, ended), works))
        cpu = time.process_time() - cpu
        waited = sum(
            one - queued.get(thread, 0.0) for thread, one in _queued_seconds().items()
        )
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)
        for work in works:
            work.close()
    rows = sum(count for count, _ in done)
    rate = sum(count / took for count, took in done)
    by_clock = rows / rate if rate else max(took for _, took in done)
    least = min(cpu / cores, by_clock)
    return Measure(rows, max(by_clock - waited / len(works), least), cpu)


def _go_on(work: Work, end: float, ended: threading.Event) -> tuple[int, float]:
    """Do pieces of work until a time: rows, and seconds that they took.

    Where it fails, the others need not go on.
    """
    began, rows = time.perf_counter(), 0
    try:
        for count in work:
            rows += count
            if time.perf_counter() >= end or ended.is_set():
                break
    except BaseException:
        ended.set()
        raise
    return rows, time.perf_counter() - began


def _queued_seconds() -> dict[str, float]:
    """Give the seconds that threads of this process were ready and had no core.

    By thread, of those that there are; nothing where the system does not count them.
    """
    found = {}
    for thread in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):
            nanoseconds = int(thread.read_text().split()[1])
            found[thread.parent.name] = nanoseconds * 1e-9
    return found
