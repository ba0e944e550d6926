"""Re-read a finished table and compare everything with its manifest."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms import storage
from transforms.lookup import TableError
from transforms.shard import Shard
from transforms.table.columns import Column, of_rows
from transforms.table.commit_record import Commit, StoredFile
from transforms.table.directory import Table, open_parquet
from transforms.table.manifest import (
    made_by,
    manifest_table,
    read_made_by,
    read_manifest,
)
from transforms.table.names import STATISTICS, commit_name
from transforms.table.plan_file import TablePlan, read_plan, read_shards
from transforms.table.statistics import read_statistics

_PARALLEL_PARTS = 4
_SUMS = ("rows", "quarantined", "bytes")


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a table.

    Attributes:
      shards: differences of committed shards by index, a sentence each; computing these
        shards again cures them.
      whole: differences of the table as a whole; finishing it again cures them.
      strangers: files that are not featuretap's, but that readers may take for parts;
        only whoever put them there may remove them.
    """

    shards: Mapping[int, Sequence[str]]
    whole: Sequence[str]
    strangers: Sequence[str]

    def sentences(self) -> list[str]:
        """Say everything that is wrong."""
        inner = itertools.chain.from_iterable(self.shards.values())
        return [*self.whole, *inner, *self.strangers]


def verify_table(table: str) -> list[str]:
    """Compare a table with its manifest, plan and commit records.

    Checked are: no part missing, none too many, size and hash of every file, that every
    page can be read (checksums included), rows, schema, constant vector length, unique
    keys within a part, the sums in `_SUCCESS`, and rows + quarantined = planned.

    Args:
      table: its URI.

    Returns:
      The differences, a sentence each; empty if there are none.

    Raises:
      FileNotFoundError: there is no table.
    """
    return find_damage(Table(table)).sentences()


def find_damage(table: Table) -> Damage:
    """Compare what a table holds, finished or not, with its plan and commit records.

    Raises:
      FileNotFoundError: there is no table.
    """
    plan = read_plan(table)
    shards = read_shards(table)
    committed = [index for index in table.committed() if index < len(shards)]
    with ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
        looks = pool.map(
            lambda index: _look(table, plan, shards[index]),
            committed,
        )
        found = dict(zip(committed, looks, strict=True))
    commits = [commit for commit, _ in found.values() if commit]
    return Damage(
        {index: texts for index, (_, texts) in found.items() if texts},
        list(_whole(table, plan, commits)),
        list(_strangers(table)),
    )


def _look(
    table: Table, plan: TablePlan, shard: Shard
) -> tuple[Commit | None, Sequence[str]]:
    """Give a shard's record, if it can be read, and what is wrong with the shard."""
    try:
        commit = table.read_commit(shard.index)
    except ValueError as error:
        return None, [str(error)]
    if commit is None:  # somebody has just taken it back
        return None, [f"the commit record of shard {shard.index} is missing"]
    return commit, [
        *_accounts(plan, shard, commit),
        *_part(table, commit.part, _schema(plan, shard), plan.columns),
        *_beside(table, commit),
    ]


def _schema(plan: TablePlan, shard: Shard) -> pa.Schema:
    return of_rows(plan.schema, plan.rows_key(shard))


def _accounts(plan: TablePlan, shard: Shard, commit: Commit) -> Iterator[str]:
    record = f"the record of shard {shard.index}"
    if commit.fingerprint != plan.fingerprint:
        there, here = commit.fingerprint, plan.fingerprint
        yield f"{record} has fingerprint {there}, the plan {here}"
    if commit.claim != plan.claim:
        yield f"{record} is of table {commit.claim}, not of {plan.claim}"
    if commit.versions != plan.versions:
        yield f"{record} has versions {commit.versions}, the plan {dict(plan.versions)}"
    if commit.rows_key != plan.rows_key(shard):
        yield f"{record} has rows {commit.rows_key}, the plan {plan.rows_key(shard)}"
    if commit.column_keys != plan.column_keys:
        found, wanted = commit.column_keys, plan.column_keys
        yield f"{record} has columns {found}, the plan {wanted}"
    accounted = commit.part.rows + commit.quarantined
    if accounted != commit.planned_rows or shard.rows not in (None, accounted):
        planned = commit.planned_rows if shard.rows is None else shard.rows
        yield f"{commit.part.path} accounts for {accounted} of {planned} planned rows"


def _strangers(table: Table) -> Iterator[str]:
    """Name what is not ours, and lies where readers look for parts."""
    ours = {*table.part_names()}
    for name in table.visible_names():
        if name not in ours:
            yield (
                f"{name} is not in the manifest, but readers may take it for a part;"
                " remove it, or move it elsewhere"
            )


