"""Follow a run: how far it is, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from pipeline.status import Watch
from transforms.progress import at_work
from transforms.table.directory import Table

_SPEED_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a run is.

    Attributes:
      rows: rows that are done, bad ones and those of earlier runs included.
      expected: how many there will be; None if the source tells only when it is read.
      bad: bad rows so far.
      shards: shards that are done, of `shard_count`.
      shard_count: planned shards.
      per_second: rows a second of late; None before the first are done.
      seconds_left: how long the rest will take; None if that is not known.
    """

    rows: int
    expected: int | None
    bad: int
    shards: int
    shard_count: int
    per_second: float | None
    seconds_left: float | None

    def text(self) -> str:
        """Say it in one line of fewer than 80 characters."""
        if self.expected is None:
            words = [f"{self.rows} rows", f"{self.shards} of {self.shard_count} shards"]
        else:
            percent = 100 * self.rows // max(self.expected, 1)
            words = [f"{percent}%: {self.rows} of {self.expected} rows"]
        if self.per_second is not None:
            words.append(f"{self.per_second:.{0 if self.per_second >= 10 else 1}f}/s")
        if self.seconds_left is not None:
            words.append(f"{time_text(self.seconds_left)} left")
        if self.bad:
            words.append(f"{self.bad} bad")
        return ", ".join(words)


def time_text(seconds: float) -> str:
    """Say a length of time, to the second.

    >>> time_text(59.7), time_text(3599.2), time_text(90_000)
    ('1:00', '59:59', '25:00:00')
    """
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


class Follower:
    """Looks at a run, which this process has started, again and again.

    Shards that are done are known by their commit records, those at work by what this
    process and its own workers say. Of workers elsewhere only the records tell.

    Args:
      table: URI of the planned table.
    """

    def __init__(self, table: str) -> None:
        self._watch = Watch(Table(table))
        self._looks: deque[tuple[float, int]] = deque()

    def look(self) -> Reached:
        """Look once.

        Raises:
          FileNotFoundError: there is no table, or no plan for one.
        """
        working = at_work()  # first: what ends meanwhile is committed in what follows
        found = self._watch.status()
        more = [one for n, one in working.items() if n not in self._watch.committed]
        committed = found.rows + found.quarantined
        rows = committed + sum(one.rows for one in more)
        speed = self._speed(rows)
        expected = found.planned_rows
        if expected is None and found.committed:  # as many in those to come
            expected = committed * found.shards // found.committed
        left = None
        if speed is not None and expected is not None:
            left = max(expected - rows, 0) / speed
        return Reached(
            rows=rows,
            expected=found.planned_rows,
            bad=found.quarantined + sum(one.bad for one in more),
            shards=found.committed,
            shard_count=found.shards,
            per_second=speed,
            seconds_left=left,
        )

    def _speed(self, rows: int) -> float | None:
        """Rows a second, over the last half minute or since the first look."""
        now = time.monotonic()
        self._looks.append((now, rows))
        while len(self._looks) > 2 and self._looks[1][0] < now - _SPEED_SECONDS:
            self._looks.popleft()
        began, before = self._looks[0]
        return (rows - before) / (now - began) if rows > before else None
