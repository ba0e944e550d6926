"""Read, write and list files on any filesystem, through fsspec.

Three kinds of write, because a table is only as good as its weakest one: `create`
never replaces, `replace` and `publish` never leave half a file under the final name.
On local disks all three have reached the disk when they return, names included.

Object stores are taken to be as slow as they may be: what was just written may show up
late, in reads as in listings.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from transforms.lookup import ConfigError

_PARALLEL_REQUESTS = 32
_FILES_AT_A_TIME = 4096
_PATIENCE_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
Found = TypeVar("Found")


def filesystem(uri: str) -> tuple[Any, str]:
    """Split a URI into its fsspec filesystem and the path there.

    Listings are never cached: other workers write to the same directories.

    Raises:
      ConfigError: there is no such filesystem here.
    """
    try:
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"paths must be of a filesystem that is installed, got {uri!r}: {error}"
            " (featuretap[gcp] brings gs://, featuretap[s3] brings s3://)"
        ) from error
    return fs, str(path)


def join(uri: str, *names: str) -> str:
    """Append path segments to a URI.

    >>> join("gs://bucket/table", "_SUCCESS")
    'gs://bucket/table/_SUCCESS'
    """
    return "/".join([uri.rstrip("/"), *names])


def local_path(uri: str) -> Path | None:
    """The path of `uri` if it lies on a local disk, else None."""
    fs, path = filesystem(uri)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def read(uri: str, *, written: bool = False) -> bytes:
    """Read a whole file.

    Args:
      uri: of the file.
      written: it is known to have been written; wait for a store that shows it late.

    Raises:
      FileNotFoundError: there is none.
    """
    fs, path = filesystem(uri)
    data: bytes = _patiently(fs, lambda: fs.cat_file(path), written=written)
    return data


def size(uri: str, *, written: bool = False) -> int:
    """Bytes of a file; `written` and errors as for `read`."""
    fs, path = filesystem(uri)
    found = _patiently(fs, lambda: fs.info(path), written=written)
    return int(found["size"])


def read_many(uris: Iterable[str]) -> Iterator[bytes]:
    """Read many small files with parallel requests, in order, and hold few of them."""
    rest = iter(uris)
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        while some := list(islice(rest, _FILES_AT_A_TIME)):
            yield from pool.map(read, some)


def exists(uri: str) -> bool:
    """Whether there is a file or directory."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def list_names(uri: str) -> list[str]:
    """Sorted names of the files directly in a directory; empty if there is none."""
    return _list(uri, "file")


def list_directories(uri: str) -> list[str]:
    """Sorted names of the directories directly in another; empty if there is none."""
    return _list(uri, "directory")


def _list(uri: str, kind: str) -> list[str]:
    fs, path = filesystem(uri)
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return []
    return sorted(
        entry["name"].rstrip("/").rpartition("/")[2]
        for entry in entries
        if entry["type"] == kind
    )


def create(uri: str, data: bytes) -> bool:
    """Write a new file with its whole content, or leave an existing one alone.

    On local disks the content is made durable under another name and then linked, so
    that the name never shows part of it. Object stores get a conditional put.

    Returns:
      Whether this call created the file; of several at once exactly one does.
    """
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    with _durable_temporary(Path(path)) as (temporary, stream):
        stream.write(data)
        _sync(stream)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
    _sync_directory(Path(path).parent)
    return True


def replace(uri: str, data: bytes) -> None:
    """Write a file at once, over what was there."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    with _durable_temporary(Path(path)) as (temporary, stream):
        stream.write(data)
        _sync(stream)
        os.replace(temporary, path)
    _sync_directory(Path(path).parent)


def publish(source: Path, uri: str) -> None:
    """Move a finished local file to its place; it appears there whole or not at all."""
    fs, path = filesystem(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.put_file(str(source), path)
        planned, found = source.stat().st_size, size(uri, written=True)
        if found != planned:
            raise OSError(f"{uri} must have {planned} bytes, its upload has {found}")
        source.unlink()
        return
    target = Path(path)
    _make_durable(target.parent)
    with source.open("rb") as stream:
        _sync(stream)
    try:
        os.replace(source, target)
    except OSError:  # another filesystem: copy beside the target first
        with (
            _durable_temporary(target) as (temporary, stream),
            source.open("rb") as origin,
        ):
            shutil.copyfileobj(origin, stream)
            _sync(stream)
            os.replace(temporary, target)
        source.unlink()
    _sync_directory(target.parent)


def make_directory(uri: str) -> None:
    """Make a directory where filesystems have such a thing."""
    fs, path = filesystem(uri)
    fs.makedirs(path, exist_ok=True)


def remove(uri: str) -> None:
    """Remove a file; fine if it is gone already."""
    fs, path = filesystem(uri)
    with suppress(FileNotFoundError):
        fs.rm_file(path)
        if isinstance(fs, LocalFileSystem):
            _sync_directory(Path(path).parent)


def remove_tree(uri: str) -> None:
    """Remove a directory with all it holds; fine if it is gone already."""
    fs, path = filesystem(uri)
    with suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def remove_empty(uri: str) -> None:
    """Remove a local directory if it holds nothing; object stores have none."""
    local = local_path(uri)
    if local is not None:
        with suppress(OSError):
            local.rmdir()


def _patiently(fs: Any, look: Callable[[], Found], *, written: bool) -> Found:
    """Look again, some six seconds long, for what a store has not shown yet."""
    if written and not isinstance(fs, LocalFileSystem):
        for seconds in _PATIENCE_SECONDS:
            with suppress(FileNotFoundError):
                return look()
            time.sleep(seconds)
    return look()


@contextmanager
def _durable_temporary(target: Path) -> Iterator[tuple[Path, BinaryIO]]:
    _make_durable(target.parent)
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with temporary.open("xb") as stream:
            yield temporary, stream
    finally:
        temporary.unlink(missing_ok=True)


def _make_durable(directory: Path) -> None:
    """Make a directory and those above it, so that they survive a loss of power."""
    if directory.is_dir():
        return
    _make_durable(directory.parent)
    directory.mkdir(exist_ok=True)
    _sync_directory(directory.parent)


def _sync(stream: Any) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
