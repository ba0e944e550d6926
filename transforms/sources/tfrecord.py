"""Read TFRecord files of tf.Example or tf.SequenceExample messages."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import mmap
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transforms import storage
from transforms.dtypes import Feature
from transforms.errors.failure import REST_LOST
from transforms.lookup import ConfigError
from transforms.shard import Piece, position
from transforms.sources.examples import FIRST_RECORDS, Examples
from transforms.sources.files import Listing, check_unchanged, list_files
from transforms.sources.source import File, numbered_records, unconverted
from transforms.sources.staging import copied, copy_range, readable_copy, target_in

if TYPE_CHECKING:
    import tensorflow as tf

_COMPRESSION = {"none": "", "gzip": "GZIP", "zlib": "ZLIB"}
_SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zlib": "zlib"}
_LENGTH = struct.Struct("<Q")
_HEAD_BYTES, _TAIL_BYTES = 12, 4  # length and its checksum; checksum of the data


@dataclass(frozen=True)
class TfRecord(Examples):
    """TFRecord files; without an index, rows are known only after reading.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem.
      features: name to dtype, or to `{dtype, shape}`, -1 for a length that differs
        between rows. If absent, the types are taken from the first record: one value is
        a scalar, printable text a string, any other bytes are bytes.
      sequence_features: for tf.SequenceExample messages the features of their lists,
        with the shape of one entry. If absent, taken from the first record.
      compression: how all files are compressed. If absent, their suffixes say it
        (`.gz`, `.gzip`, `.zlib`).
      index: URI of a directory for indexes, which say where each record begins. They
        are made at the first planning, by reading the head of every record; with them
        rows are known before reading and large files are cut. Not for compressed files.
    """

    compression: Literal["none", "gzip", "zlib"] | None = None
    index: str | None = None

    def files(self) -> list[File]:
        """List the files; with an index also count their rows.

        Raises:
          ConfigError: there are no files, or files with an index are compressed or not
            whole.
        """
        if self.index is None:
            return self._files
        storage.make_directory(self.index)
        indexed = []
        for file in self._files:
            if self._kind(file.uri):
                raise ConfigError(
                    f"source.index must be left out for compressed files, got"
                    f" {file.uri!r}"
                )
            offsets = self._offsets(file.uri, file.identity)
            indexed.append(replace(file, blocks=(len(offsets) - 1,)))
        return indexed

    def localize(self, pieces: Sequence[Piece], directory: Path) -> Sequence[Piece]:
        """Copy files that are not local; with an index only the bytes of the pieces."""
        if self.index is None:
            return copied(pieces, directory)
        check_unchanged(pieces)
        local = []
        for number, piece in enumerate(pieces):
            offsets = self._offsets(piece.file, piece.version)
            start, stop = offsets[[piece.start, piece.start + (piece.rows or 0)]]
            target = target_in(directory, number, piece.file)
            copy_range(piece.file, int(start), int(stop), target)
            local.append(replace(piece, file=str(target), start=0))
        return local

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes()

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read records and parse them, whole batches where batches are asked for."""
        return self._parsed(self._records(pieces), features, batch_rows)

    def _records(self, pieces: Sequence[Piece]) -> tf.data.Dataset:
        """Read `(position, record)`; files next to each other may differ in kind."""
        kinds = [self._kind(piece.file) for piece in pieces]
        parts = []
        for kind, group in itertools.groupby(range(len(pieces)), kinds.__getitem__):
            indexes = list(group)
            records = tfrecords([pieces[i] for i in indexes], kind)
            parts.append(_moved(records, position(indexes[0])))
        return functools.reduce(lambda one, other: one.concatenate(other), parts)

    def _first_records(self) -> list[bytes]:
        import tensorflow as tf

        for file in self._files:
            if not file.bytes:
                continue
            with readable_copy(file.uri) as path:
                records = tf.data.TFRecordDataset(path, self._kind(file.uri))
                found = list(records.take(FIRST_RECORDS).as_numpy_iterator())
            if found:
                return found
        return []

    @cached_property
    def _files(self) -> Listing:
        return list_files(self.path)

    def _kind(self, uri: str) -> str:
        suffix = "." + uri.rpartition(".")[2]
        return _COMPRESSION[self.compression or _SUFFIXES.get(suffix, "none")]

    def _offsets(self, uri: str, identity: str) -> np.ndarray:
        """Give the byte at which each record begins, and the end: int64 `[rows + 1]`.

        They are read from the index, which is made first if there is none.
        """
        assert self.index is not None
        name = hashlib.sha256(f"{uri} {identity}".encode()).hexdigest()[:32]
        place = storage.join(self.index, f"{name}.npy")
        try:
            return np.asarray(np.load(io.BytesIO(storage.read(place))))
        except FileNotFoundError:
            pass
        fs, path = storage.filesystem(uri)
        size = int(fs.info(path)["size"])
        with fs.open(path, "rb") as stream:

            def length_at(offset: int) -> int:
                stream.seek(offset)
                return int(_LENGTH.unpack(stream.read(_LENGTH.size))[0])

            offsets = list(_record_offsets(length_at, size))
        if offsets[-1] != size:
            raise ConfigError(
                f"source.path must hold whole files, {uri!r} has {size} bytes and its"
                f" last record ends at {offsets[-1]}; replace the file"
            )
        data = io.BytesIO()
        np.save(data, np.array(offsets, np.int64))
        storage.replace(place, data.getvalue())
        return np.array(offsets, np.int64)


