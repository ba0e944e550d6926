"""Parts of a table -> a directory of a target's own, named by their content."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.publish.finished import FinishedTable
from transforms import scratch, storage
from transforms.table.commit_record import StoredFile

_PLACED = re.compile(r"[0-9a-f]{32}\.parquet")
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # of transforms.storage
_PREFIX = ".unfinished-"


def placed_name(part: StoredFile) -> str:
    """Name a part by its content, so that a table that grew adds only new ones."""
    return f"{part.sha256[:32]}.parquet"


def place_parts(table: FinishedTable, directory: str) -> None:
    """Put the parts of a table into a directory, by links or copies.

    Args:
      table: whose parts.
      directory: URI; parts that are there already stay.
    """
    there = set(storage.list_names(directory))
    with _unfinished(directory) as unfinished:
        for part in table.parts:
            name = placed_name(part)
            if name not in there:
                source = table.table.path(part.path)
                target = storage.join(directory, name)
                storage.copy(source, target, part.bytes, unfinished)


@contextmanager
def _unfinished(directory: str) -> Iterator[Path]:
    """Give a local directory for unfinished files, on the disk of another if local."""
    local = storage.local_path(directory)
    if local is None:
        with scratch.directory() as elsewhere:
            yield elsewhere
        return
    local.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=local) as inside:
        yield Path(inside)


def place_of(table: str, path: str | None, target: str) -> str:
    """Give the directory that is meant: absolute on a local disk, else as it is.

    Args:
      table: URI of the table that is published.
      path: that was asked for; None for a directory beside the table.
      target: by which that is called.
    """
    return storage.absolute(path or f"{table.rstrip('/')}-{target}")


def is_placed(name: str) -> bool:
    """Whether `place_parts` has named a file so, for this table or another."""
    return _PLACED.fullmatch(name) is not None


def is_free(
    directory: str, is_ours: Callable[[str], object], inner: Collection[str] = ()
) -> bool:
    """Whether nothing lies in a directory but what a publication left that was cut off.

    Args:
      directory: URI.
      is_ours: tells of the name of a file whether the target names files so.
      inner: names of directories in it that are the target's.
    """
    names = storage.list_names(directory)
    others = [n for n in names if not (is_ours(n) or _UNFINISHED.fullmatch(n))]
    folders = set(storage.list_directories(directory)) - set(inner)
    return not others and all(name.startswith(_PREFIX) for name in folders)


def remove_others(directory: str, kept: Collection[str]) -> None:
    """Remove files that `place_parts` has put there for another table.

    Args:
      directory: URI.
      kept: names of files that stay.
    """
    for name in storage.list_names(directory):
        if is_placed(name) and name not in kept:
            storage.remove(storage.join(directory, name))
