"""Find a row of a finished table by its key, and where it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.parity.draw import sound_rows
from transforms.column_names import KEY
from transforms.errors.quarantine import ERROR_SCHEMA
from transforms.lookup import ConfigError, nearest
from transforms.shard import Piece
from transforms.table.columns import Column
from transforms.table.directory import REPAIR, Table
from transforms.table.plan_file import read_shards
from transforms.table.read import open_part, read_finished, read_rows

_KEYS_COMPARED = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a finished table.

    Attributes:
      table: URI of the table.
      rows: how many rows the table has.
      columns: of the table, the key first.
      values: by column: numbers, flags, text and bytes as they are, times as RFC 3339
        text, None for a null. Lists of numbers and flags are arrays of the row's shape,
        other lists are lists.
      part: that holds it, relative to the table.
      at: its row within the part, from 0.
      piece: of the source that it came from.
      source_row: its row within the piece's file, or within its span.
    """

    table: str
    rows: int
    columns: tuple[Column, ...]
    values: Mapping[str, Any]
    part: str
    at: int
    piece: Piece
    source_row: int


def find_row(table: str, key: str | int | None = None) -> Row:
    """Read one row of a finished table.

    Of the parts only keys are read, and not where their statistics say that the key is
    not there; of the row's row group everything.

    Args:
      table: its URI.
      key: of the row; whole numbers may be given as text. The first row by default.

    Raises:
      FileNotFoundError: there is no finished table.
      ConfigError: no row has the key, or it is a bad row; or the table has no rows, or
        is of another format.
      TableError: the table is damaged.
    """
    place = Table(table)
    plan, parts = read_finished(place)
    wanted = None if key is None else _typed(plan.columns[0], str(key))
    for part in parts:
        at = _find(place.path(part["path"]), wanted)
        if at is None:
            continue
        stored = read_rows(place.path(part["path"]), np.array([at]))
        places = sound_rows(place, read_shards(place)[part["shard"]])
        return Row(
            table=table,
            rows=sum(part["rows"] for part in parts),
            columns=plan.columns,
            values=values_of(plan.columns, stored),
            part=part["path"],
            at=at,
            piece=places[at][0],
            source_row=places[at][1],
        )
    if wanted is None:
        raise ConfigError(f"a table must have rows to be shown, {table!r} has none")
    raise _not_there(place, parts, wanted.as_py())


def values_of(columns: Sequence[Column], stored: pa.Table) -> dict[str, Any]:
    """Give the values of a row, as `Row.values` has them.

    Args:
      columns: of the table.
      stored: the row, with some of the columns.
    """
    found = {}
    for column in columns:
        if column.name in stored.column_names:
            found[column.name] = _value(column, stored[column.name][0], stored)
    return found


def _value(column: Column, stored: pa.Scalar, row: pa.Table) -> Any:
    if not stored.is_valid:
        return None
    if not column.is_vector:
        return _time_text(stored) if column.family == "time" else stored.as_py()
    if column.family == "time":
        return [_time_text(one) for one in stored.values]
    if column.family == "text":
        return stored.as_py()
    values: np.ndarray = stored.values.to_numpy(zero_copy_only=False)
    shapes = f"{column.name}_shape"
    if column.width is not None:
        return values.reshape(column.shape)
    if column.role == "feature" and shapes in row.column_names:
        return values.reshape(row[shapes][0].as_py())
    return values


def _time_text(time: pa.Scalar) -> str:
    """Say a time in RFC 3339; Python has none after the year 9999, Arrow has."""
    return str(time.cast(pa.string()).as_py()).replace(" ", "T")


def _typed(column: Column, key: str) -> pa.Scalar:
    """Give a key the type that keys have in the table."""
    if column.family == "text":
        return pa.scalar(key, column.arrow_type)
    try:
        if not re.fullmatch(r"[+-]?[0-9]+", key, re.ASCII):
            raise ValueError
        return pa.scalar(int(key), column.arrow_type)
    except (ValueError, OverflowError, pa.ArrowException):
        raise ConfigError(
            f"keys of this table are whole numbers ({column.dtype}), got {key!r}"
        ) from None


def _find(uri: str, key: pa.Scalar | None) -> int | None:
    """Find the number of a row in a part; of the first one if `key` is None."""
    start = 0
    with open_part(uri) as file:
        for group in range(file.metadata.num_row_groups):
            row = 0 if key is None else _index(file, group, key)
            rows = file.metadata.row_group(group).num_rows
            if 0 <= row < rows:
                return start + row
            start += rows
    return None


def _index(file: pq.ParquetFile, group: int, key: pa.Scalar) -> int:
    """Find a key in a row group; -1 if it is not there."""
    known = file.metadata.row_group(group).column(0).statistics
    value = key.as_py()
    if known and known.has_min_max and not known.min <= value <= known.max:
        return -1
    keys = file.read_row_group(group, [KEY], use_threads=False)[KEY]
    return int(pc.index(keys, key).as_py())


def _not_there(place: Table, parts: list[dict[str, Any]], key: str | int) -> Exception:
    """Say why no row of the table has a key."""
    shards = [part["shard"] for part in parts if part["quarantined"]]
    for commit in place.read_commits(shards):
        if commit.errors is None:
            continue
        bad = place.read_parquet(commit.errors.path, ERROR_SCHEMA, REPAIR)
        for row in bad.filter(pc.equal(bad[KEY], str(key)))[:1].to_pylist():
            return ConfigError(
                f"row {key!r} is a bad row, which is why {place.uri!r} does not hold"
                f" it: {row['stage']}, {row['exception']}: {row['message']} (row"
                f" {row['row']} of {row['file']})"
            )
    some = _first_keys(place, parts)
    close = nearest(key, map(str, some)) if isinstance(key, str) else ""
    if some and not close:
        close = f"; its first key is {some[0]!r}"
    return ConfigError(f"{place.uri!r} has no row of key {key!r}{close}")


def _first_keys(place: Table, parts: list[dict[str, Any]]) -> list[str | int]:
    for part in parts:
        if part["rows"]:
            with open_part(place.path(part["path"])) as file:
                keys = file.read_row_group(0, [KEY], use_threads=False)[KEY]
                found: list[str | int] = keys[:_KEYS_COMPARED].to_pylist()
                return found
    return []
