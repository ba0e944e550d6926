"""Store what the rows of parts are like, carry it over, and put it together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from transforms import storage
from transforms.lookup import ConfigError, TableError
from transforms.shard import Shard
from transforms.statistics.collect import (
    Collector,
    kept_pixels,
    sample_hashes,
    sampled,
)
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.sample import ALL, HASH, ROWS, Sampler, Share, share_of
from transforms.statistics.stored import SCHEMA, from_table, to_table
from transforms.table.batches import record_batches
from transforms.table.columns import Column
from transforms.table.commit_record import Commit, StoredFile, StoredStatistics
from transforms.table.directory import REPAIR, Table, parse_parquet, to_parquet
from transforms.table.earlier import EarlierShard
from transforms.table.names import (
    STATISTICS,
    sample_name,
    statistics_name,
)
from transforms.table.parquet_writer import carry_file, store_file
from transforms.table.plan_file import TablePlan, read_plan

_MERGED_AT_A_TIME = 256  # files of statistics in memory, if they are small
_BYTES_AT_A_TIME = 128 << 20  # of these files


def described(plan: TablePlan) -> dict[str, int | None]:
    """Name the columns that get statistics: `{name: values of a row}`, None if any."""
    return {c.name: c.width for c in plan.columns if is_described(c)}


def is_described(column: Column) -> bool:
    """Whether a column gets statistics: what the model computes as numbers or flags."""
    return column.role == "feature" and column.is_number


def collector_of(plan: TablePlan, schema: pa.Schema) -> Collector:
    """Make what collects the statistics of one part of a planned table.

    Args:
      plan: of the table.
      schema: of its parts.
    """
    share = share_of(plan.rows, plan.shard_count)
    return Collector(schema, described(plan), share)


def store_statistics(
    table: Table, shard: Shard, found: Collector, directory: Path
) -> StoredStatistics:
    """Store what has been collected of a shard's part.

    Args:
      table: where to.
      shard: whose rows.
      found: from all rows of the part; it is finished.
      directory: for unfinished files.
    """
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
        found = collector_of(plan, plan.schema)
        for rows in earlier.rows():
            for batch in rows.combine_chunks().to_batches():
                found.add(batch)
        found.finish()
        return store_statistics(table, shard, found, directory)

    def carried(file: StoredFile, name: Callable[[int, str], str]) -> StoredFile:
        of_shard = partial(name, shard.index)
        return carry_file(table, of_shard, earlier.table, file, directory)

    return StoredStatistics(
        columns=carried(known.columns, statistics_name),
        sample=carried(known.sample, sample_name) if known.sample else None,
        sample_below=known.sample_below,
    )


def merge_statistics(table: Table, paths: Sequence[str], largest: int) -> None:
    """Put the statistics of all parts together, and store them for the table.

    Args:
      table: whose parts.
      paths: of the statistics of each, relative to the table.
      largest: bytes of the largest of these files.

    Raises:
      TableError: one is damaged.
    """
    merged: dict[str, ColumnStatistics] = {}
    uris = [table.path(path) for path in paths]
    fitting = max(_BYTES_AT_A_TIME // max(largest, 1), 1)
    at_a_time = min(fitting, _MERGED_AT_A_TIME)
    files = storage.read_many(uris, written=True, at_a_time=at_a_time)
    for uri, data in zip(uris, files, strict=True):
        for column in _parse(uri, data):
            known = merged.get(column.name)
            merged[column.name] = known.merge(column) if known else column
    stored = to_parquet(to_table([*merged.values()]))
    storage.replace(table.internal(STATISTICS), stored)


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
    uri = table.internal(STATISTICS)
    try:
        data = storage.read(uri, written=written)
    except FileNotFoundError:
        raise FileNotFoundError(f"{uri} must be there, found none; {REPAIR}") from None
    return {column.name: column for column in _parse(uri, data)}


def finished_statistics(uri: str, what: str) -> dict[str, ColumnStatistics]:
    """Read what the columns of a table are like that another one is compared with.

    Args:
      uri: of the table.
      what: the option that names it, for messages.

    Raises:
      ConfigError: it is not there, or not finished.
    """
    table = Table(storage.absolute(uri))
    try:
        read_plan(table)
        if table.read_success() is None:
            raise FileNotFoundError("it has no _SUCCESS")
        return read_statistics(table)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{what} must name a finished table, got {uri!r}: {error}"
        ) from None


def _parse(uri: str, data: bytes) -> list[ColumnStatistics]:
    found = parse_parquet(uri, data, SCHEMA, REPAIR, filled=("column", "rows"))
    try:
        return from_table(found)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise TableError(f"{uri} is damaged: {error}; {REPAIR}") from error


@dataclass(slots=True)
class SampleFiles:
    """Where the sample of a table lies.

    Attributes:
      paths: files with rows of it, relative to the table.
      below: all rows of smaller hashes are in them.
    """

    paths: list[str] = field(default_factory=list)
    below: int = ALL

    def add(self, commit: Commit) -> None:
        """Add what a shard's record says."""
        known = commit.statistics
        is_part = known.sample is None and known.sample_below == ALL
        file = commit.part if is_part else known.sample
        self.paths += [file.path] if file else []
        self.below = min(self.below, known.sample_below)


def sample_files(commits: Iterable[Commit]) -> SampleFiles:
    """Find the sample of a table, from the records of all its shards."""
    found = SampleFiles()
    for commit in commits:
        found.add(commit)
    return found


def read_sample(
    table: Table,
    plan: TablePlan,
    files: SampleFiles,
    columns: Sequence[str] | None = None,
    *,
    written: bool = False,
) -> pa.Table:
    """Read the sample of a table: rows of the smallest hashes of their keys, in order.

    Args:
      table: the table.
      plan: that it was made by.
      files: that hold it.
      columns: which columns, beside the key; all that it has by default.
      written: the files are known to be there; wait for a store that shows them late.

    Returns:
      At most `ROWS` rows: the hash of the key (`sample_hash`), then columns of the
      table, without lists that are long or differ in length. Bytes, and kept lists
      of uint8, are null in most rows.
    """
    widths = described(plan)
    names = sampled(plan.schema, widths)
    if columns is not None:
        names = [names[0], *(name for name in names[1:] if name in columns)]
    share = Share(below=files.below)
    sampler = Sampler(share, names, kept_pixels(plan.schema, widths))
    for path in files.paths:
        uri = table.path(path)
        if written:
            storage.size(uri, written=True)
        for batch in record_batches(uri, names):
            rows = pa.Table.from_batches([batch])
            sampler.add(rows, sample_hashes(batch.column(names[0])))
    found = sampler.finish()
    if found is None:
        empty = pa.schema([(HASH, pa.uint64()), *(plan.schema.field(n) for n in names)])
        return empty.empty_table()
    return found


def together(bytes_per_row: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """Cut columns into lists whose samples are read together.

    Args:
      bytes_per_row: of each column, by name.
      most: bytes that a list may take; a column alone may take more.
    """
    names: list[str] = []
    size = 0
    for name, own in bytes_per_row.items():
        if names and size + ROWS * own > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += ROWS * own
    if names:
        yield names
