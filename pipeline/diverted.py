"""Turn what anybody writes to stderr into lines for a function to show."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait

_LOOK_SECONDS = 0.1
_CHUNK_BYTES = 1 << 16


class DivertedStderr:
    """Stands between this process's file descriptor 2 and its terminal.

    TensorFlow writes to the descriptor itself, and child processes inherit it: Python's
    `sys.stderr` alone would miss both.

    Attributes:
      terminal: a text file on what the descriptor was before.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        """Begin to divert.

        Args:
          show: called with each line, without its end, on a thread of its own; it must
            not write to stderr.
        """
        sys.stderr.flush()
        encoding = sys.stderr.encoding
        self.terminal = os.fdopen(
            os.dup(2), "w", encoding=encoding, errors="backslashreplace"
        )
        self._show = show
        self._encoding = encoding
        self._ended = threading.Event()
        self._from, to = os.pipe()
        os.dup2(to, 2)
        os.close(to)
        self._passing = threading.Thread(target=self._pass_on, daemon=True)
        self._passing.start()

    def end(self) -> None:
        """Let the descriptor be what it was, when all that was written is shown."""
        sys.stderr.flush()
        os.dup2(self.terminal.fileno(), 2)
        self._ended.set()
        self._passing.join()
        os.close(self._from)

    def _pass_on(self) -> None:
        rest = b""
        # Processes that outlive the run may hold the pipe: its end would not come.
        while (ready := wait([self._from], _LOOK_SECONDS)) or not self._ended.is_set():
            if not ready:
                continue
            chunk = os.read(self._from, _CHUNK_BYTES)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._show(line.decode(self._encoding, "backslashreplace"))
        if rest:
            self._show(rest.decode(self._encoding, "backslashreplace"))
