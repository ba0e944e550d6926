"""Turn commit records into a finished table: check, tidy, manifest, `_SUCCESS`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from transforms import storage
from transforms.column_names import TIME
from transforms.gate_limits import GatesSpec
from transforms.shard import Shards
from transforms.table.commit_record import Commit, Work
from transforms.table.directory import Table, to_json, to_parquet
from transforms.table.gates import judge
from transforms.table.keys import repeated_keys
from transforms.table.manifest import (
    MANIFEST_SCHEMA,
    made_by,
    manifest_table,
    with_plan,
)
from transforms.table.names import NOTICE
from transforms.table.plan_file import TablePlan, read_plan, read_shards
from transforms.table.statistics import SampleFiles, merge_statistics

_PARALLEL_LOOKS = 32
_RECORDS_AT_A_TIME = 10_000


def commit_table(
    table: Table,
    max_fraction: float,
    known: Collection[int] = (),
    gates: GatesSpec | None = None,
) -> dict[str, Any]:
    """Finish a table whose shards are all committed; again if it is finished already.

    Args:
      table: the table.
      max_fraction: the share of planned rows that may be quarantined, from 0 to 1.
      known: shards that are known to be committed, whether or not the store lists their
        records yet.
      gates: what the table must be like; it is not judged without.

    Returns:
      The summary that `_SUCCESS` holds.

    Raises:
      RuntimeError: shards are missing, too many rows are bad, or a gate fails. What is
        committed stays.
      ConfigError: the table that `gates.drift` names is not there.
    """
    plan = read_plan(table, written=True)
    done = table.read_success()
    if done is not None:
        _check_budget(table, done["rows"], done["quarantined"], max_fraction)
        if gates:
            judge(table, plan, gates)
        return done
    shards = read_shards(table, written=True)
    found = _gather(_all_commits(table, shards, known, plan.fingerprint))
    _check_whole(found.broken, max_fraction)
    sums = {
        name: pc.sum(found.manifest[name]).as_py()
        for name in ("rows", "quarantined", "bytes")
    }
    _check_budget(table, sums["rows"], sums["quarantined"], max_fraction)
    named = {*found.manifest["path"].to_pylist(), *found.beside}
    stored = {*table.part_names(), *table.names_beside_parts()}
    _check_present(table, named - stored)
    _tidy(table, stored - named)
    _check_keys(table, plan, found.manifest)
    merge_statistics(table, found.statistics, found.largest)
    if gates:
        judge(table, plan, gates, found.sample)
    manifest = to_parquet(with_plan(found.manifest, plan))
    storage.replace(table.internal("manifest.parquet"), manifest)
    summary = {
        "rows": sums["rows"],
        "quarantined": sums["quarantined"],
        "parts": len(shards),
        "bytes": sums["bytes"],
        "non_finite": dict(sorted(found.non_finite.items())),
        **found.work.summary(),
        **made_by(plan),
        "claim": plan.claim,
    }
    storage.replace(table.path("_SUCCESS"), to_json(summary))
    return summary


@dataclass(frozen=True, slots=True)
class _Found:
    """What all commit records say, as columns: there may be a million.

    Attributes:
      manifest: of the parts.
      beside: paths of the files beside the parts.
      statistics: which of these have the statistics of parts.
      largest: bytes of the largest file of these.
      sample: where the sample lies.
      broken: shards in which a file of unknown length broke off.
      non_finite: rows that hold NaN or infinite values, by column.
      work: what it took.
    """

    manifest: pa.Table
    beside: Sequence[str]
    statistics: Sequence[str]
    largest: int
    sample: SampleFiles
    broken: Sequence[int]
    non_finite: Counter[str]
    work: Work


def _gather(commits: Iterator[Commit]) -> _Found:
    beside: list[str] = []
    statistics: list[str] = []
    largest = 0
    sample = SampleFiles()
    broken: list[int] = []
    non_finite: Counter[str] = Counter()
    work = Work()
    tables = [MANIFEST_SCHEMA.empty_table()]
    while some := list(islice(commits, _RECORDS_AT_A_TIME)):
        tables.append(manifest_table(some))
        for commit in some:
            beside += [file.path for file in commit.files[1:]]
            statistics.append(commit.statistics.columns.path)
            largest = max(largest, commit.statistics.columns.bytes)
            sample.add(commit)
            broken += [commit.shard] if commit.rest_lost else []
            non_finite.update(commit.non_finite)
            work.add(commit)
    manifest = pa.concat_tables(tables).combine_chunks()
    return _Found(
        manifest, beside, statistics, largest, sample, broken, non_finite, work
    )


def _all_commits(
    table: Table, shards: Shards, known: Collection[int], fingerprint: str
) -> Iterator[Commit]:
    """Yield every shard's record, checked, also those that a listing leaves out."""
    listed = set(table.committed())
    unlisted = [index for index in range(len(shards)) if index not in listed]

    def look(index: int) -> Commit | None:
        return table.read_commit(index, written=index in known)

    with ThreadPoolExecutor(_PARALLEL_LOOKS) as pool:
        late = dict(zip(unlisted, pool.map(look, unlisted), strict=True))
    missing = [index for index, commit in late.items() if commit is None]
    if missing:
        raise RuntimeError(
            f"all {len(shards)} shards must be committed, {len(missing)} are not"
            f" (first: {missing[0]}); run the same command again to compute them"
        )
    found = table.read_commits([i for i in range(len(shards)) if i in listed])
    for shard in shards:
        commit = late.get(shard.index) or next(found)
        _check(commit, shard.rows, fingerprint)
        yield commit


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


