"""List the files that paths and globs name, and notice when they change."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from transforms import storage
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.left_out import LeftOut
from transforms.sources.source import File

_GLOB = "*?["
_VERSIONS = (
    "generation",
    "ETag",
    "etag",
    "md5Hash",
    "mtime",
    "LastModified",
    "created",
)
_PARALLEL_REQUESTS = 32


class _Found(NamedTuple):
    """A file as its filesystem shows it, before it has a name in the source."""

    path: str
    bytes: int
    version: str


class Listing(list[File]):
    """The files that paths and globs name.

    Attributes:
      left_out: how many others there are, and why they are not read.
      suffixes: in which the names of the files end; empty if all are taken.
    """

    def __init__(
        self, files: Iterable[File], left_out: LeftOut, suffixes: Sequence[str] = ()
    ) -> None:
        """Take the files, and the count of the others."""
        super().__init__(files)
        self.left_out = left_out
        self.suffixes = suffixes


def list_files(
    path: str | Sequence[str],
    option: str = "source.path",
    suffixes: Sequence[str] = (),
    chosen: Sequence[str] | None = None,
) -> Listing:
    """List the files that paths and globs name, sorted within each of them.

    A file's `name` is its path below the part of the pattern that has no wildcard.
    Left out are what begins with `.`, what lies in a directory whose name begins with
    `_`, and markers such as `_SUCCESS`.

    Args:
      path: files, directories and globs, local or of any filesystem.
      option: name of the config's option that holds the path, for errors.
      suffixes: take only files whose names end so, in upper or lower case; a path that
        names one file is taken whatever its name. Empty: take all files.
      chosen: suffixes that somebody wants in their place; None if nobody does.

    Raises:
      ConfigError: a pattern matches nothing, or two files would get one name.
    """
    files: list[File] = []
    left_out = LeftOut()
    wanted = suffixes if chosen is None else chosen
    ends = tuple(suffix.lower() for suffix in wanted)
    for pattern in [path] if isinstance(path, str) else path:
        files += _expand(pattern, option, ends, left_out)
    by_name: dict[str, File] = {}
    for file in files:
        other = by_name.setdefault(file.name, file)
        if other is not file:
            raise ConfigError(
                f"{option} must not give two files one name (keys would repeat), got"
                f" {other.uri!r} and {file.uri!r}; use one pattern above both"
            )
    return Listing(files, left_out, ends)


def find_file(uri: str) -> File:
    """Look up the size and version of one file.

    Raises:
      FileNotFoundError: there is none.
    """
    fs, path = storage.filesystem(uri)
    found = _look(fs, path)
    return File(uri, path.rpartition("/")[2], found.bytes, found.version)


def identity_of(uri: str) -> str:
    """Give a file's present `File.identity`, to be compared with the planned one."""
    try:
        return find_file(uri).identity
    except FileNotFoundError:
        return "it is gone"


def check_unchanged(
    pieces: Iterable[Piece], identity: Callable[[str], str] = identity_of
) -> None:
    """Check that the files of pieces are still those that were planned.

    Args:
      pieces: the pieces, with the versions that planning found.
      identity: gives the present identity of a file by its URI.

    Raises:
      RuntimeError: a file has changed, or is gone.
    """
    planned = {piece.file: piece.version for piece in pieces if piece.version}
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        found = dict(zip(planned, pool.map(identity, planned), strict=True))
    changed = [uri for uri in planned if found[uri] != planned[uri]]
    if changed:
        first = changed[0]
        raise RuntimeError(
            f"the files of the source must stay as they were planned, {len(changed)}"
            f" changed (first: {first})\n"
            f"  planned: {planned[first]}\n"
            f"  now:     {found[first]}\n"
            "put it back, or start afresh with --overwrite"
        )


def _expand(
    pattern: str, option: str, suffixes: tuple[str, ...], left_out: LeftOut
) -> list[File]:
    """List the files that one pattern names; count those that are left out."""
    fs, path = storage.filesystem(pattern)
    has_wildcard = any(character in path for character in _GLOB)
    if not has_wildcard and not fs.isdir(path):
        if not fs.exists(path):
            what = f"which matches none{storage.why_missing(pattern)}"
            raise _nothing(pattern, option, what)
        return [_file(fs, _look(fs, path), path.rpartition("/")[2])]
    if has_wildcard:
        root = path[: min(path.index(c) for c in _GLOB if c in path)]
        root = root.rpartition("/")[0] + "/"
        depth = None if "**" in path else path.count("/") - root.count("/") + 1
        matches = re.compile(glob_translate(path)).match
        found = [one for one in _walk(fs, root, depth) if matches(one.path)]
    else:
        root = path.rstrip("/") + "/"
        found = list(_walk(fs, root, None))
    files = [
        _file(fs, one, name)
        for one in sorted(found)
        if left_out.takes(name := one.path.removeprefix(root), suffixes)
    ]
    if not files:
        others = left_out.by_suffix()
        what = f"which holds {others}" if others else "which matches none"
        raise _nothing(pattern, option, what, suffixes)
    return files


def _nothing(
    pattern: str, option: str, found: str, suffixes: Sequence[str] = ()
) -> ConfigError:
    wanted = f" ending in {', '.join(suffixes)}" if suffixes else ""
    return ConfigError(
        f"{option} must match at least one file{wanted}, got {pattern!r}, {found};"
        " relative paths start at the working directory"
    )


def _file(fs: Any, found: _Found, name: str) -> File:
    return File(_with_protocol(fs, found.path), name, found.bytes, found.version)


def _walk(
    fs: Any, root: str, depth: int | None, above: frozenset[str] = frozenset()
) -> Iterator[_Found]:
    """Yield the files below a directory, at most `depth` levels down (None: all).

    Links are followed, but not to one of the directories in `above`, which would lead
    in circles.
    """
    if not isinstance(fs, LocalFileSystem):
        try:
            listing = fs.find(root, maxdepth=depth, detail=True)
        except FileNotFoundError:
            return
        for name, info in listing.items():
            if info["type"] == "file" and not name.endswith("/"):
                yield _Found(name, int(info["size"]), _version(info))
        return
    real = os.path.realpath(root)
    if real in above:
        return
    try:
        entries = list(os.scandir(root))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir():
            if depth != 1 and not entry.name.startswith("."):
                deeper = None if depth is None else depth - 1
                yield from _walk(
                    fs, f"{root.rstrip('/')}/{entry.name}", deeper, above | {real}
                )
        elif entry.is_file():
            facts = entry.stat()
            path = f"{root.rstrip('/')}/{entry.name}"
            yield _Found(path, facts.st_size, str(facts.st_mtime_ns))


def _look(fs: Any, path: str) -> _Found:
    if isinstance(fs, LocalFileSystem):
        facts = os.stat(path)
        return _Found(path, facts.st_size, str(facts.st_mtime_ns))
    info = fs.info(path)
    return _Found(path, int(info["size"]), _version(info))


def _version(info: Mapping[str, Any]) -> str:
    """Choose from a file's details the one that changes when its content does.

    Listings and look-ups of one file may give times in different forms; both become the
    same text here.
    """
    for field in _VERSIONS:
        value = info.get(field)
        if isinstance(value, datetime.datetime):
            return str(value.timestamp())
        if value is not None:
            return str(value).strip('"')
    return ""


def _with_protocol(fs: Any, name: str) -> str:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return name if "file" in protocols else str(fs.unstrip_protocol(name))
