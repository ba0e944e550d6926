"""Read finished tables: rows by number, a column as a numpy matrix with its keys."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import TableError, nearest
from transforms.table.columns import Column
from transforms.table.directory import REPAIR, Table, open_parquet
from transforms.table.manifest import read_manifest
from transforms.table.plan_file import TablePlan, read_plan


class Features(NamedTuple):
    """Rows of one column.

    Attributes:
      keys: of the rows, as the key's column holds them.
      values: `[rows, *shape]`, in the column's own type.
    """

    keys: pa.ChunkedArray
    values: np.ndarray


def read_features(table: str, column: str) -> Features:
    """Read a column of a finished table whole.

    Args:
      table: its URI.
      column: of numbers, all rows of one shape.

    Raises:
      FileNotFoundError: there is no finished table.
      ConfigError: the table is of another format.
      TableError: the table is damaged.
      ValueError: there is no such column, or it holds text, times or nulls, or its rows
        differ in shape.

    Example:
      >>> from pipeline import read_features
      >>> keys, matrix = read_features("out/features", "texture")  # doctest: +SKIP
      >>> matrix.shape  # doctest: +SKIP
      (1797, 32)
    """
    wanted, key, manifest = _look_up(table, column)
    shape = (sum(part["rows"] for part in manifest), *wanted.shape)
    values = np.empty(shape, wanted.dtype)
    keys, row = [], 0
    for found in _chunks(Table(table), wanted, key, manifest):
        values[row : row + len(found.values)] = found.values
        keys += found.keys.chunks
        row += len(found.values)
    return Features(pa.chunked_array(keys, key.arrow_type), values)


def iter_features(table: str, column: str) -> Iterator[Features]:
    """Read a column of a finished table a row group at a time, without copying values.

    Rows come in the order of the parts. The values of each chunk are a view of what
    Arrow has read, and cannot be written to.

    Args:
      table: its URI.
      column: of numbers, all rows of one shape.

    Raises:
      FileNotFoundError: there is no finished table.
      ConfigError: the table is of another format.
      TableError: the table is damaged.
      ValueError: there is no such column, or it holds text, times or nulls, or its rows
        differ in shape.
    """
    wanted, key, manifest = _look_up(table, column)
    return _chunks(Table(table), wanted, key, manifest)


def read_finished(table: Table) -> tuple[TablePlan, list[dict[str, Any]]]:
    """Read the plan of a finished table, and the rows of its manifest.

    Raises:
      FileNotFoundError: there is no finished table.
      ConfigError: the table is of another format.
      TableError: the table is damaged.
    """
    plan = read_plan(table)
    if table.read_success() is None:
        raise FileNotFoundError(
            f"a table must be finished to be read, {table.uri!r} has no _SUCCESS; go on"
            " with featuretap run CONFIG"
        )
    return plan, read_manifest(table).to_pylist()


@contextlib.contextmanager
def open_part(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a part, of which no more is read than what is asked for.

    Raises:
      FileNotFoundError: it is gone.
      TableError: it cannot be read.
    """
    try:
        with contextlib.ExitStack() as stack:
            yield _open(uri, stack)
    except FileNotFoundError:
        raise FileNotFoundError(f"{uri} must be there, found none; {REPAIR}") from None
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the storage
            raise
        raise TableError(
            f"{uri} must be as it was written, it cannot be read: {error}; {REPAIR}"
        ) from error


def read_rows(uri: str, rows: np.ndarray, columns: list[str] | None = None) -> pa.Table:
    """Read some rows of a part, a row group at a time.

    Args:
      uri: of the part.
      rows: their numbers within the part, rising; at least one.
      columns: which columns; all of them by default.
    """
    found, start = [], 0
    with open_part(uri) as file:
        for group in range(file.metadata.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < end)] - start
            if len(inside):
                stored = file.read_row_group(group, columns, use_threads=False)
                found.append(stored.take(pa.array(inside)))
            start = end
    return pa.concat_tables(found)


def _look_up(table: str, column: str) -> tuple[Column, Column, list[dict[str, Any]]]:
    """Give the column, the key's column, and the manifest."""
    plan, manifest = read_finished(Table(table))
    by_name = {one.name: one for one in plan.columns}
    if column not in by_name:
        raise ValueError(
            f"{table!r} has no column {column!r}{nearest(column, by_name)} (columns:"
            f" {', '.join(by_name)})"
        )
    wanted = by_name[column]
    if None in wanted.shape or not wanted.is_number:
        raise ValueError(
            f"column {column!r} must hold numbers of one shape to be a matrix, it holds"
            f" {wanted.dtype} {list(wanted.shape)}; read it with pyarrow.dataset"
        )
    return wanted, plan.columns[0], manifest


def _chunks(
    table: Table, column: Column, key: Column, manifest: list[dict[str, Any]]
) -> Iterator[Features]:
    """Yield keys and values of each row group."""
    width = math.prod(n for n in column.shape if n is not None)
    names, is_local = [key.name, column.name], storage.local_path(table.uri) is not None
    for part in manifest:
        with open_part(table.path(part["path"])) as file:
            for group in range(file.metadata.num_row_groups):
                rows = file.read_row_group(group, names, use_threads=is_local)
                flat = rows[column.name].combine_chunks()
                if flat.null_count:
                    raise ValueError(
                        f"column {column.name!r} has nulls, for which a matrix has no"
                        " place; read it with pyarrow.dataset"
                    )
                if column.is_vector:
                    flat = flat.values[flat.offset * width :][: len(flat) * width]
                zero_copy = column.dtype != "bool"  # which Arrow packs into bits
                values = flat.to_numpy(zero_copy_only=zero_copy)
                yield Features(rows[key.name], values.reshape(len(rows), *column.shape))


def _open(uri: str, stack: contextlib.ExitStack) -> pq.ParquetFile:
    """Open a part, on a local disk through a memory map."""
    local = storage.local_path(uri)
    if local is not None:
        return stack.enter_context(
            pq.ParquetFile(local, memory_map=True, pre_buffer=False)
        )
    fs, path = storage.filesystem(uri)
    stream = stack.enter_context(fs.open(path, "rb"))
    return stack.enter_context(open_parquet(stream))
