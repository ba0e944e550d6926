"""Rows of an earlier table -> rows of a new one, with fewer columns or with more.

`transforms.table.earlier` says what the earlier table has of a shard. Where that is all
columns, they are read and written again; where some are missing, these alone are
computed, and the others are read beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.batch import Batch, Extracted
from transforms.errors.failure import Failure
from transforms.errors.non_finite import non_finite_rows
from transforms.shard import Shard
from transforms.table.columns import Column
from transforms.table.earlier import EarlierShard
from transforms.table.encode import Layout
from transforms.taps.ahead import OnFailure, Read
from transforms.values import Values
from transforms.worker import Worker


def projected(worker: Worker, earlier: EarlierShard) -> Iterator[Extracted]:
    """Yield the wanted rows and columns of an earlier part."""
    at = earlier.last_positions()
    for rows in earlier.rows():
        yield _finished(worker, rows, at)
    yield _finished(worker, worker.layout.schema.empty_table(), at)


def only_missing(worker: Worker, earlier: EarlierShard) -> Worker:
    """Give a worker that computes the key and the missing columns alone."""
    wanted = {worker.layout.columns[0].name, *earlier.missing}
    columns = tuple(c for c in worker.layout.columns if c.name in wanted)
    schema = pa.schema([worker.layout.schema.field(c.name) for c in columns])
    return replace(worker, layout=Layout(columns, schema, None))


def passing_over(positions: frozenset[int], read: Read) -> Read:
    """Read batches without the rows at some positions, which are known to be bad."""

    def wanted(batch: Batch) -> Batch:
        kept = np.array([at not in positions for at in batch.positions.tolist()], bool)
        return batch if kept.all() else batch.take(np.flatnonzero(kept))

    def others(on_failure: OnFailure) -> Iterator[Batch]:
        def report(failure: Failure) -> None:
            if failure.position not in positions:
                on_failure(failure)

        return map(wanted, read(report))

    return others


def extended(
    worker: Worker,
    shard: Shard,
    earlier: EarlierShard,
    computed: Iterator[Extracted],
) -> Iterator[Extracted]:
    """Put the rows of an earlier part beside the columns that it has not.

    Args:
      worker: of the new table.
      shard: whose rows.
      earlier: what there is of them.
      computed: key and missing columns of the same rows in the same order; rows that
        have failed now may be absent.

    Raises:
      RuntimeError: the earlier part has no such row.
    """
    key = worker.layout.columns[0].name
    rest = _Rows(earlier.rows(), key)
    nothing = worker.layout.schema.empty_table()
    for made in computed:
        if not made.rows.num_rows:
            yield _finished(worker, nothing, made.positions)
            continue
        old = rest.of(made.rows.column(key))
        if old is None:
            raise RuntimeError(
                f"{earlier.table.path(earlier.commit.part.path)} must hold the rows of"
                f" shard {shard.index}, some are not there or in another order: the"
                " reader gives other rows than before; run without --from"
            )
        beside = old.drop_columns([key])
        for name in made.rows.schema.names:
            beside = beside.append_column(name, made.rows.column(name))
        yield _finished(worker, beside, made.positions)


class _Rows:
    """Rows of an earlier part, taken in their order."""

    def __init__(self, tables: Iterator[pa.Table], key: str) -> None:
        self._tables = tables
        self._key = key
        self._table: pa.Table | None = None

    def of(self, keys: pa.Array) -> pa.Table | None:
        """Take the rows of some keys, at least one; those between have failed since.

        Returns:
          None if a key does not come up.
        """
        parts: list[pa.Table] = []
        while len(keys):
            if self._table is None or not len(self._table):
                self._table = next(self._tables, None)
                if self._table is None:
                    return None
            index = self._find(keys)
            if len(index):
                parts.append(self._table.take(index))
                self._table = self._table.slice(index[-1].as_py() + 1)
                keys = keys.slice(len(index))
            if len(keys):
                self._table = None  # the next key is in none of the rows that are left
        return pa.concat_tables(parts)

    def _find(self, keys: pa.Array) -> pa.Array:
        """Give the rows of the first keys, as many as come in order."""
        assert self._table is not None
        there = self._table[self._key].combine_chunks()
        most = min(len(keys), len(there))
        if there.slice(0, most).equals(keys.slice(0, most)):
            return pa.array(np.arange(most))
        found = pc.index_in(keys, there).to_numpy(zero_copy_only=False)
        missing = np.flatnonzero(np.isnan(found.astype(float)))
        return pa.array(found[: missing[0] if len(missing) else None].astype(np.int64))


def _finished(worker: Worker, rows: pa.Table, positions: np.ndarray) -> Extracted:
    """Lay rows out as the table has them, and count what is not finite."""
    columns = worker.layout.columns
    arrays = [
        rows[column.name].combine_chunks().cast(column.arrow_type) for column in columns
    ]
    batch = pa.RecordBatch.from_arrays(arrays, schema=worker.layout.schema)
    marked = {}
    if worker.plan.config.errors.non_finite == "warn":
        values = {
            column.name: _values(column, array)
            for column, array in zip(columns, arrays, strict=True)
            if column.role == "feature" and column.family == "float"
        }
        marked = non_finite_rows(values)
    return Extracted(batch, positions, {n: int(m.sum()) for n, m in marked.items()})


def _values(column: Column, array: pa.Array) -> Values:
    """Give the numbers of a column as what infers them does."""
    if column.is_vector:
        return array
    numbers: np.ndarray = array.to_numpy(zero_copy_only=False)
    return numbers
