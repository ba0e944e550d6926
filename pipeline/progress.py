"""Show how far a run is: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pipeline.diverted import DivertedStderr
from pipeline.follow import Follower, Reached
from pipeline.quiet import is_debugging
from pipeline.show import say
from transforms.credentials import mask

_POLL_SECONDS = 0.5
_LINE_SECONDS = 30
_NO_WIDTH = 80  # of terminals that do not say how wide they are


@contextmanager
def shown_progress(table: str) -> Iterator[Callable[[], None]]:
    """Show on stderr, for the length of a block, how far a run is.

    On a terminal that is a bar. What TensorFlow, workers and logs write to stderr
    meanwhile is shown above it. Elsewhere, and with FEATURETAP_DEBUG set, it is a line
    every half minute, if there is anything new to say.

    Args:
      table: URI of the planned table.

    Yields:
      A function that gives the terminal back, for who ends the process in the block.
    """
    display = Bar() if _has_terminal() and not is_debugging() else Lines()
    follower = Follower(table)
    stopped = threading.Event()

    def look() -> None:
        with suppress(Exception):  # a look that fails must not fail the run
            display.show(follower.look())

    def follow() -> None:
        while not stopped.wait(display.seconds):
            look()

    following = threading.Thread(target=follow, daemon=True)
    following.start()
    try:
        yield display.close
    finally:
        stopped.set()
        following.join()
        look()
        display.close()


def _has_terminal() -> bool:
    terminal = sys.stderr.isatty() and os.isatty(2)
    return terminal and os.environ.get("TERM") not in ("dumb", "unknown")


class Lines:
    """Says how far a run is in lines of text.

    Attributes:
      seconds: how long to wait between two looks.
    """

    def __init__(self) -> None:
        self.seconds: float = _LINE_SECONDS
        self._said = time.monotonic(), ""

    def show(self, reached: Reached) -> None:
        """Say it, unless it is the same as before, or too early."""
        now, text = time.monotonic(), reached.text()
        when, before = self._said
        if now - when >= self.seconds and text != before:
            say(f"featuretap: {text}", err=True)
            self._said = now, text

    def close(self) -> None:
        """Do nothing: lines need no end."""


class Bar:
    """Draws a bar, and shows above it what is written to stderr.

    Attributes:
      seconds: how long to wait between two looks.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        self.seconds = _POLL_SECONDS
        self._open = threading.Lock()  # held once it is closed
        self._stderr = DivertedStderr(self._print)
        self._console = Console(file=self._stderr.terminal, width=self._width())
        text = Column(no_wrap=True, overflow="ellipsis")
        self._progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.description}", markup=False, table_column=text),
            console=self._console,
            expand=True,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._progress.start()

    def show(self, reached: Reached) -> None:
        """Draw how far the run is."""
        self._console.width = self._width()
        known = reached.expected is not None
        self._progress.update(
            self._task,
            total=reached.expected if known else reached.shard_count,
            completed=reached.rows if known else reached.shards,
            description=reached.text(),
        )

    def close(self) -> None:
        """Leave the bar as it is, and the terminal as it was; a second time nothing."""
        if self._open.acquire(blocking=False):
            self._stderr.end()
            self._progress.stop()
            self._stderr.terminal.close()

    def _width(self) -> int:
        return os.get_terminal_size(self._stderr.terminal.fileno()).columns or _NO_WIDTH

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text.from_ansi(mask(line)), soft_wrap=True)
