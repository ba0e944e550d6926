"""Add up where the time of a shard goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PHASES = {
    "read": "waiting for the reader",
    "compute": "computing",
    "describe": "statistics",
    "write": "waiting for the writer",
}
"""What a worker may be at, in words."""


@dataclass(slots=True)
class Clock:
    """Adds up wall-clock seconds by phase."""

    _seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(PHASES, 0.0)
    )

    def timed(self, phase: str, items: Iterator[Any]) -> Iterator[Any]:
        """Pass items through, counting the time that getting each takes."""
        while True:
            with self.during(phase):
                item = next(items, None)
            if item is None:
                return
            yield item

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count the time of a block, but for blocks of other phases inside of it."""
        began, before = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            inside = sum(self._seconds.values()) - before
            self._seconds[phase] += time.perf_counter() - began - inside

    def seconds(self, total: float) -> dict[str, float]:
        """The sums, in seconds to the millisecond."""
        return {k: round(v, 3) for k, v in {**self._seconds, "total": total}.items()}
