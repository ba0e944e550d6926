"""Draw a progress bar from a table's commit records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.plan import Plan
from pipeline.status import Watch
from transforms.table.directory import Table

_POLL_SECONDS = 0.5


@contextmanager
def progress_bar(made: Plan) -> Iterator[None]:
    """Draw a progress bar on stderr for the length of a block."""
    progress = _bar("rows" if made.rows is not None else "shards")
    total = made.rows if made.rows is not None else len(made.shards)
    task = progress.add_task("extract", total=total)
    watch = Watch(Table(made.config.table.path))
    stopped = threading.Event()

    def look() -> None:
        with suppress(Exception):  # a look that fails must not fail the run
            found = watch.status()
            rows = found.rows + found.quarantined
            done = found.committed if made.rows is None else rows
            progress.update(task, completed=done)

    def follow() -> None:
        while not stopped.wait(_POLL_SECONDS):
            look()

    follower = threading.Thread(target=follow, daemon=True)
    with progress:
        follower.start()
        try:
            yield
        finally:
            stopped.set()
            follower.join()
            look()


def _bar(unit: str) -> Any:
    """Make a progress bar that counts in some unit."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        TextColumn("extracting"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
