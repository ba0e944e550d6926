"""Open Parquet and Arrow IPC files, and read one row group or some rows of it."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import ConfigError
from transforms.sources.ipc_messages import Message, messages
from transforms.sources.plain import flat_column, flat_schema, is_list, plain_type

IPC_SUFFIXES = (".arrow", ".arrows", ".feather", ".ipc")
_IPC_MAGIC = b"ARROW1"
_TYPES = b"ARROW:schema"  # where a Parquet file says what its columns were in Arrow
_TAIL_BYTES = 8  # of a Parquet file, behind its footer: how long that is, and "PAR1"
_NULL_LISTS = "Expected all lists to be of size"
_DECODED_BYTES = 4 << 20  # that are decoded at a time, and about what caches hold
_BUFFER_BYTES = 64 << 10  # of each column that is read from a local disk
_MOST_ROWS = 65_536  # at a time, of columns of next to no bytes


class RowGroups:
    """An open Parquet or Arrow IPC file; record batches of the latter count as groups.

    Attributes:
      stored: Arrow schema of the columns as they are stored.
      schema: the same with the fields of structs in the place of structs.
      groups: number of rows in each row group.
    """

    stored: pa.Schema
    schema: pa.Schema
    groups: list[int]
    _streams: list[Any]

    def close(self) -> None:
        """Close the file."""
        for stream in self._streams:
            stream.close()

    def bounds(self) -> list[tuple[int, int]]:
        """Give for each row group its first row and the row after its last."""
        return list(itertools.pairwise(itertools.accumulate(self.groups, initial=0)))

    def head(self, rows: int) -> pa.Table:
        """Read the first rows of the list columns; no rows if they are damaged."""
        names = [f.name for f in self.schema if is_list(plain_type(f.type))]
        first = next((i for i, count in enumerate(self.groups) if count), None)
        if first is None or not names:
            return pa.schema([self.schema.field(name) for name in names]).empty_table()
        try:
            tables = [*self.read(first, names, 0, rows)]
            kind = tables[-1].schema  # the first ones may have lists of fixed size
            return pa.concat_tables([table.cast(kind) for table in tables])
        except ValueError:
            return self.schema.empty_table()

    def read(
        self,
        group: int,
        names: Sequence[str],
        first: int = 0,
        last: int | None = None,
        step: int = 1,
    ) -> Iterator[pa.Table]:
        """Read some columns of rows of a row group, a few megabytes at a time.

        Names that the file lacks are left out. Of a name that is a struct here, or
        would lie in a column that is none, this column comes, so that its type can be
        told. Where rows are cut depends on the row group alone, not on which of its
        rows are asked for.

        Args:
          group: its number.
          names: of the columns.
          first: row of the group to begin with.
          last: row after the last one; all by default.
          step: each table but the last ends at a multiple of so many rows.

        Raises:
          ValueError: the row group is damaged.
          OSError: the storage failed.
        """
        present = [n if n in self.schema.names else n.partition("/")[0] for n in names]
        there = {*self.schema.names, *self.stored.names}
        known = [name for name in dict.fromkeys(present) if name in there]
        rows = self.groups[group]
        last = rows if last is None else min(last, rows)
        begin = 0
        for table in self._read(group, known, step):
            end = begin + len(table)
            if end > first:
                some = table[max(first - begin, 0) : last - begin]
                columns = [flat_column(some, name) for name in known]
                # Without columns the rows are counted by another one.
                yield pa.Table.from_arrays(columns, known) if columns else some
            begin = end
            if begin >= last:
                break
        if begin < last:
            raise ValueError(
                f"row group {group} is damaged: it must hold {rows} rows, has {begin}"
            )

    def _read(self, group: int, names: Sequence[str], step: int) -> Iterator[pa.Table]:
        """Read the stored columns that hold some columns, from the first row on."""
        raise NotImplementedError

    def matching(self, expression: Any, constants: Mapping[str, Any]) -> list[int]:
        """Number the row groups that may hold rows for which an expression holds.

        Args:
          expression: filter, as pyarrow.dataset writes it.
          constants: columns that have one value in the whole file.
        """
        return list(range(len(self.groups)))


class _ParquetFile(RowGroups):
    def __init__(self, uri: str) -> None:
        local, (fs, path) = storage.local_path(uri), storage.filesystem(uri)
        self._is_local = local is not None
        self._streams = [pa.OSFile(os.fsencode(local)) if local else fs.open(path)]
        try:
            self._file = self._open()
        except (pa.ArrowInvalid, OSError):
            self.close()
            raise
        self.stored = self._file.schema_arrow
        self.schema = flat_schema(self.stored)
        metadata = self._file.metadata
        self.groups = [
            metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)
        ]

    def _read(self, group: int, names: Sequence[str], step: int) -> Iterator[pa.Table]:
        flat = [n if n in self.stored.names else n.replace("/", ".") for n in names]
        rows = self._rows_at_a_time(group, flat, step)
        done = 0
        try:
            try:
                for table in _tables(self._file, group, flat, rows):
                    yield table
                    done += 1
            except pa.ArrowInvalid as error:
                if _NULL_LISTS not in str(error):
                    raise
                untyped = _tables(self._untyped, group, flat, rows)
                yield from itertools.islice(untyped, done, None)
        except OSError as error:
            if _is_damage(error):
                raise ValueError(f"row group {group} is damaged: {error}") from error
            raise

    def _rows_at_a_time(self, group: int, names: Sequence[str], step: int) -> int:
        """Choose how many rows to decode at a time: a multiple of `step`."""
        metadata = self._file.metadata.row_group(group)
        size: int = 0
        for index in range(metadata.num_columns):
            column = metadata.column(index)
            path = f"{column.path_in_schema}."
            if any(path.startswith(f"{name}.") for name in names):
                size += column.total_uncompressed_size
        fitting = _DECODED_BYTES * self.groups[group] // max(size, 1)
        return max(min(fitting, _MOST_ROWS) // step, 1) * step

    @cached_property
    def _untyped(self) -> pq.ParquetFile:
        """The same file, as if nobody had stored Arrow's types in it.

        Of lists of fixed size Arrow reads no null ones (25); as lists of any size it
        does. Times lose their zone, and dictionaries are read as their values.
        """
        stream = self._streams[0]
        stream.seek(-_TAIL_BYTES, io.SEEK_END)
        tail = stream.read()
        size = int.from_bytes(tail[:-4], "little")
        stream.seek(-_TAIL_BYTES - size, io.SEEK_END)
        footer = stream.read(size).replace(_TYPES, _TYPES.lower())
        alone = pa.BufferReader(b"".join([tail[-4:], footer, tail]))
        return self._open(pq.read_metadata(alone))

    def _open(self, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
        return pq.ParquetFile(
            self._streams[0],
            metadata=metadata,
            pre_buffer=not self._is_local,  # one request instead of many
            buffer_size=_BUFFER_BYTES if self._is_local else 0,
            page_checksum_verification=True,
            coerce_int96_timestamp_unit="us",  # nanoseconds end in the year 2262
        )

    def matching(self, expression: Any, constants: Mapping[str, Any]) -> list[int]:
        known = pads.scalar(True)
        for name, value in constants.items():
            field = pads.field(name)
            known = known & (field == value if value.is_valid else field.is_null())
        fragment = pads.ParquetFileFormat().make_fragment(
            self._streams[0], partition_expression=known
        )
        schema = self.stored
        for name, value in constants.items():
            if name not in schema.names:
                schema = schema.append(pa.field(name, value.type))
        try:
            chosen = fragment.subset(expression, schema)
        except pa.ArrowInvalid as error:
            if "No match for FieldRef" not in str(error):
                raise
            return super().matching(expression, constants)  # of a struct's field
        return [group.id for group in chosen.row_groups]


class _IpcFile(RowGroups):
    def __init__(self, uri: str) -> None:
        self._fs, self._path = storage.filesystem(uri)
        self._streams = []
        try:
            self.stored = self._open(None).schema
            self.schema = flat_schema(self.stored)
            narrow = self._open([0])
            self.groups = [
                narrow.get_batch(i).num_rows for i in range(narrow.num_record_batches)
            ]
        except (pa.ArrowInvalid, OSError):
            self.close()
            raise

    def _read(self, group: int, names: Sequence[str], step: int) -> Iterator[pa.Table]:
        fields = _holding(self.stored, names)
        try:
            batch = self._open(fields or [0]).get_batch(group)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and not _is_damage(error):
                raise
            raise ValueError(f"record batch {group} is damaged: {error}") from error
        yield pa.Table.from_batches([batch])

    def _open(self, fields: list[int] | None) -> Any:
        self.close()  # of the record batch before
        self._streams = [self._fs.open(self._path, "rb")]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        return pa.ipc.open_file(self._streams[0], options=options)


class _IpcStream(RowGroups):
    """An Arrow IPC stream, as Hugging Face stores data sets.

    It has no footer: the heads of its messages tell where record batches lie.
    """

    def __init__(self, uri: str) -> None:
        self._fs, self._path = storage.filesystem(uri)
        self._streams = [self._fs.open(self._path, "rb")]
        try:
            self._head, *rest = messages(self._streams[0])
            with pa.ipc.open_stream(self._bytes([self._head])) as reader:
                self.stored = reader.schema
        except (pa.ArrowInvalid, OSError, ValueError):
            self.close()
            raise
        self.schema = flat_schema(self.stored)
        self._rest = rest
        self._batches = [i for i, one in enumerate(rest) if one.rows is not None]
        self.groups = [rest[i].rows or 0 for i in self._batches]

    def _read(self, group: int, names: Sequence[str], step: int) -> Iterator[pa.Table]:
        last = self._batches[group]
        dictionaries = [one for one in self._rest[:last] if one.rows is None]
        fields = _holding(self.stored, names)
        options = pa.ipc.IpcReadOptions(included_fields=fields or [0])
        wanted = self._bytes([self._head, *dictionaries, self._rest[last]])
        try:
            with pa.ipc.open_stream(wanted, options=options) as reader:
                batch = reader.read_next_batch()
        except (pa.ArrowInvalid, OSError, StopIteration) as error:
            raise ValueError(f"record batch {group} is damaged: {error}") from error
        yield pa.Table.from_batches([batch])

    def _bytes(self, wanted: Sequence[Message]) -> pa.Buffer:
        """Read messages from the file, one after the other."""
        stream = self._streams[0]
        found = b""
        for one in wanted:
            stream.seek(one.start)
            found += stream.read(one.end - one.start)
        return pa.py_buffer(found)


def _tables(
    file: pq.ParquetFile, group: int, columns: Sequence[str], rows: int
) -> Iterator[pa.Table]:
    """Decode a row group, so many rows at a time."""
    for batch in file.iter_batches(rows, row_groups=[group], columns=columns):
        yield pa.Table.from_batches([batch])


def _holding(stored: pa.Schema, names: Sequence[str]) -> list[int]:
    """Number the stored columns that are, or hold, some columns."""
    return [
        index
        for index, field in enumerate(stored)
        if any(f"{name}/".startswith(f"{field.name}/") for name in names)
    ]


def _open_ipc(uri: str) -> RowGroups:
    """Open an Arrow IPC file, or a stream, by the first bytes."""
    fs, path = storage.filesystem(uri)
    with fs.open(path, "rb") as stream:
        is_file = stream.read(len(_IPC_MAGIC)) == _IPC_MAGIC
    return _IpcFile(uri) if is_file else _IpcStream(uri)


def open_groups(uri: str) -> RowGroups:
    """Open a Parquet file, or by its suffix an Arrow IPC file or stream.

    Raises:
      ConfigError: the file is damaged, or of another format.
      OSError: the storage failed.
    """
    is_ipc = uri.endswith(IPC_SUFFIXES)
    try:
        return _open_ipc(uri) if is_ipc else _ParquetFile(uri)
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and not _is_damage(error):
            raise
        kind, part = ("Arrow IPC", "head") if is_ipc else ("Parquet", "footer")
        raise ConfigError(
            f"source.path must hold {kind} files, cannot read the {part} of {uri!r}:"
            f" {error}; remove or replace the file"
        ) from error


def _is_damage(error: OSError) -> bool:
    """Whether an error of Arrow means damaged bytes rather than failed storage.

    Errors of the storage have an error number, or are of a subclass of OSError.
    """
    return type(error) is OSError and error.errno is None