def _whole(table: Table, plan: TablePlan, commits: Sequence[Commit]) -> Iterator[str]:
    """Compare `_SUCCESS` and manifest with commit records, and both with the plan."""
    try:
        summary = table.read_success()
    except TableError as error:
        yield f"_SUCCESS cannot be read: {error}"
        return
    if summary is None:
        yield "_SUCCESS is missing: the table is not finished"
        return
    try:
        stored = read_manifest(table)
    except (FileNotFoundError, TableError) as error:
        yield f"_featuretap/manifest.parquet cannot be read: {error}"
        return
    try:
        read_statistics(table)
    except (FileNotFoundError, TableError) as error:
        yield f"_featuretap/{STATISTICS} cannot be read: {error}"
    manifest = stored.to_pylist()
    yield from _made_by(summary, stored, plan)
    yield from _sums(summary, manifest)
    if list(range(plan.shard_count)) != [part["shard"] for part in manifest]:
        parts = len(manifest)
        yield f"the plan has {plan.shard_count} shards, the manifest {parts} parts"
        return
    yield from _records(table, plan, manifest, commits)


def _made_by(
    summary: Mapping[str, Any], manifest: pa.Table, plan: TablePlan
) -> Iterator[str]:
    """Compare what a table says it was made by with its plan."""
    expected = made_by(plan)
    for name, wanted in {**expected, "claim": plan.claim}.items():
        if summary[name] != wanted:
            yield f"_SUCCESS has {name} {summary[name]}, the plan {wanted}"
    if read_made_by(manifest) != expected:
        yield "_featuretap/manifest.parquet was made by another plan"


def _records(
    table: Table,
    plan: TablePlan,
    manifest: Sequence[Mapping[str, Any]],
    commits: Sequence[Commit],
) -> Iterator[str]:
    """Compare commit records with the manifest, and stored files with both."""
    planned, stored = set(range(plan.shard_count)), set(table.committed())
    for index in sorted(planned ^ stored):
        what = "missing" if index in planned else "of no shard of the plan"
        yield f"{commit_name(index)} is {what}"
    for row, commit in zip(manifest_table(commits).to_pylist(), commits, strict=True):
        if row != manifest[commit.shard]:
            yield f"{commit_name(commit.shard)} differs from the manifest"
    for extra in sorted(set(table.part_names()) - {part["path"] for part in manifest}):
        yield f"{extra} is not in the manifest, but readers may take it for a part"
    kept = {file.path for commit in commits for file in commit.files}
    if len(commits) == plan.shard_count:  # else nobody knows whose files they are
        for extra in sorted(set(table.names_beside_parts()) - kept):
            yield f"{extra} is in no commit record"


def _sums(summary: dict[str, Any], manifest: list[dict[str, Any]]) -> Iterator[str]:
    sums = {name: sum(p[name] for p in manifest) for name in _SUMS}
    for name, found in {**sums, "parts": len(manifest)}.items():
        if summary[name] != found:
            yield f"_SUCCESS has {summary[name]} {name}, the manifest {found}"


def _beside(table: Table, commit: Commit) -> Iterator[str]:
    """Compare the files beside a part with their hashes."""
    for file in commit.files[1:]:
        try:
            data = storage.read(table.path(file.path))
        except FileNotFoundError:
            yield f"{file.path} is missing"
            continue
        if hashlib.sha256(data).hexdigest() != file.sha256:
            yield f"{file.path} has another content than was committed"


def _part(
    table: Table, part: StoredFile, schema: pa.Schema, columns: Sequence[Column]
) -> Iterator[str]:
    name = part.path
    try:
        data = storage.read(table.path(name))
    except FileNotFoundError:
        yield f"{name} is missing"
        return
    if len(data) != part.bytes:
        yield f"{name} has {len(data)} bytes, {part.bytes} were committed"
    if hashlib.sha256(data).hexdigest() != part.sha256:
        yield f"{name} has another content than was committed"
    try:
        with open_parquet(io.BytesIO(data), check_pages=True) as file:
            if file.metadata.num_rows != part.rows:
                yield (
                    f"{name} has {file.metadata.num_rows} rows, {part.rows} were"
                    " committed"
                )
            if not file.schema_arrow.equals(schema, check_metadata=True):
                yield f"{name} has another schema than the plan"
                return
            for group in range(file.metadata.num_row_groups):
                rows = file.read_row_group(group, use_threads=False)
                yield from _values(f"{name} row group {group}", rows, columns)
    except (pa.ArrowInvalid, OSError) as error:
        yield f"{name} cannot be read: {error}"


def _values(place: str, rows: pa.Table, columns: Sequence[Column]) -> Iterator[str]:
    for column in columns:
        values = rows[column.name]
        if values.null_count and not column.nullable:
            yield f"{place} column {column.name} has {values.null_count} nulls"
        if column.is_vector and values.combine_chunks().values.null_count:
            yield f"{place} column {column.name} has nulls inside of lists"
        if column.is_vector and column.width is not None:
            lengths = pc.unique(pc.list_value_length(values)).drop_null().to_pylist()
            if lengths not in ([column.width], []):
                yield (
                    f"{place} column {column.name} has vectors of lengths {lengths},"
                    f" the plan {column.width}"
                )
        elif len(column.shape) > 1:
            shapes = rows[f"{column.name}_shape"].to_numpy()
            wanted = np.array([shape.prod() for shape in shapes])
            if (pc.list_value_length(values).to_numpy() != wanted).any():
                yield f"{place} column {column.name} has values that fit no shape"
    keys = rows[columns[0].name]
    repeated = len(keys) - pc.count_distinct(keys).as_py()
    if repeated:
        yield f"{place} has {repeated} repeated keys"