def _check_whole(broken: Sequence[int], max_fraction: float) -> None:
    if broken and max_fraction < 1:
        raise RuntimeError(
            f"files of {len(broken)} shards ended in the middle of a record (first:"
            f" shard {broken[0]}, see its rows in the errors table). How many rows are"
            " lost is unknown, because these files do not say how many they hold."
            " Replace them, or accept any loss with errors.max_fraction = 1"
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
        enough = math.ceil(quarantined / planned * 10_000) / 10_000
        raise RuntimeError(
            f"at most {max_fraction:.4%} of the rows may be bad, {quarantined} of"
            f" {planned} are ({quarantined / planned:.4%}); see"
            f" {table.internal('errors')}. To accept them raise errors.max_fraction to"
            f" {enough:g} and run again: nothing is computed twice"
        )


def _check_keys(table: Table, plan: TablePlan, manifest: pa.Table) -> None:
    """See that no key comes twice, and no entity at one time; default keys cannot."""
    paths, rows = manifest["path"].to_pylist(), manifest["rows"].to_pylist()
    parts = list(zip(paths, rows, strict=True))
    key, entity = plan.columns[0], plan.config.table.entity
    if key.source and (repeated := repeated_keys(table, [key.name], parts)):
        named = {repr(str(k)): paths for (k,), paths in repeated.items()}
        raise RuntimeError(
            f"source.key must name each row apart, {key.source!r} repeats:"
            f" {_places(named)}. Choose another source.key, or none for keys of file"
            " and row, and start afresh with --overwrite"
        )
    if entity and (repeated := repeated_keys(table, [*entity, TIME], parts)):
        named = {
            f"{', '.join(map(repr, k))} at {time.isoformat()}": paths
            for (*k, time), paths in repeated.items()
        }
        raise RuntimeError(
            "table.entity and event_timestamp must name each row apart,"
            f" {', '.join(entity)} repeats: {_places(named)}. Add a column to the"
            " entity, or take the rows out of the source, and start afresh with"
            " --overwrite"
        )


def _places(repeated: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{key} in {', '.join(parts)}" for key, parts in repeated.items())


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
    storage.remove(table.internal(NOTICE))
    storage.remove_tree(table.internal("uploads"))
    storage.remove_empty(table.internal("attempts"))