def tfrecords(pieces: Sequence[Piece], kind: str = "") -> tf.data.Dataset:
    """Read records of local files as a dataset of `(position, record bytes)`.

    Args:
      pieces: the rows to read.
      kind: compression, `GZIP` or `ZLIB`; empty for none.
    """
    records = _open(kind)
    return numbered_records(pieces, records, owner=records)


@cache
def _open(kind: str) -> Callable[[Any], tf.data.Dataset]:
    import tensorflow as tf

    def records(uri: Any) -> tf.data.Dataset:
        found = tf.data.TFRecordDataset(uri, kind, buffer_size=8 << 20)
        return found if kind else found.concatenate(_end(uri))

    return records


def _moved(records: tf.data.Dataset, by: int) -> tf.data.Dataset:
    """Add to the positions of records."""
    if not by:
        return records
    return records.map(unconverted(lambda at, record: (at + by, record)))


def _end(uri: Any) -> tf.data.Dataset:
    """Give an empty dataset that fails if a file ends in the head of a record.

    TensorFlow itself does not notice that such a file is truncated.
    """
    import tensorflow as tf

    def check(uri: bytes) -> np.ndarray:
        with Path(uri.decode()).open("rb") as stream:
            size = stream.seek(0, io.SEEK_END)
            if not size:
                return np.array([], object)
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                end = deque(
                    _record_offsets(lambda at: _LENGTH.unpack_from(data, at)[0], size),
                    maxlen=1,
                )[0]
        if 0 < size - end < _HEAD_BYTES:
            raise ValueError(f"the file ends in the head of a record; {REST_LOST}")
        return np.array([], object)

    def nothing(uri: Any) -> tf.data.Dataset:
        found = tf.numpy_function(check, [uri], tf.string)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(found, [None]))

    return tf.data.Dataset.from_tensors(uri).flat_map(unconverted(nothing))


def _record_offsets(length_at: Callable[[int], int], size: int) -> Iterator[int]:
    """Yield the byte at which each record begins, then that after the last whole one.

    Args:
      length_at: reads the length that stands at a byte.
      size: bytes of the file.
    """
    offset = 0
    yield offset
    while offset + _HEAD_BYTES <= size:
        offset += _HEAD_BYTES + length_at(offset) + _TAIL_BYTES
        if offset > size:
            return
        yield offset
