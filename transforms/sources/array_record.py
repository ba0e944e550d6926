"""Read ArrayRecord files of tf.Example or tf.SequenceExample messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from transforms import storage
from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.blocks import Block, dataset
from transforms.sources.examples import FIRST_RECORDS, Examples
from transforms.sources.files import Listing, list_files
from transforms.sources.source import File, unconverted
from transforms.sources.staging import copied, readable_copy

if TYPE_CHECKING:
    import tensorflow as tf

_READ_RECORDS = 256
_PARALLEL_FOOTERS = 16
RECORD = {"record": Feature("bytes")}


@dataclass(frozen=True)
class ArrayRecord(Examples):
    """ArrayRecord files; any range of records is read without those before it.

    How many records a local file holds is known before reading. A file elsewhere is
    planned as a whole and its records are counted when it is read.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem.
      features: name to dtype, or to `{dtype, shape}`, -1 for a length that differs
        between rows. If absent, the types are taken from the first record.
      sequence_features: for tf.SequenceExample messages the features of their lists,
        with the shape of one entry. If absent, taken from the first record.
    """

    localize = staticmethod(copied)

    def files(self) -> list[File]:
        """List the files; local ones with the number of their records."""
        with ThreadPoolExecutor(_PARALLEL_FOOTERS) as pool:
            return list(pool.map(_counted, self._files))

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes()

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read records and parse them into examples."""
        return self._parsed(array_records(pieces), features, batch_rows)

    def _first_records(self) -> list[bytes]:
        for file in self._files:
            with (
                readable_copy(file.uri) as path,
                closing(_open(path, file.uri)) as reader,
            ):
                if count := min(reader.num_records(), FIRST_RECORDS):
                    return list(reader.read(0, count))
        return []

    @cached_property
    def _files(self) -> Listing:
        return list_files(self.path)


def array_records(pieces: Sequence[Piece]) -> tf.data.Dataset:
    """Read records of local files as a dataset of `(position, record bytes)`.

    A damaged record fails alone: reading goes on with the next one.
    """

    def read_piece(piece: Piece) -> Iterator[Block]:
        with closing(_open(piece.file, piece.name)) as reader:
            stop = reader.num_records()
            if piece.rows is not None:
                stop = min(stop, piece.start + piece.rows)
            for start in range(piece.start, stop, _READ_RECORDS):
                yield _block(reader, start, min(start + _READ_RECORDS, stop), piece)

    records = dataset(pieces, RECORD, None, read_piece)
    return records.map(unconverted(lambda at, example: (at, example["record"])))


def _block(reader: Any, start: int, stop: int, piece: Piece) -> Block:
    faults = np.full(stop - start, "", object)
    try:
        records = reader.read(start, stop)
    except (RuntimeError, ValueError):
        records = []
        for row in range(start, stop):
            try:
                records += reader.read([row])
            except (RuntimeError, ValueError) as error:
                records.append(b"")
                faults[row - start] = f"record {row} is damaged: {error}"
    values = np.empty(stop - start, object)
    values[:] = records
    rows = np.arange(start - piece.start, stop - piece.start, dtype=np.int64)
    return Block(rows, {"record": values}, {}, faults)


def _counted(file: File) -> File:
    if storage.local_path(file.uri) is None:
        return file
    with closing(_open(file.uri, file.uri)) as reader:
        return replace(file, blocks=(reader.num_records(),))


def _open(path: str, uri: str) -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ConfigError(
            "source.reader array_record needs the package array_record, which is not"
            " installed here"
        ) from error
    reader = array_record_module.ArrayRecordReader(path)
    if not reader.ok():
        try:
            reader.read_all()
            reason = "no reason given"
        except (RuntimeError, ValueError) as error:
            reason = str(error)
        raise ConfigError(
            f"source.path must hold ArrayRecord files, cannot read {uri!r}: {reason};"
            " remove or replace the file"
        )
    return reader
