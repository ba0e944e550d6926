"""Make a new table of a finished one, without the rows of some keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from pipeline.fingerprint import digest_of
from pipeline.forget.keys import Redaction, read_keys, redaction_of
from pipeline.forget.rows import Left, leave_out
from pipeline.plan import Plan
from pipeline.publish.publish import publications
from pipeline.run import prepare_table
from transforms import storage
from transforms.extract import extract_shard
from transforms.lookup import ConfigError
from transforms.shard import Shard, Shards
from transforms.table.commit import commit_table
from transforms.table.directory import Table
from transforms.table.earlier import EarlierShard, earlier_shard
from transforms.table.encode import Layout
from transforms.table.names import NOTICE
from transforms.table.plan_file import Earlier, TablePlan, pending_shards, read_plan
from transforms.worker import Computer, Worker

_SAME = (
    *("model_digest", "versions", "columns", "taps", "features", "rows_made_by"),
)  # in the plans of both tables


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was forgotten, and where it may lie still.

    Attributes:
      table: URI of the new table.
      summary: that its `_SUCCESS` holds.
      rows: that are left out, bad ones included.
      keys: how many keys were to be forgotten.
      keys_found: of how many of them the old table had rows that are not bad.
      places: where rows of the keys may lie still, a sentence each.
    """

    table: str
    summary: dict[str, Any]
    rows: int
    keys: int
    keys_found: int
    places: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give it as a JSON document."""
        return asdict(self)


def forget_rows(table: str, keys: str, to: str) -> Forgotten:
    """Make a new table of a finished one, without the rows of some keys.

    Parts without such rows are carried, others are written again. Bad rows with these
    keys are left out, and what is said of other bad rows does not name them. Neither
    source nor model is needed. A call that was cut off goes on when it is repeated.

    Args:
      table: URI of the finished table; it stays as it is.
      keys: URI of a file of keys (`pipeline.forget.keys.read_keys`).
      to: URI of the new table.

    Raises:
      FileNotFoundError: there is no such table or file.
      ConfigError: the table is not finished, has none of the keys or no others, or
        there is another table at `to`.
      RuntimeError: a part of the table is damaged or gone.
    """
    old = Table(storage.absolute(table))
    there = read_plan(old)
    finished = old.read_success()
    if finished is None:
        raise ConfigError(
            f"rows can be forgotten of finished tables, {table!r} has no _SUCCESS; go"
            " on with the command that began it"
        )
    if storage.filesystem(table)[1] == storage.filesystem(to)[1]:
        raise ConfigError(
            f"--to must name a new table, got {to!r} for both; a finished table never"
            " changes"
        )
    wanted = read_keys(keys, there.columns, there.config.table.entity)
    redaction = redaction_of(wanted)
    left = leave_out(old, wanted, redaction)
    if not left.rows:
        raise ConfigError(
            f"--keys must name rows of the table, {table!r} has none of the"
            f" {len(wanted.values)} keys in its column {', '.join(wanted.columns)}"
        )
    if left.rows >= finished["rows"] + finished["quarantined"]:
        raise ConfigError(
            f"a table must keep at least one row, {table!r} holds nothing but rows of"
            " these keys; remove it instead"
        )
    prepare_table(_plan(there, old, to, left))
    return Forgotten(
        table=to,
        summary=_extract(Table(to), redaction),
        rows=left.rows,
        keys=len(wanted.values),
        keys_found=left.keys,
        places=tuple(_places(old, there, left)),
    )


def _plan(there: TablePlan, old: Table, to: str, left: Left) -> Plan:
    """Plan the new table: what the old one is, with fewer rows."""
    shards = Shards.of(left.shards)
    config = there.config
    place = config.table.model_copy(update={"path": to})
    pieces = [[asdict(piece) for piece in shard.pieces] for shard in left.shards]
    left_out = tuple(sorted({*there.left_out, *left.emptied}))
    forgotten = [pieces, left_out, left.said]
    ingredients = {**there.ingredients, "left": digest_of(forgotten)[:16]}
    ingredients["earlier"] = digest_of(there.fingerprint)[:16]
    return Plan(
        **{name: getattr(there, name) for name in _SAME},
        config=config.model_copy(update={"table": place}),
        fingerprint=digest_of(ingredients),
        ingredients=ingredients,
        shard_count=len(shards),
        rows=shards.rows,
        earlier=(Earlier(old.uri, there.fingerprint, there.claim),),
        left_out=left_out,
        shards=shards,
        activations=(),
        inputs=(),
    )


def _extract(table: Table, redaction: Redaction) -> dict[str, Any]:
    """Take over what is left, and finish the table."""
    plan = read_plan(table, written=True)
    layout = Layout(plan.columns, plan.schema, None)
    worker = Worker(table, plan, layout, Computer(plan))
    # Of its bad rows people know since the old table was made.
    storage.create(table.internal(NOTICE), b"{}")
    find = partial(_find, redaction)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pending = pending_shards(table.uri)
        for _ in pool.map(lambda shard: extract_shard(worker, shard, find), pending):
            pass
    return commit_table(table, max_fraction=1.0)


def _find(redaction: Redaction, plan: TablePlan, shard: Shard) -> EarlierShard:
    """Find the rows of a shard in the old table; nothing may be left to compute."""
    found = earlier_shard(plan, shard)
    if found is None or found.missing:
        raise RuntimeError(
            f"shard {shard.index} must come from the old table whole, it does not; the"
            " old table is damaged"
        )
    said = [replace(b, message=redaction.redacted(b.message)) for b in found.bad]
    return replace(found, bad=tuple(said))


def _places(old: Table, there: TablePlan, left: Left) -> Iterator[str]:
    """Say where rows of the keys may lie still."""
    for index, uri in enumerate(_ancestry(old.uri)):
        what = "a table that it took rows over from" if index else "the old table"
        yield f"{what}: {uri}"
        for one in publications(uri):
            yield f"{one['target']}: {one['location']}"
    path = there.config.source.model_dump().get("path")
    source = f" {path}" if isinstance(path, str) else ""
    yield (
        f"the source: {there.config.source.reader}{source}; a run that computes rows"
        " anew brings back what is still there"
    )
    for file in left.files:
        yield f"the name of a file, which the new table's plan holds: {file}"
    if left.unknown:
        yield (
            f"{left.unknown} bad rows of which nobody knows whose they are: what the"
            " errors table of the new table says of them names their files and rows"
        )


def _ancestry(uri: str) -> Iterator[str]:
    """Yield a table, the tables that it took rows over from, and theirs, if there."""
    waiting, seen = [uri], set()
    while waiting:
        one = waiting.pop(0)
        if one in seen:
            continue
        seen.add(one)
        try:
            plan = read_plan(Table(one))
        except FileNotFoundError:
            continue
        yield one
        waiting += [earlier.uri for earlier in plan.earlier]
