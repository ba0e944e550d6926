"""Re-read a finished table and compare everything with its manifest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms import storage
from transforms.commit import manifest_table
from transforms.planned import read_planned
from transforms.schema import Column
from transforms.shard import Commit
from transforms.table import Table

_PARALLEL_PARTS = 4


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
    return list(_differences(Table(table)))


def _differences(table: Table) -> Iterator[str]:
    plan = read_planned(table)
    try:
        summary = table.read_success()
    except ValueError as error:
        yield f"_SUCCESS cannot be read: {error}"
        return
    if summary is None:
        yield "_SUCCESS is missing: the table is not finished"
        return
    try:
        manifest = table.read_parquet("_featuretap/manifest.parquet").to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        yield f"_featuretap/manifest.parquet cannot be read: {error}"
        return
    if summary["fingerprint"] != plan.fingerprint:
        yield (
            f"_SUCCESS has fingerprint {summary['fingerprint']}, the plan"
            f" {plan.fingerprint}"
        )
    yield from _sums(summary, manifest)
    yield from _against_plan(table, manifest)
    for extra in sorted(set(table.part_names()) - {p["path"] for p in manifest}):
        yield f"{extra} is not in the manifest"
    with ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
        for found in pool.map(
            lambda part: list(_part(table, part, plan.schema, plan.columns)), manifest
        ):
            yield from found


def _sums(summary: dict[str, Any], manifest: list[dict[str, Any]]) -> Iterator[str]:
    sums = {
        name: sum(p[name] for p in manifest)
        for name in ("rows", "quarantined", "bytes")
    }
    for name, found in {**sums, "parts": len(manifest)}.items():
        if summary[name] != found:
            yield f"_SUCCESS has {summary[name]} {name}, the manifest {found}"


def _against_plan(table: Table, manifest: list[dict[str, Any]]) -> Iterator[str]:
    shards = table.shards()
    if [shard.index for shard in shards] != [part["shard"] for part in manifest]:
        yield f"the plan has {len(shards)} shards, the manifest {len(manifest)} parts"
        return
    committed = set(table.committed())
    for shard, part in zip(shards, manifest, strict=True):
        accounted = part["rows"] + part["quarantined"]
        if shard.rows not in (None, accounted):
            yield (
                f"{part['path']} accounts for {accounted} of {shard.rows} planned rows"
            )
        if shard.index not in committed:
            yield f"_featuretap/commits/{shard.index:05d}.json is missing"
    present = [shard.index for shard in shards if shard.index in committed]
    commits = table.read_commits(present)
    by_shard = {part["shard"]: part for part in manifest}
    for row, commit in zip(manifest_table(commits).to_pylist(), commits, strict=True):
        if row != by_shard[commit.shard]:
            name = f"_featuretap/commits/{commit.shard:05d}.json"
            yield f"{name} differs from the manifest"
        yield from _errors(table, commit)
    kept = {commit.errors.path for commit in commits if commit.errors}
    for extra in sorted(set(table.error_names()) - kept):
        yield f"{extra} is in no commit record"


def _errors(table: Table, commit: Commit) -> Iterator[str]:
    if commit.errors is None:
        return
    try:
        data = storage.read(table.path(commit.errors.path))
    except FileNotFoundError:
        yield f"{commit.errors.path} is missing"
        return
    if hashlib.sha256(data).hexdigest() != commit.errors.sha256:
        yield f"{commit.errors.path} has another content than was committed"


def _part(
    table: Table, part: dict[str, Any], schema: pa.Schema, columns: Sequence[Column]
) -> Iterator[str]:
    name = part["path"]
    try:
        data = storage.read(table.path(name))
    except FileNotFoundError:
        yield f"{name} is missing"
        return
    if len(data) != part["bytes"]:
        yield f"{name} has {len(data)} bytes, the manifest {part['bytes']}"
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        yield f"{name} has another content than the manifest's hash"
    try:
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as file:
            if file.metadata.num_rows != part["rows"]:
                yield (
                    f"{name} has {file.metadata.num_rows} rows, the manifest"
                    f" {part['rows']}"
                )
            if not file.schema_arrow.equals(schema, check_metadata=True):
                yield f"{name} has another schema than the plan"
                return
            for group in range(file.metadata.num_row_groups):
                rows = file.read_row_group(group)
                yield from _values(f"{name} row group {group}", rows, columns)
    except (pa.ArrowInvalid, OSError) as error:
        yield f"{name} cannot be read: {error}"


def _values(place: str, rows: pa.Table, columns: Sequence[Column]) -> Iterator[str]:
    for column in columns:
        values = rows[column.name]
        if values.null_count:
            yield f"{place} column {column.name} has {values.null_count} nulls"
        if column.is_vector and column.width is not None:
            lengths = pc.unique(pc.list_value_length(values)).to_pylist()
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
