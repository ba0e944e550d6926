"""Store what the rows of parts are like, carry it over, and put it together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import TableError
from transforms.shard import Shard
from transforms.statistics.collect import (
    Collector,
    kept_pixels,
    sample_hashes,
    sampled,
)
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.sample import ALL, HASH, Sampler, Share, share_of
from transforms.statistics.stored import SCHEMA, from_table, to_table
from transforms.table.batches import record_batches
from transforms.table.columns import Column
from transforms.table.commit_record import Commit, StoredFile, StoredStatistics
from transforms.table.directory import REPAIR, Table, to_parquet
from transforms.table.earlier import EarlierShard
from transforms.table.names import (
    INTERNAL,
    STATISTICS,
    sample_name,
    statistics_name,
)
from transforms.table.parquet_writer import carry_file, store_file
from transforms.table.plan_file import TablePlan


def described(plan: TablePlan) -> dict[str, int | None]:
    """Name the columns that get statistics: `{name: values of a row}`, None if any."""
    return {c.name: c.width for c in plan.columns if is_described(c)}


def is_described(column: Column) -> bool:
    """Whether a column gets statistics: what the model computes as numbers or flags."""
    numbers = column.family in ("flag", "integer", "float")
    return column.role == "feature" and numbers


def collector_of(plan: TablePlan) -> Collector:
    """Make what collects the statistics of one part of a planned table."""
    share = share_of(plan.rows, plan.shard_count)
    return Collector(plan.schema, described(plan), share)


def store_statistics(
    table: Table, shard: Shard, found: Collector, directory: Path
) -> StoredStatistics:
    """Store what has been collected of a shard's part.

    Args:
      table: where to.
      shard: whose rows.
      found: from all rows of the part.
      directory: for unfinished files.
    """
    found.finish()
    rows = to_table(found.columns)
    columns = _store(table, shard, statistics_name, rows, directory)
    if found.sampler is None:
        return StoredStatistics(columns, None, ALL)
    chosen = found.sampler.finish()
    sample = None
    if chosen is not None:
        sample = _store(table, shard, sample_name, chosen, directory)
    return StoredStatistics(columns, sample, found.sampler.below)


def _store(
    table: Table,
    shard: Shard,
    name: Callable[[int, str], str],
    rows: pa.Table,
    directory: Path,
) -> StoredFile:
    path = directory / "beside.parquet"
    pq.write_table(rows, path, compression="zstd", use_dictionary=False)
    return store_file(table, partial(name, shard.index), path, len(rows))


def carry_statistics(
    table: Table, plan: TablePlan, shard: Shard, earlier: EarlierShard, directory: Path
) -> StoredStatistics:
    """Take over what is known of a part that is carried, or look at its rows.

    Args:
      table: where to.
      plan: of the table.
      shard: whose rows.
      earlier: the same rows in the earlier table.
      directory: for unfinished files.
    """
    known = earlier.commit.statistics
    wanted = share_of(plan.rows, plan.shard_count)
    if known.sample_below < wanted.least:
        found = collector_of(plan)
        for rows in earlier.rows():
            for batch in rows.combine_chunks().to_batches():
                found.add(batch)
        return store_statistics(table, shard, found, directory)

    def carried(file: StoredFile, name: Callable[[int, str], str]) -> StoredFile:
        of_shard = partial(name, shard.index)
        return carry_file(table, of_shard, earlier.table, file, directory)

    return StoredStatistics(
        columns=carried(known.columns, statistics_name),
        sample=carried(known.sample, sample_name) if known.sample else None,
        sample_below=known.sample_below,
    )


def merge_statistics(table: Table, paths: Iterable[str]) -> None:
    """Put the statistics of all parts together, and store them for the table.

    Args:
      table: whose parts.
      paths: of the statistics of each, relative to the table.

    Raises:
      TableError: one is damaged.
    """
    merged: dict[str, ColumnStatistics] = {}
    for path in paths:
        for column in _read(table, path, written=True):
            known = merged.get(column.name)
            merged[column.name] = known.merge(column) if known else column
    data = to_parquet(to_table([*merged.values()]))
    storage.replace(table.internal(STATISTICS), data)


def read_statistics(
    table: Table, *, written: bool = False
) -> dict[str, ColumnStatistics]:
    """Read what the columns of a finished table are like, by name.

    Args:
      table: the table.
      written: they are known to be there; wait for a store that shows them late.

    Raises:
      FileNotFoundError: they are not there.
      TableError: they are damaged.
    """
    path = f"{INTERNAL}/{STATISTICS}"
    return {column.name: column for column in _read(table, path, written=written)}


def _read(table: Table, path: str, *, written: bool) -> list[ColumnStatistics]:
    filled = ("column", "rows")
    found = table.read_parquet(path, SCHEMA, REPAIR, filled=filled, written=written)
    try:
        return from_table(found)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise TableError(f"{table.path(path)} is damaged: {error}; {REPAIR}") from error


def read_sample(
    table: Table,
    plan: TablePlan,
    commits: Iterable[Commit],
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Read the sample of a table: rows of the smallest hashes of their keys, in order.

    Args:
      table: the table.
      plan: that it was made by.
      commits: of all its shards.
      columns: which columns, beside the key; all that it has by default.

    Returns:
      At most `ROWS` rows: the hash of the key (`sample_hash`), then columns of the
      table, without lists that are long or differ in length. Bytes, and kept lists
      of uint8, are null in most rows.
    """
    widths = described(plan)
    names = sampled(plan.schema, widths)
    if columns is not None:
        names = [names[0], *(name for name in names[1:] if name in columns)]
    sampler = Sampler(Share(), names, kept_pixels(plan.schema, widths))
    for commit in commits:
        stored = commit.statistics
        is_part = stored.sample is None and stored.sample_below == ALL
        file = commit.part if is_part else stored.sample
        sampler.narrow(stored.sample_below)
        if file is None:
            continue
        uri = table.path(file.path)
        storage.size(uri, written=True)  # a store may show it late
        for batch in record_batches(uri, names):
            sampler.add(batch, sample_hashes(batch.column(names[0])))
    found = sampler.finish()
    if found is None:
        empty = pa.schema([(HASH, pa.uint64()), *(plan.schema.field(n) for n in names)])
        return empty.empty_table()
    return found
