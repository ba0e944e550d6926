"""How much of its cores, or of its GPU, a process uses."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from transforms import device

USAGES = {"cores": "the cores were busy", "gpu": "the GPU was at work"}
"""What a worker may compute on, in words."""


@dataclass(slots=True)
class _Work:
    """Counts the seconds in which at least one block is at work."""

    _blocks: int = 0
    _began: float = 0.0
    _seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        with self._lock:
            if not self._blocks:
                self._began = time.perf_counter()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._seconds += time.perf_counter() - self._began

    def seconds(self) -> float:
        with self._lock:
            now = time.perf_counter() - self._began if self._blocks else 0.0
            return self._seconds + now


_gpu = _Work()
at_work = _gpu.at_work
"""Say that the GPU has work, for the length of a block; blocks may overlap."""


class Usage:
    """Counts from now on how much this process uses of what it computes on."""

    def __init__(self) -> None:
        self._before = _used()

    def seconds(self) -> dict[str, float]:
        """Say how long all of its cores, or its GPU, have been in use.

        Divided by the seconds since then, that is the share that was used. A GPU is in
        use while it has work, whether or not that fills it.

        Returns:
          `{"cores": seconds}` or `{"gpu": seconds}`.
        """
        kind = "gpu" if device.has_gpu() else "cores"
        return {kind: round(_used()[kind] - self._before[kind], 3)}


def _used() -> dict[str, float]:
    return {"cores": time.process_time() / device.cores(), "gpu": _gpu.seconds()}
