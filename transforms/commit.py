"""Turn commit records into a finished table: check, tidy, manifest, `_SUCCESS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import pyarrow as pa

from transforms import storage
from transforms.keys import repeated_keys
from transforms.planned import read_planned
from transforms.shard import Commit
from transforms.table import Table, to_json, to_parquet

_PARALLEL_LOOKS = 32
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


def commit_table(
    table: Table, max_fraction: float, known: Collection[int] = ()
) -> dict[str, Any]:
    """Finish a table whose shards are all committed; again if it is finished already.

    Args:
      table: the table.
      max_fraction: the share of planned rows that may be quarantined, from 0 to 1.
      known: shards that are known to be committed, whether or not the store lists their
        records yet.

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
    plan = table.read_json("config.json", written=True)
    shards = table.shards(written=True)
    commits = _all_commits(table, len(shards), known)
    for shard, commit in zip(shards, commits, strict=True):
        _check(commit, shard.rows, plan["fingerprint"])
    _check_whole(commits, max_fraction)
    rows = sum(commit.part.rows for commit in commits)
    quarantined = sum(commit.quarantined for commit in commits)
    _check_budget(table, rows, quarantined, max_fraction)
    named = _files(commits)
    stored = {*table.part_names(len(commits)), *table.error_names()}
    _check_present(table, named - stored)
    _tidy(table, stored - named)
    _check_keys(table, commits)
    manifest = to_parquet(manifest_table(commits))
    storage.replace(table.internal("manifest.parquet"), manifest)
    summary = {
        "rows": rows,
        "quarantined": quarantined,
        "parts": len(commits),
        "bytes": sum(commit.part.bytes for commit in commits),
        "non_finite": non_finite(commits),
        "fingerprint": plan["fingerprint"],
    }
    storage.replace(table.path("_SUCCESS"), to_json(summary))
    return summary


def non_finite(commits: Iterable[Commit]) -> dict[str, int]:
    """Add up the rows that hold NaN or infinite values, by column."""
    found: Counter[str] = Counter()
    for commit in commits:
        found.update(commit.non_finite)
    return dict(sorted(found.items()))


def manifest_table(commits: Sequence[Commit]) -> pa.Table:
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


def _finish(
    indexes: tuple[Any, Iterable[int]], table: str, max_fraction: float
) -> dict[str, Any]:
    return commit_table(Table(table), max_fraction, set(indexes[1]))


def _all_commits(table: Table, shards: int, known: Collection[int]) -> list[Commit]:
    """Read every shard's record, also those that a listing leaves out."""
    listed = set(table.committed())
    unlisted = [index for index in range(shards) if index not in listed]

    def look(index: int) -> Commit | None:
        return table.read_commit(index, written=index in known)

    with ThreadPoolExecutor(_PARALLEL_LOOKS) as pool:
        late = dict(zip(unlisted, pool.map(look, unlisted), strict=True))
    missing = [index for index, commit in late.items() if commit is None]
    if missing:
        raise RuntimeError(
            f"all {shards} shards must be committed, {len(missing)} are not"
            f" (first: {missing[0]}); run the same command again to compute them"
        )
    found = table.read_commits([i for i in range(shards) if i not in late])
    commits = {c.shard: c for c in [*found, *late.values()] if c is not None}
    return [commits[index] for index in range(shards)]


def _check(commit: Commit, planned: int | None, fingerprint: str) -> None:
    accounted = commit.part.rows + commit.quarantined
    if commit.fingerprint != fingerprint:
        raise RuntimeError(
            f"shard {commit.shard} must be committed under the table's fingerprint\n"
            f"  table: {fingerprint}\n  shard: {commit.fingerprint}\n"
            "run again with --repair to compute it again"
        )
    if accounted != commit.planned_rows or planned not in (None, accounted):
        raise RuntimeError(
            f"shard {commit.shard} must account for {planned or commit.planned_rows}"
            f" planned rows, its record has {commit.part.rows} and {commit.quarantined}"
            " quarantined; run again with --repair to compute it again"
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


def _check_present(table: Table, names: Collection[str]) -> None:
    """See that no committed file is gone, of those that a listing left out.

    Raises:
      RuntimeError: a committed file is gone.
    """
    unlisted = sorted(names)

    def gone(name: str) -> bool:
        try:
            storage.size(table.path(name), written=True)
        except FileNotFoundError:
            return True
        return False

    with ThreadPoolExecutor(_PARALLEL_LOOKS) as pool:
        missing = [
            n for n, g in zip(unlisted, pool.map(gone, unlisted), strict=True) if g
        ]
    if missing:
        raise RuntimeError(
            f"every committed file must be there, {len(missing)} are gone (first:"
            f" {missing[0]}); put them back, or run again with --repair to compute them"
            " again"
        )


def _tidy(table: Table, orphans: Collection[str]) -> None:
    """Remove what lost a race or was cut off; only files of this table's own naming."""
    for name in orphans:
        storage.remove(table.path(name))
    for uri in table.attempts():
        storage.remove(uri)
    storage.remove_tree(table.internal("uploads"))
    storage.remove_empty(table.internal("attempts"))


def _files(commits: Sequence[Commit]) -> set[str]:
    """Paths of all that is committed."""
    errors = {commit.errors.path for commit in commits if commit.errors}
    return {commit.part.path for commit in commits} | errors
