"""Read Parquet and Arrow IPC files, one row group or a part of it at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.arrow import blocks_of, features_of, list_lengths
from transforms.sources.blocks import Block, dataset
from transforms.sources.files import list_files
from transforms.sources.row_groups import RowGroups, open_groups
from transforms.sources.source import File
from transforms.sources.staging import in_place

if TYPE_CHECKING:
    import tensorflow as tf

_PARALLEL_FOOTERS = 16
_SAMPLE_ROWS = 1000
_ROW_ID = "row_id"
_HIVE = re.compile(r"(?<![^/])([^=/]++)=([^/]*)")


@dataclass(frozen=True)
class Parquet:
    """Parquet and Arrow IPC (Feather) files; only the columns needed are read.

    Numbers, booleans, text, binary and times are scalars; lists of them are vectors,
    and lists of fixed-size lists matrices. Directories named `column=value` add a
    column. Files that end in `.arrow`, `.feather` or `.ipc` are Arrow files.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem.
      lengths: column name to the length that its lists have, -1 if it differs between
        rows. For other columns the first thousand rows of the first file tell.
      filter: `[[column, op, value], …]`; only rows for which all terms hold are read.
        Ops are `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in`. Row groups in which,
        by their statistics, no such row can be are not planned. If absent, all rows
        are read.
    """

    path: str | list[str]
    lengths: dict[str, int] | None = None
    filter: list[list[Any]] | None = None

    localize = staticmethod(in_place)

    @property
    def default_key(self) -> str | None:
        """None, or with a filter `row_id`: file and number of the row as stored."""
        return _ROW_ID if self.filter else None

    def files(self) -> list[File]:
        """List the files with their row groups, which their footers name."""
        self._expression  # noqa: B018 - a wrong filter is refused before any reading
        with ThreadPoolExecutor(_PARALLEL_FOOTERS) as pool:
            return list(pool.map(self._with_row_groups, self._files))

    def describe(self) -> Mapping[str, Feature]:
        """Take the features' types from the first file's schema."""
        with closing(open_groups(self._files[0].uri)) as opened:
            lengths = list_lengths(opened.head(_SAMPLE_ROWS))
        for name, length in (self.lengths or {}).items():
            if name not in lengths:
                raise ConfigError(
                    f"source.lengths must name list columns of {self._files[0].uri!r},"
                    f" got {name!r}"
                )
            lengths[name] = None if length == -1 else length
        features = {n: Feature(dtype) for n, dtype in self._partitions.items()}
        features |= features_of(opened.schema, lengths)
        if self.filter:
            features[_ROW_ID] = Feature("string")
            for name, *_ in self.filter:
                if name not in {*opened.schema.names, *self._partitions}:
                    raise ConfigError(
                        "source.filter must name columns of"
                        f" {self._files[0].uri!r}, got {name!r}"
                    )
        return features

    def read(
        self,
        pieces: Sequence[Piece],
        features: Mapping[str, Feature],
        batch_rows: int | None,
    ) -> tf.data.Dataset:
        """Read rows through Arrow, from buffers to tensors without Python values."""
        opened: dict[str, RowGroups] = {}

        def close() -> None:
            for file in opened.values():
                file.close()
            opened.clear()

        def read_piece(piece: Piece) -> Iterator[Block]:
            if piece.file not in opened:
                close()
                opened[piece.file] = open_groups(piece.file)
            dtypes = self._filtered_dtypes | {n: f.dtype for n, f in features.items()}
            constants = _constants(piece.name, dtypes)
            return self._blocks(opened[piece.file], piece, features, constants)

        return dataset(pieces, features, batch_rows, read_piece, close)

    @cached_property
    def _files(self) -> list[File]:
        return list_files(self.path)

    @cached_property
    def _partitions(self) -> dict[str, str]:
        """`{column: dtype}` of the columns that directories `column=value` add."""
        found: dict[str, set[str]] = {}
        for file in self._files:
            for name, value in _hive_values(file.name).items():
                found.setdefault(name, set()).add(value)
        whole = re.compile(r"-?\d{1,18}").fullmatch
        return {
            name: "int64" if all(whole(value) for value in values) else "string"
            for name, values in found.items()
        }

    @cached_property
    def _expression(self) -> Any:
        if not self.filter:
            return None
        try:
            return pq.filters_to_expression([tuple(term) for term in self.filter])
        except (ValueError, TypeError) as error:
            raise ConfigError(
                "source.filter must be [[column, op, value], …], got"
                f" {self.filter!r}: {error}"
            ) from None

    def _with_row_groups(self, file: File) -> File:
        with closing(open_groups(file.uri)) as opened:
            if not self.filter:
                return replace(file, blocks=tuple(opened.groups), divisible=False)
            constants = _constants(file.name, self._partitions)
            bounds = opened.bounds()
            try:
                groups = opened.matching(self._expression, constants)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise ConfigError(
                    f"source.filter must fit the columns of every file, got"
                    f" {self.filter} for {file.uri!r}: {error}"
                ) from error
            spans = [bounds[group] for group in groups if opened.groups[group]]
        return replace(file, blocks=None if spans else (), spans=tuple(spans))

    def _blocks(
        self,
        opened: RowGroups,
        piece: Piece,
        features: Mapping[str, Feature],
        constants: Mapping[str, pa.Scalar],
    ) -> Iterator[Block]:
        """Read the row groups that a piece touches."""
        first, last = piece.span or (piece.start, piece.start + (piece.rows or 0))
        wanted = [*features, *(term[0] for term in self.filter or ())]
        for index, (start, stop) in enumerate(opened.bounds()):
            begin, end = max(first, start), min(last, stop)
            if begin >= end:
                continue
            stored = np.arange(begin, end, dtype=np.int64)
            try:
                group = opened.read(index, wanted)[begin - start : end - start]
                for name, value in constants.items():
                    if name not in group.column_names:
                        group = group.append_column(name, pa.repeat(value, len(group)))
                if self.filter:
                    group = self._filtered(group, stored, piece)
            except (ValueError, pa.ArrowNotImplementedError) as error:
                # Which of the damaged rows a filter would have kept is not known.
                rows = stored - first - (piece.start if piece.span else 0)
                yield Block.of_faults(rows[rows >= 0], str(error), features)
                continue
            rows = np.arange(len(group)) + begin - first
            yield from blocks_of(group, rows, features)

    def _filtered(self, group: pa.Table, stored: np.ndarray, piece: Piece) -> pa.Table:
        """Keep the piece's rows for which the filter holds, with their keys."""
        ids = pa.array(stored).cast(pa.string())
        ids = pc.binary_join_element_wise(piece.name, ids, "#")
        if _ROW_ID in group.column_names:
            group = group.drop_columns([_ROW_ID])
        kept = group.append_column(_ROW_ID, ids).filter(self._expression)
        # Within a span, rows are counted after filtering.
        most = len(kept) if piece.rows is None else piece.rows
        return kept[piece.start : piece.start + most]

    @cached_property
    def _filtered_dtypes(self) -> dict[str, str]:
        """`{column: dtype}` of the columns in the filter, judged by its values."""
        found = {}
        for column, _, value in self.filter or ():
            values = value if isinstance(value, list) else [value]
            whole = all(isinstance(one, int | float) for one in values)
            found[column] = "int64" if whole else "string"
        return found


def _constants(name: str, dtypes: Mapping[str, str]) -> dict[str, pa.Scalar]:
    """Give the values of partition columns for one file."""
    return {
        column: pa.scalar(int(value) if dtypes[column] == "int64" else value)
        for column, value in _hive_values(name).items()
        if column in dtypes
    }


def _hive_values(name: str) -> dict[str, str]:
    """Parse `column=value` directories out of a file's name."""
    directory = name.rpartition("/")[0]
    return {n: unquote(value) for n, value in _HIVE.findall(directory)}
