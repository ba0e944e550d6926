"""Read Parquet and Arrow IPC files, some rows of a row group at a time."""

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

from transforms.dtypes import DTYPES, Feature
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.arrow import Lengths, blocks_of, features_of, list_lengths
from transforms.sources.blocks import Block, dataset
from transforms.sources.files import Listing, list_files
from transforms.sources.plain import untyped, why_unreadable
from transforms.sources.row_groups import RowGroups, open_groups
from transforms.sources.source import File
from transforms.sources.staging import in_place

if TYPE_CHECKING:
    import tensorflow as tf

_PARALLEL_FOOTERS = 16
_SAMPLE_ROWS = 1000
_TYPED_FILES = 100  # that are asked for the types of columns
_ROW_ID = "row_id"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_HIVE = re.compile(r"(?<![^/])([^=/]++)=([^/]*)")


@dataclass(frozen=True)
class Parquet:
    """Parquet and Arrow IPC (Feather) files; only the columns needed are read.

    Numbers, booleans, text, binary and times are scalars; lists of them are vectors,
    lists of lists matrices; fields of structs are called `struct/field`. Directories
    named `column=value` add a column. Files that end in `.arrow`, `.arrows`, `.feather`
    or `.ipc` are Arrow files or streams.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem.
      lengths: column name to the length that its lists have, -1 if it differs between
        rows; of lists of lists, a list of lengths from the outermost on. For other
        columns the first thousand rows of the first file that has rows tell.
      filter: `[[column, op, value], …]`; only rows for which all terms hold are read.
        Ops are `=`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `not in`. Row groups in which,
        by their statistics, no such row can be are not planned. If absent, all rows
        are read.
    """

    path: str | list[str]
    lengths: dict[str, int | list[int]] | None = None
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

    def notes(self) -> list[str]:
        """Say which files of the listing are not read."""
        return self._files.left_out.notes()

    def describe(self) -> Mapping[str, Feature]:
        """Take the features' types from the first file that has rows."""
        uri, schema, found = self._first
        lengths = dict(found)
        for name, given in (self.lengths or {}).items():
            if name not in lengths:
                raise ConfigError(
                    f"source.lengths must name list columns of {uri!r}, got {name!r}"
                )
            sizes = given if isinstance(given, list) else [given]
            own = tuple(None if size == -1 else size for size in sizes)
            lengths[name] = own + lengths[name][len(own) :]
        features = {**self._partitions, **features_of(schema, lengths)}
        if self.filter:
            features[_ROW_ID] = Feature("string")
            for name, *_ in self.filter:
                if name not in {*schema.names, *self._partitions}:
                    raise ConfigError(
                        f"source.filter must name columns of {uri!r}, got {name!r}"
                    )
        return features

    def other_columns(self) -> Mapping[str, str]:
        """Give the columns that are there and are no features, and why."""
        with closing(open_groups(self._first[0])) as opened:
            fields = [*opened.schema, *opened.stored]
        features = self.describe()
        return {
            field.name: why_unreadable(field.name, field.type)
            for field in fields
            if field.name not in features
        }

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
            kinds = self._filtered_features | dict(features)
            constants = _constants(piece.name, kinds)
            groups = opened[piece.file]
            return self._blocks(groups, piece, features, constants, batch_rows or 1)

        return dataset(pieces, features, batch_rows, read_piece, close)

    @cached_property
    def _files(self) -> Listing:
        return list_files(self.path)

    @cached_property
    def _first(self) -> tuple[str, pa.Schema, Mapping[str, Lengths]]:
        """The first file that has rows, its schema, and the lengths of its lists."""
        for file in (*self._files, self._files[0]):
            with closing(open_groups(file.uri)) as opened:
                if any(opened.groups):
                    break
        with closing(open_groups(file.uri)) as opened:
            lengths = list_lengths(opened.head(_SAMPLE_ROWS))
        return file.uri, *self._typed(opened.schema, lengths)

    def _typed(
        self, schema: pa.Schema, lengths: Mapping[str, Lengths]
    ) -> tuple[pa.Schema, Mapping[str, Lengths]]:
        """Give columns of nothing but nulls or empty lists the type of a later file."""
        for file in self._files[:_TYPED_FILES]:
            if not untyped(schema):
                break
            with closing(open_groups(file.uri)) as opened:
                typed = {*opened.schema.names}.difference(untyped(opened.schema))
                found = list_lengths(opened.head(_SAMPLE_ROWS)) if typed else {}
            for name in typed.intersection(untyped(schema)):
                field = opened.schema.field(name).with_nullable(True)
                schema = schema.set(schema.get_field_index(name), field)
                if name in found:
                    was_empty = lengths.get(name, ())[:1] == (0,)
                    first = None if was_empty else found[name][0]
                    lengths = {**lengths, name: (first, *found[name][1:])}
        return schema, lengths

    @cached_property
    def _partitions(self) -> dict[str, Feature]:
        """The columns that directories `column=value` add.

        They are whole numbers if all values are written as such. Text with leading
        zeros, as of postal codes, stays text.
        """
        found: dict[str, set[str | None]] = {}
        for file in self._files:
            for name, value in _hive_values(file.name).items():
                found.setdefault(name, set()).add(value)
        return {
            name: Feature(
                "int64" if all(_is_number(v) for v in values - {None}) else "string",
                nullable=None in values,
            )
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
        step: int,
    ) -> Iterator[Block]:
        """Read the row groups that a piece touches."""
        first, last = piece.span or (piece.start, piece.start + (piece.rows or 0))
        wanted = [*features, *(term[0] for term in self.filter or ())]
        # Within a span, rows are counted after filtering.
        skipped = piece.start if piece.span else 0
        passed = 0
        for index, (start, stop) in enumerate(opened.bounds()):
            at, end = max(first, start), min(last, stop)
            tables = opened.read(index, wanted, at - start, end - start, step)
            while at < end:
                try:
                    stored = next(tables)
                    table = self._kept(stored, at, piece, constants)
                except (ValueError, pa.ArrowNotImplementedError) as error:
                    # Which of the damaged rows a filter would keep is not known.
                    rows = np.arange(end - at) + passed - skipped
                    passed += end - at
                    yield Block.of_faults(rows[rows >= 0], str(error), features)
                    break
                at += len(stored)
                rows = np.arange(len(table)) + passed - skipped
                passed += len(table)
                most = passed - skipped if piece.rows is None else piece.rows
                some = slice(*np.searchsorted(rows, [0, most]))
                yield from blocks_of(table[some], rows[some], features)

    def _kept(
        self, rows: pa.Table, at: int, piece: Piece, constants: Mapping[str, pa.Scalar]
    ) -> pa.Table:
        """Give the rows for which the filter holds, with constants and their keys."""
        for name, value in constants.items():
            if name not in rows.column_names:
                rows = rows.append_column(name, pa.repeat(value, len(rows)))
        if not self.filter:
            return rows
        ids = pa.array(np.arange(at, at + len(rows))).cast(pa.string())
        ids = pc.binary_join_element_wise(piece.name, ids, "#")
        if _ROW_ID in rows.column_names:
            rows = rows.drop_columns([_ROW_ID])
        return rows.append_column(_ROW_ID, ids).filter(self._expression)

    @cached_property
    def _filtered_features(self) -> dict[str, Feature]:
        """The columns in the filter, judged by its values."""
        found = {}
        for column, _, value in self.filter or ():
            values = value if isinstance(value, list) else [value]
            whole = all(isinstance(one, int | float) for one in values)
            found[column] = Feature("int64" if whole else "string")
        return found


def _constants(name: str, features: Mapping[str, Feature]) -> dict[str, pa.Scalar]:
    """Give the values of partition columns for one file."""
    constants = {}
    for column, value in _hive_values(name).items():
        if column in features:
            kind = DTYPES[features[column].dtype].arrow
            number = features[column].family == "integer" and value is not None
            constants[column] = pa.scalar(int(value or 0) if number else value, kind)
    return constants


def _hive_values(name: str) -> dict[str, str | None]:
    """Parse `column=value` directories out of a file's name."""
    directory = name.rpartition("/")[0]
    return {
        unquote(column): None if value == _HIVE_NULL else unquote(value)
        for column, value in _HIVE.findall(directory)
    }


def _is_number(value: str | None) -> bool:
    """Whether a text is a whole number of 64 bits, and is written as numbers are."""
    whole = re.fullmatch(r"-?\d{1,18}", value or "")
    return whole is not None and str(int(whole[0])) == value
