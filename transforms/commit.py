"""Turn commit records into a finished table: check, tidy, manifest, `_SUCCESS`."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
import pyarrow as pa

from transforms import storage
from transforms.keys import repeated_keys
from transforms.planned import read_planned
from transforms.shard import Commit
from transforms.table import Table, to_json, to_parquet

MANIFEST_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("quarantined", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)


def commit_table(table: Table, max_fraction: float) -> dict[str, Any]:
    """Finish a table whose shards are all committed; again if it is finished already.

    Args:
      table: the table.
      max_fraction: the share of planned rows that may be quarantined, from 0 to 1.

    Returns:
      The summary that `_SUCCESS` holds.

    Raises:
      RuntimeError: shards are missing, or too many rows are bad. What is committed
        stays.
    """
    done = table.read_success()
    if done is not None:
        _check_budget(table, done["rows"], done["quarantined"], max_fraction)
        return done
    plan = table.read_json("config.json")
    shards = table.shards()
    missing = sorted(set(range(len(shards))) - set(table.committed()))
    if missing:
        raise RuntimeError(
            f"all {len(shards)} shards must be committed, {len(missing)} are not"
            f" (first: {missing[0]}); run the same command again to compute them"
        )
    commits = table.read_commits(list(range(len(shards))))
    for shard, commit in zip(shards, commits, strict=True):
        _check(commit, shard.rows, plan["fingerprint"])
    _check_whole(commits, max_fraction)
    rows = sum(commit.part.rows for commit in commits)
    quarantined = sum(commit.quarantined for commit in commits)
    _check_budget(table, rows, quarantined, max_fraction)
    _tidy(table, commits)
    _check_keys(table, commits)
    manifest = to_parquet(manifest_table(commits))
    storage.replace(table.internal("manifest.parquet"), manifest)
    summary = {
        "rows": rows,
        "quarantined": quarantined,
        "parts": len(commits),
        "bytes": sum(commit.part.bytes for commit in commits),
        "fingerprint": plan["fingerprint"],
    }
    storage.replace(table.path("_SUCCESS"), to_json(summary))
    return summary


def manifest_table(commits: list[Commit]) -> pa.Table:
    """Lay out what a finished table consists of, one row a part (`MANIFEST_SCHEMA`)."""
    return pa.table(
        {
            "shard": [c.shard for c in commits],
            "path": [c.part.path for c in commits],
            "rows": [c.part.rows for c in commits],
            "quarantined": [c.quarantined for c in commits],
            "bytes": [c.part.bytes for c in commits],
            "sha256": [c.part.sha256 for c in commits],
        },
        schema=MANIFEST_SCHEMA,
    )


class CommitTable(beam.PTransform):
    """Finish the table when all its commit records have come in.

    Takes the PCollection of `ExtractShards`, gives one of the summary that `_SUCCESS`
    holds. Runs also when no shard was left to do.
    """

    def __init__(self, table: str, max_fraction: float = 0.0) -> None:
        super().__init__()
        self._table = table
        self._max_fraction = max_fraction

    def expand(self, commits: Any) -> Any:
        """Gather all records, then finish."""
        always = commits.pipeline | "Always" >> beam.Create(
            [(None, -1)]
        )  # (None, shard)
        indexes = commits | "Index" >> beam.Map(_index)  # (None, shard)
        return (
            (indexes, always)
            | beam.Flatten()  # (None, shard)
            | "AllShards" >> beam.GroupByKey()  # (None, [shard])
            | "Finish" >> beam.Map(_finish, self._table, self._max_fraction)  # summary
        )


def _index(commit: Commit) -> tuple[None, int]:
    return None, commit.shard


def _finish(_: Any, table: str, max_fraction: float) -> dict[str, Any]:
    return commit_table(Table(table), max_fraction)


def _check(commit: Commit, planned: int | None, fingerprint: str) -> None:
    accounted = commit.part.rows + commit.quarantined
    if commit.fingerprint != fingerprint:
        raise RuntimeError(
            f"shard {commit.shard} must be committed under the table's fingerprint\n"
            f"  table: {fingerprint}\n  shard: {commit.fingerprint}\n"
            "start afresh with --overwrite"
        )
    if accounted != commit.planned_rows or planned not in (None, accounted):
        raise RuntimeError(
            f"shard {commit.shard} must account for {planned or commit.planned_rows}"
            f" planned rows, its record has {commit.part.rows} and {commit.quarantined}"
            " quarantined; start afresh with --overwrite"
        )


def _check_whole(commits: list[Commit], max_fraction: float) -> None:
    broken = [commit for commit in commits if commit.rest_lost]
    if broken and max_fraction < 1:
        raise RuntimeError(
            f"files must be whole where only reading tells their rows, {len(broken)}"
            f" broke off (first: shard {broken[0].shard}, see its rows in the errors"
            " table), so that nobody knows how many rows are lost. Replace them, or"
            " accept any loss with errors.max_fraction = 1"
        )


def _check_budget(
    table: Table, rows: int, quarantined: int, max_fraction: float
) -> None:
    planned = rows + quarantined
    if not planned:
        raise RuntimeError(
            "the source must hold at least one row, its files turned out to hold none;"
            " check source.path"
        )
    if quarantined / planned > max_fraction:
        raise RuntimeError(
            f"at most {max_fraction:.4%} of the rows may be bad, {quarantined} of"
            f" {planned} are ({quarantined / planned:.4%}); see"
            f" {table.internal('errors')}. To accept them raise errors.max_fraction and"
            " run again: nothing is computed twice"
        )


def _check_keys(table: Table, commits: list[Commit]) -> None:
    """See that no key comes twice; default keys cannot."""
    key = read_planned(table).columns[0]
    if not key.source:
        return
    parts = [(commit.part.path, commit.part.rows) for commit in commits]
    repeated = repeated_keys(table, key.name, parts)
    if repeated:
        named = "; ".join(f"{k!r} in {', '.join(p)}" for k, p in repeated.items())
        raise RuntimeError(
            f"source.key must name each row apart, {key.source!r} repeats: {named}."
            " Choose another source.key, or none for keys of file and row, and start"
            " afresh with --overwrite"
        )


def _tidy(table: Table, commits: list[Commit]) -> None:
    """Remove what lost a race or was cut off; only files of featuretap's own naming.

    Raises:
      RuntimeError: a committed file is gone.
    """
    kept = {commit.part.path for commit in commits}
    kept |= {commit.errors.path for commit in commits if commit.errors}
    found = {*table.part_names(), *table.error_names()}
    gone = sorted(kept - found)
    if gone:
        raise RuntimeError(
            f"every committed file must be there, {len(gone)} are gone (first:"
            f" {gone[0]}); put them back, or remove their commit records to compute"
            " them again"
        )
    for name in found - kept:
        storage.remove(table.path(name))
    storage.remove(table.internal("uploads"))
