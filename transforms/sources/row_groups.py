"""Open Parquet and Arrow IPC files, and read one row group at a time."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import ConfigError

_IPC_SUFFIXES = (".arrow", ".feather", ".ipc")


class RowGroups:
    """An open Parquet or Arrow IPC file; record batches of the latter count as groups.

    Attributes:
      schema: Arrow schema of the columns.
      groups: number of rows in each row group.
    """

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
        names = [field.name for field in self.schema if pa.types.is_list(field.type)]
        try:
            return self.read(0, names)[:rows] if self.groups and names else pa.table({})
        except ValueError:
            return self.schema.empty_table()

    def read(self, group: int, names: Sequence[str]) -> pa.Table:
        """Read some columns of a row group; names that the file lacks are left out.

        Raises:
          ValueError: the row group is damaged.
          OSError: the storage failed.
        """
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
        fs, path = storage.filesystem(uri)
        self._streams = [fs.open(path, "rb")]
        try:
            self._file = pq.ParquetFile(
                self._streams[0], pre_buffer=True, page_checksum_verification=True
            )
        except (pa.ArrowInvalid, OSError):
            self.close()
            raise
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.groups = [
            metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)
        ]

    def read(self, group: int, names: Sequence[str]) -> pa.Table:
        try:
            return self._file.read_row_group(group, columns=list(names))
        except OSError as error:
            if _is_damage(error):
                raise ValueError(f"row group {group} is damaged: {error}") from error
            raise

    def matching(self, expression: Any, constants: Mapping[str, Any]) -> list[int]:
        known = pads.scalar(True)
        for name, value in constants.items():
            known = known & (pads.field(name) == value)
        fragment = pads.ParquetFileFormat().make_fragment(
            self._streams[0], partition_expression=known
        )
        schema = self.schema
        for name, value in constants.items():
            if name not in schema.names:
                schema = schema.append(pa.field(name, value.type))
        return [group.id for group in fragment.subset(expression, schema).row_groups]


class _IpcFile(RowGroups):
    def __init__(self, uri: str) -> None:
        self._fs, self._path = storage.filesystem(uri)
        self._streams = []
        try:
            self.schema = self._open(None).schema
            narrow = self._open([0])
            self.groups = [
                narrow.get_batch(i).num_rows for i in range(narrow.num_record_batches)
            ]
        except (pa.ArrowInvalid, OSError):
            self.close()
            raise

    def read(self, group: int, names: Sequence[str]) -> pa.Table:
        fields = sorted(
            {i for n in names for i in self.schema.get_all_field_indices(n)}
        )
        try:
            batch = self._open(fields or [0]).get_batch(group)
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and not _is_damage(error):
                raise
            raise ValueError(f"record batch {group} is damaged: {error}") from error
        return pa.Table.from_batches([batch])

    def _open(self, fields: list[int] | None) -> Any:
        self.close()  # of the record batch before
        self._streams = [self._fs.open(self._path, "rb")]
        options = pa.ipc.IpcReadOptions(included_fields=fields)
        return pa.ipc.open_file(self._streams[0], options=options)


def open_groups(uri: str) -> RowGroups:
    """Open a Parquet file, or by its suffix an Arrow IPC file.

    Raises:
      ConfigError: the file is damaged, or of another format.
      OSError: the storage failed.
    """
    is_ipc = uri.endswith(_IPC_SUFFIXES)
    try:
        return _IpcFile(uri) if is_ipc else _ParquetFile(uri)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and not _is_damage(error):
            raise
        kind, part = ("Arrow IPC", "footer") if is_ipc else ("Parquet", "footer")
        raise ConfigError(
            f"source.path must hold {kind} files, cannot read the {part} of {uri!r}:"
            f" {error}; remove or replace the file"
        ) from error


def _is_damage(error: OSError) -> bool:
    """Whether an error of Arrow means damaged bytes rather than failed storage.

    Errors of the storage have an error number, or are of a subclass of OSError.
    """
    return type(error) is OSError and error.errno is None
