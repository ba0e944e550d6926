"""Turn columns into one Parquet file, written by a thread of its own."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import scratch, storage
from transforms.errors.quarantine import Quarantine
from transforms.shard import Shard
from transforms.table.columns import Column
from transforms.table.commit_record import StoredFile
from transforms.table.directory import Table
from transforms.table.names import errors_name, part_name

# Large enough to compress and scan well, small enough to hold two of them in memory.
ROW_GROUP_BYTES = 64 << 20
_COMPRESSION_LEVEL = 1


class PartWriter:
    """Writes record batches to a local Parquet file while the caller goes on.

    At most two row groups are in memory: one being filled, one being written. Use it as
    a context manager; leaving it by an exception leaves an unfinished file.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, columns: Sequence[Column]
    ) -> None:
        scalars = [column.name for column in columns if not column.is_vector]
        self._schema = schema
        self._writer = pq.ParquetWriter(
            path,
            schema,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=[
                c.name for c in columns if c.role == "keep" and not c.shape
            ],
            write_statistics=scalars,
            write_page_checksum=True,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="part-writer")
        self._pending: Future[None] | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch; blocks only while an earlier row group is being written."""
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Begin to write what waits, once an earlier row group is written."""
        if not self._waiting:
            return
        if self._pending:
            self._pending.result()
        group = pa.Table.from_batches(self._waiting, self._schema)
        self._pending = self._thread.submit(
            self._writer.write_table, group, row_group_size=max(len(group), 1)
        )
        self._waiting, self._waiting_bytes = [], 0

    def finish(self) -> None:
        """Write what is left and wait for it; the file is complete after the `with`."""
        self.flush()
        if self._pending:
            self._pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._thread.shutdown()
            self._writer.close()


def check_part(path: Path, schema: pa.Schema, rows: int) -> None:
    """Re-open a written file and compare it with what was meant to be written.

    Raises:
      OSError: it holds something else; the disk or the writer is at fault.
    """
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows != rows or not file.schema_arrow.equals(
            schema, check_metadata=True
        ):
            raise OSError(
                f"a written part must hold {rows} rows of the planned schema, {path}"
                f" has {file.metadata.num_rows} rows of {file.schema_arrow}"
            )


def file_sha256(path: Path) -> str:
    """Hash a file: 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def unfinished_files(table: Table) -> Iterator[Path]:
    """Give a directory for unfinished files, on the table's disk if that is local."""
    local = storage.local_path(table.internal(f"uploads/{uuid.uuid4().hex}"))
    if local is None:
        with scratch.directory() as elsewhere:
            yield elsewhere
        return
    local.mkdir(parents=True, exist_ok=True)
    try:
        yield local
    finally:
        shutil.rmtree(local, ignore_errors=True)


def store_part(table: Table, shard: Shard, path: Path, rows: int) -> StoredFile:
    """Publish a finished part under its content-addressed name.

    Args:
      table: where to.
      shard: whose rows.
      path: of the local file; it is gone afterwards.
      rows: that it holds.
    """
    return store_file(table, partial(part_name, shard.index), path, rows)


def carry_part(
    table: Table, shard: Shard, there: Table, part: StoredFile, directory: Path
) -> StoredFile:
    """Take a part of an earlier table over as it is, by a link or a copy.

    Args:
      table: where to.
      shard: whose rows.
      there: the earlier table.
      part: its part.
      directory: for unfinished files (`unfinished_files`).

    Raises:
      FileNotFoundError: the part is gone.
      OSError: it has another size than its record says, or the storage failed.
    """
    return carry_file(table, partial(part_name, shard.index), there, part, directory)


def carry_file(
    table: Table,
    name: Callable[[str], str],
    there: Table,
    file: StoredFile,
    directory: Path,
) -> StoredFile:
    """Take any content-addressed file of an earlier table over (`carry_part`)."""
    path = name(file.sha256)
    storage.copy(there.path(file.path), table.path(path), file.bytes, directory)
    return replace(file, path=path)


def store_errors(
    table: Table, shard: Shard, quarantine: Quarantine
) -> StoredFile | None:
    """Write and publish a shard's bad rows; None if there are none.

    Args:
      table: where to.
      shard: whose rows.
      quarantine: the rows.
    """
    if not quarantine.rows:
        return None
    name, rows = partial(errors_name, shard.index), len(quarantine.rows)
    with unfinished_files(table) as directory:
        path = directory / "errors.parquet"
        pq.write_table(quarantine.table(), path, compression="zstd")
        return store_file(table, name, path, rows)


def store_file(
    table: Table, name: Callable[[str], str], path: Path, rows: int
) -> StoredFile:
    """Publish a finished file under its content-addressed name.

    Args:
      table: where to.
      name: makes its path in the table of the hash of its content.
      path: of the local file; it is gone afterwards.
      rows: that it holds.
    """
    sha256 = file_sha256(path)
    stored = StoredFile(name(sha256), rows, path.stat().st_size, sha256)
    storage.publish(path, table.path(stored.path))
    return stored
