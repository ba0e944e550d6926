"""Draw a progress bar from a table's commit records."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.plan import Plan

_POLL_SECONDS = 0.5


@contextmanager
def progress_bar(made: Plan) -> Iterator[None]:
    """Draw a progress bar on stderr from the table's commit records."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    from pipeline.status import Watch
    from transforms.table.directory import Table

    watch = Watch(Table(made.config.table.path))
    total = made.rows if made.rows is not None else len(made.shards)
    unit = "rows" if made.rows is not None else "shards"
    progress = Progress(
        TextColumn("extracting"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    task = progress.add_task("extract", total=total)
    stopped = threading.Event()

    def look() -> None:
        with suppress(Exception):  # a look that fails must not fail the run
            found = watch.status()
            done = found.rows + found.quarantined if unit == "rows" else found.committed
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
