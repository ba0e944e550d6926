"""Copy remote files to the local disk, for what can open only local ones.

Files of a source are copied shard by shard, files of a model while it is loaded.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from transforms import scratch, storage
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.files import check_unchanged
from transforms.sources.source import Localizes, Source

_PARALLEL_COPIES = 16
_CHUNK_BYTES = 8 << 20
_given: dict[str, str] = {}


@contextlib.contextmanager
def readable(source: Source, pieces: Sequence[Piece]) -> Iterator[Sequence[Piece]]:
    """Give the pieces of a shard, their files where the source can open them.

    Copies lie in a scratch directory of this process and are removed on leaving. If the
    process dies, the next process that starts removes them.

    Raises:
      RuntimeError: a file is not the one that was planned.
      OSError: a file cannot be copied, or the local disk has no room for it.
    """
    if not isinstance(source, Localizes):
        yield pieces
        return
    with scratch.directory() as directory:
        yield source.localize(pieces, directory)


def in_place(pieces: Sequence[Piece], directory: Path) -> Sequence[Piece]:
    """Check that no file has changed; for readers that open remote files themselves."""
    check_unchanged(pieces)
    return pieces


def copied(pieces: Sequence[Piece], directory: Path) -> Sequence[Piece]:
    """Check that no file has changed, and copy those that are not local, each once."""
    check_unchanged(pieces)
    uris = list(dict.fromkeys(piece.file for piece in pieces))
    remote = [uri for uri in uris if storage.local_path(uri) is None]
    if not remote:
        return pieces
    targets = {uri: target_in(directory, i, uri) for i, uri in enumerate(remote)}
    with ThreadPoolExecutor(_PARALLEL_COPIES) as pool:
        list(pool.map(_copy, remote, targets.values()))
    return [
        replace(piece, file=str(targets[piece.file]))
        if piece.file in targets
        else piece
        for piece in pieces
    ]


@contextlib.contextmanager
def readable_copy(uri: str) -> Iterator[str]:
    """Give a local path of a file, copied for the length of the block if need be."""
    if storage.local_path(uri) is not None:
        yield str(storage.local_path(uri))
        return
    with scratch.directory() as directory:
        target = target_in(directory, 0, uri)
        _copy(uri, target)
        yield str(target)


def target_in(directory: Path, index: int, uri: str) -> Path:
    """Name a local copy by its index, with the file's suffix, which readers need."""
    suffix = re.search(r"\.[A-Za-z0-9]+$", uri)
    return directory / f"{index:06d}{suffix[0] if suffix else ''}"


def copy_range(uri: str, start: int, stop: int, target: Path) -> None:
    """Copy the bytes from `start` to before `stop` of a file to the local disk.

    Raises:
      OSError: the local disk has no room, or the file is shorter.
    """
    _check_room(target.parent, stop - start, uri)
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as origin, target.open("wb") as stream:
        origin.seek(start)
        left = stop - start
        while left and (data := origin.read(min(left, _CHUNK_BYTES))):
            stream.write(data)
            left -= len(data)
    if left:
        raise OSError(f"{uri} must have {stop} bytes, {left} are missing")


def _copy(uri: str, target: Path) -> None:
    fs, path = storage.filesystem(uri)
    size = int(fs.info(path)["size"])
    _check_room(target.parent, size, uri)
    fs.get_file(path, str(target))
    if target.stat().st_size != size:
        raise OSError(
            f"{uri} must have {size} bytes, its copy has {target.stat().st_size}"
        )


def _check_room(directory: Path, needed: int, uri: str) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(
            f"the local disk must have room for {uri} ({needed} bytes), {directory} has"
            f" {free} bytes free; set TMPDIR to a larger disk, or lower"
            " table.rows_per_part"
        )


def use_copies(copies: Mapping[str, str]) -> None:
    """Let `local_copies` give copies that another process has made, and make none.

    Args:
      copies: `{uri: path of the copy}`.
    """
    _given.update(copies)


@contextlib.contextmanager
def local_copies(uris: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Give local paths of the files, directories or checkpoints that a model needs.

    Copies lie in a scratch directory of this process and are removed on leaving. If the
    process dies, the next process that starts removes them.

    Args:
      uris: `{uri: option of the config that names it}`, on any filesystem.

    Yields:
      `{uri: path}`; what is local already is not copied.

    Raises:
      ConfigError: there is no such file.
    """
    with scratch.directory() as directory:
        yield {
            uri: _local(uri, option, directory / str(index))
            for index, (uri, option) in enumerate(uris.items())
        }


def _local(uri: str, option: str, directory: Path) -> Path:
    """Give the local path of a file, directory or checkpoint; copy it if need be."""
    if uri in _given:
        return Path(_given[uri])
    fs, path = storage.filesystem(uri.rstrip("/"))
    is_checkpoint = not fs.exists(path)
    if is_checkpoint and not fs.exists(f"{path}.index"):
        raise ConfigError(
            f"{option} must be an existing file, got {uri!r} in the working directory"
            f" {str(Path.cwd())!r}{storage.why_missing(uri)}"
        )
    local = storage.local_path(uri.rstrip("/"))
    if local is not None:
        return local
    directory.mkdir()
    copy = directory / path.rpartition("/")[2]
    if is_checkpoint:
        fs.get(fs.glob(f"{path}.*"), str(directory))
    else:
        fs.get(path, str(copy), recursive=fs.isdir(path))
    return copy
