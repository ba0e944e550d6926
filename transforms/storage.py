"""Read, write and list files on any filesystem, through fsspec.

There are three kinds of write. `create` never replaces a file; `replace` and `publish`
never leave half a file under the final name. On local disks the data and the name have
reached the disk when any of them returns.

Object stores are expected to be slow: a file that was just written may show up late, in
reads and in listings.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from transforms.lookup import ConfigError, nearest

_PARALLEL_REQUESTS = 32
_FILES_AT_A_TIME = 4096
_PATIENCE_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
Found = TypeVar("Found")


def filesystem(uri: str) -> tuple[Any, str]:
    """Split a URI into its fsspec filesystem and the path there.

    The filesystem never caches listings, since other workers write to the same
    directories.

    Raises:
      ConfigError: no installed package provides this filesystem.
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
    protocol, mark, path = uri.rpartition("://")
    head = path.rstrip("/")
    inner = "/".join([head, *names] if head or not mark else names)
    return f"{protocol}{mark}{inner}"


def absolute(uri: str) -> str:
    """Give the one URI of a place that holds from every directory; links are followed.

    Only paths on a local disk become others.
    """
    local = local_path(uri)
    return uri if local is None else str(local.resolve())


def local_path(uri: str) -> Path | None:
    """Give the path of a URI that lies on a local disk; None for others."""
    fs, path = filesystem(uri)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def is_of_this_process(uri: str) -> bool:
    """Whether a URI lies in the memory of this process: no other one can see it."""
    return isinstance(filesystem(uri)[0], MemoryFileSystem)


def read(uri: str, *, written: bool = False) -> bytes:
    """Read a whole file.

    Args:
      uri: URI of the file.
      written: whether the file is known to exist; then a store that does not show it
        yet is given some six seconds.

    Raises:
      FileNotFoundError: there is no such file.
    """
    fs, path = filesystem(uri)
    data: bytes = _patiently(fs, lambda: fs.cat_file(path), written=written)
    return data


def size(uri: str, *, written: bool = False) -> int:
    """Give the size of a file in bytes.

    Args:
      uri: URI of the file.
      written: whether the file is known to exist, as for `read`.

    Raises:
      FileNotFoundError: there is no such file.
    """
    fs, path = filesystem(uri)
    found = _patiently(fs, lambda: fs.info(path), written=written)
    return int(found["size"])


def read_many(
    uris: Iterable[str], *, written: bool = False, at_a_time: int = _FILES_AT_A_TIME
) -> Iterator[bytes]:
    """Read many small files with parallel requests; yield their contents in order.

    Args:
      uris: of the files.
      written: whether they are known to exist, as for `read`.
      at_a_time: how many are held in memory.
    """
    look = partial(read, written=written)
    rest = iter(uris)
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        while some := list(islice(rest, at_a_time)):
            yield from pool.map(look, some)


def exists(uri: str) -> bool:
    """Whether there is a file or directory at a URI."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


def why_missing(uri: str) -> str:
    """Say what is mostly wrong with a path at which nothing is found.

    Returns:
      `; ` and a sentence, or nothing.
    """
    if re.search(r"\$\w|\$\{|%\w+%", uri):
        return "; variables such as $HOME are not replaced"
    if "\\" in uri:
        return "; write / between folders"
    path = local_path(uri)
    while path and not path.parent.is_dir():
        path = path.parent
    try:
        return nearest(path.name, os.listdir(path.parent)) if path else ""
    except OSError:
        return ""


def list_names(uri: str) -> list[str]:
    """List the names of the files directly in a directory, sorted.

    The list is empty if there is no such directory.
    """
    return _list(uri, "file")


def list_directories(uri: str) -> list[str]:
    """List the names of the directories directly in another one, sorted.

    The list is empty if there is no such directory.
    """
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
    that the file never has only a part of it. Object stores get a conditional put.

    Returns:
      Whether this call created the file. If several calls try at the same time, exactly
      one of them does.
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
    """Write a file; readers see either its old or its new content, never a mixture."""
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
    """Move a finished local file to its place; it appears there whole or not at all.

    Raises:
      OSError: the upload is not whole, or the storage failed.
    """
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


def copy(source: str, uri: str, planned: int, directory: Path) -> None:
    """Give a file that never changes another name, at the least cost there is.

    On one local disk both names are of one file; in one store the store copies; else
    the bytes go through this machine. What lies under the new name is replaced.

    Args:
      source: URI of the file.
      uri: where to.
      planned: bytes that it must have.
      directory: a local one, for what is not finished; on the disk of `uri` if that is
        local.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it has another size or its copy is not whole, or the storage failed.
    """
    fs, path = filesystem(source)
    there, target = filesystem(uri)
    is_local, becomes_local = (isinstance(o, LocalFileSystem) for o in (fs, there))
    if becomes_local or not (is_local or _is_same_store(fs, there)):
        unfinished = directory / Path(target).name
        if not (is_local and becomes_local and _link(path, unfinished)):
            fs.get_file(path, str(unfinished))
        publish(unfinished, uri)
    elif is_local:
        there.put_file(path, target)
    else:
        there.cp_file(path, target)
    found = size(uri, written=True)
    if found != planned:
        raise OSError(f"{source} must have {planned} bytes, its copy {uri} has {found}")


def _is_same_store(fs: Any, there: Any) -> bool:
    return type(fs) is type(there) and fs.storage_options == there.storage_options


def _link(source: str, target: Path) -> bool:
    """Give a local file a second name; tell whether the disk can do that."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # the source is on another disk, or there are no links on this one
        return False
    return True


def make_directory(uri: str) -> None:
    """Make a directory and those above it, if the filesystem has directories."""
    fs, path = filesystem(uri)
    fs.makedirs(path, exist_ok=True)


def remove(uri: str) -> None:
    """Remove a file; do nothing if there is none."""
    fs, path = filesystem(uri)
    with suppress(FileNotFoundError):
        fs.rm_file(path)
        if isinstance(fs, LocalFileSystem):
            _sync_directory(Path(path).parent)


def remove_tree(uri: str) -> None:
    """Remove a directory with all that it holds; do nothing if there is none."""
    fs, path = filesystem(uri)
    with suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def remove_empty(uri: str) -> None:
    """Remove a local directory if it is empty; do nothing on other filesystems."""
    local = local_path(uri)
    if local is not None:
        with suppress(OSError):
            local.rmdir()


def _patiently(fs: Any, look: Callable[[], Found], *, written: bool) -> Found:
    """Call `look`, and again for some six seconds while a written file is not found."""
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
    """Make a directory and those above it; flush their names to the disk."""
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
