"""Tell what memory the machine has to spare, and what else it does meanwhile."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_IDLE = slice(3, 5)  # among the numbers of a line of /proc/stat; so says proc(5)
_COUNTED = slice(8)


def available_bytes() -> int:
    """Give the bytes that the machine, or the container, has to spare."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):
        words = Path("/proc/meminfo").read_text().split()
        found.append(int(words[words.index("MemAvailable:") + 1]) << 10)
    with suppress(OSError, ValueError):  # where nothing is limited, that is a word
        most = int((_CGROUP / "memory.max").read_text())
        words = (_CGROUP / "memory.stat").read_text().split()
        cached = int(words[words.index("inactive_file") + 1])
        found.append(most - int((_CGROUP / "memory.current").read_text()) + cached)
    return max(min(found), 0)


class Load:
    """Looks at what other programs do on the cores, from its making on."""

    def __init__(self) -> None:
        self._busy, self._own = _busy_seconds(), time.process_time()
        self._began = time.monotonic()

    def of_others(self) -> float | None:
        """Give the cores that others kept busy; None where that cannot be told.

        A process that may use only some of the cores does not know which ones the
        others were on.
        """
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = busy - self._busy - (time.process_time() - self._own)
        return max(others / (time.monotonic() - self._began), 0.0)


def _busy_seconds() -> float | None:
    """Give the seconds that all cores together have been busy."""
    try:
        allowed = len(os.sched_getaffinity(0))
        line = Path("/proc/stat").read_text().splitlines()[0]
    except (OSError, AttributeError):
        return None
    if allowed != os.cpu_count():
        return None
    ticks = [int(word) for word in line.split()[1:]][_COUNTED]
    return (sum(ticks) - sum(ticks[_IDLE])) / os.sysconf("SC_CLK_TCK")
