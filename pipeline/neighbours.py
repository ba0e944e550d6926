"""Find the rows of a finished table that are nearest to one of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.health.directions import unit_vectors
from pipeline.look_up import Row, find_row, values_of
from transforms.column_names import KEY
from transforms.lookup import ConfigError, nearest
from transforms.messages import shape_text
from transforms.table.columns import Column
from transforms.table.directory import Table
from transforms.table.read import open_part, read_finished, read_rows

_VALUES_AT_A_TIME = 1 << 20
_KEPT = ("timestamp", "keep")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A row that is near to another.

    Attributes:
      key: of the row.
      similarity: cosine of the angle between the vectors, from -1 to 1.
      kept: the row's event timestamp and kept scalars, by column, as in `Row.values`.
    """

    key: str | int
    similarity: float
    kept: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The rows that are nearest to a row.

    Attributes:
      table: URI of the table.
      key: of the row.
      column: by whose vectors rows were compared.
      compared: with how many other rows.
      passed_over: how many rows have no direction: no value, one that is all zero, or
        one with NaN or infinite values.
      columns: that are given of each row: event timestamp and kept scalars.
      rows: the nearest rows, the most similar first.
    """

    table: str
    key: str | int
    column: str
    compared: int
    passed_over: int
    columns: tuple[Column, ...]
    rows: tuple[Neighbour, ...]


class _Candidate(NamedTuple):
    """A row that may be among the nearest.

    Attributes:
      similarity: cosine of the angle.
      part: that holds it, relative to the table.
      at: its row within the part.
    """

    similarity: float
    part: str
    at: int


def nearest_rows(
    table: str, key: str | int, column: str | None = None, n: int = 10
) -> Neighbours:
    """Compare a row of a finished table with all others, by the cosine of a column.

    The comparison is exact, in float64. A row group of the column is in memory at a
    time; of other columns only keys, the event timestamp and kept scalars are read,
    where the nearest rows are. Rows that are equally near come in the table's order.

    Args:
      table: its URI.
      key: of the row; whole numbers may be given as text.
      column: of vectors of one length; may be left out if there is one only.
      n: how many rows to give.

    Raises:
      FileNotFoundError: there is no finished table.
      ConfigError: there is no such row or column, rows of the column differ in length,
        or the row's own vector has no direction.
      TableError: the table is damaged.
    """
    if n < 1:
        raise ConfigError(f"the number of nearest rows must be at least 1, got {n}")
    place = Table(table)
    plan, parts = read_finished(place)
    name = _choose(table, plan.columns, column)
    row = find_row(table, key)
    direction = _direction(row, name)
    best: list[_Candidate] = []
    compared = passed_over = 0
    for part in parts:
        for start, vectors in _blocks(place.path(part["path"]), name, len(direction)):
            cosines = _cosines(vectors, direction)
            if part["path"] == row.part and start <= row.at < start + len(cosines):
                cosines[row.at - start] = -np.inf  # it is no neighbour of its own
            passed_over += int(np.isnan(cosines).sum())
            compared += int(np.isfinite(cosines).sum())
            best = _nearest(best, cosines, part["path"], start, n)
    kept = tuple(c for c in plan.columns if c.role in _KEPT and not c.is_vector)
    found = tuple(_read(place, (plan.columns[0], *kept), best))
    return Neighbours(table, row.values[KEY], name, compared, passed_over, kept, found)


def _choose(table: str, columns: Sequence[Column], name: str | None) -> str:
    """Choose the column to compare by.

    Raises:
      ConfigError: there is no such column, it cannot be compared by, or there are
        several and none is named.
    """
    fit = [c.name for c in columns if c.width and c.is_vector and c.is_number]
    known = f"(columns of vectors: {', '.join(fit) or 'none'})"
    if name is None and len(fit) == 1:
        return fit[0]
    if name is None:
        raise ConfigError(f"--column must say by which column rows are near {known}")
    by_name = {column.name: column for column in columns}
    if name not in by_name:
        close = nearest(name, by_name)
        raise ConfigError(f"{table!r} has no column {name!r}{close} {known}")
    if name not in fit:
        wrong = by_name[name]
        raise ConfigError(
            f"--column must have vectors of numbers, all of one length, {name!r} has"
            f" {wrong.dtype} {shape_text(wrong.shape)} {known}"
        )
    return name


def _direction(row: Row, column: str) -> np.ndarray:
    """Give a row's vector, of length 1.

    Raises:
      ConfigError: it has no direction.
    """
    value = row.values[column]
    units, sound = _units(np.zeros((1, 1)) if value is None else value.reshape(1, -1))
    if not sound[0]:
        what = "none" if value is None else "one of zeros, or with NaN or infinite ones"
        raise ConfigError(
            f"a row must have a vector with a direction to have neighbours, row"
            f" {row.values[KEY]!r} has {what} in column {column!r}"
        )
    (unit,) = units
    return np.asarray(unit)


def _units(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale vectors to length 1, those that have a direction.

    Args:
      vectors: numbers `[rows, width]`.

    Returns:
      The scaled vectors, float64 `[sound rows, width]`, and which rows are sound.
    """
    values = vectors.astype(np.float64)
    largest = np.abs(values).max(axis=1)
    sound = np.isfinite(largest) & (largest > 0)
    return unit_vectors(values[sound]), sound


def _blocks(uri: str, column: str, width: int) -> Iterator[tuple[int, pa.Array]]:
    """Yield the vectors of a part, some at a time, and the number of the first."""
    start, rows = 0, max(1, _VALUES_AT_A_TIME // width)
    with open_part(uri) as file:
        for group in range(file.metadata.num_row_groups):
            stored = file.read_row_group(group, [column], use_threads=False)[column]
            for first in range(0, len(stored), rows):
                yield start + first, stored.slice(first, rows).combine_chunks()
            start += len(stored)


def _cosines(vectors: pa.ListArray, direction: np.ndarray) -> np.ndarray:
    """Compare vectors with a direction: float64 `[rows]`, NaN for those without one."""
    flat = vectors.flatten().to_numpy(zero_copy_only=False)  # without nulls
    units, sound = _units(flat.reshape(-1, len(direction)))
    valid = np.flatnonzero(vectors.is_valid().to_numpy(zero_copy_only=False))
    cosines = np.full(len(vectors), np.nan)
    cosines[valid[sound]] = np.clip(units @ direction, -1, 1)
    return cosines


def _nearest(
    best: list[_Candidate], cosines: np.ndarray, part: str, start: int, n: int
) -> list[_Candidate]:
    """Put the nearest rows so far and those of a block together, the nearest first."""
    least = best[-1].similarity if len(best) == n else -np.inf
    better = np.flatnonzero(cosines > least)
    order = better[np.argsort(-cosines[better], kind="stable")[:n]]
    new = [_Candidate(float(cosines[i]), part, start + int(i)) for i in order]
    return sorted([*best, *new], key=lambda one: -one.similarity)[:n]


def _read(
    place: Table, columns: Sequence[Column], best: Sequence[_Candidate]
) -> Iterator[Neighbour]:
    """Read key and kept columns of the nearest rows, in their order."""
    names, values = [column.name for column in columns], {}
    for part in {one.part for one in best}:
        at = sorted(one.at for one in best if one.part == part)
        stored = read_rows(place.path(part), np.array(at), names)
        for row, number in enumerate(at):
            values[part, number] = values_of(columns, stored.slice(row, 1))
    for one in best:
        kept = values[one.part, one.at]
        yield Neighbour(kept.pop(KEY), one.similarity, kept)
