"""Earlier tables -> the shards of a plan that take rows over from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transforms import storage
from transforms.lookup import ConfigError
from transforms.shard import Origin, Piece, Shard, hash_file
from transforms.sources.source import File
from transforms.table.columns import Column
from transforms.table.commit_record import Made
from transforms.table.directory import Table
from transforms.table.earlier import are_same_parts, same_columns
from transforms.table.manifest import read_manifest
from transforms.table.plan_file import Earlier, TablePlan, read_plan, read_shards

_OF_BOTH = ("preprocess", "user_code")
_OF_ROWS = ("source", "event_timestamp", "entity", "non_finite", *_OF_BOTH)
_OF_VALUES = (
    *("model", "taps", "batch_rows", "precision", "jit", "versions"),
    *_OF_BOTH,
)


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What a plan takes over.

    Attributes:
      shards: whose rows earlier tables hold, numbered from 0.
      earlier: the tables that hold them, for the origins of the shards.
      files: of the source, whose rows no earlier table holds.
      left_out: hashes of files whose rows were all forgotten.
      notes: sentences on what is not taken over, and why.
    """

    shards: tuple[Shard, ...]
    earlier: tuple[Earlier, ...]
    files: tuple[File, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a plan will do with some of its shards.

    Attributes:
      shards: how many there are.
      rows: planned rows; None if a source tells only when it is read.
      seconds: of workers that this saves, at a guess: what the rows took before.
    """

    shards: int
    rows: int | None
    seconds: float


def take_over(
    tables: Sequence[str],
    rows_made_by: str,
    columns: Sequence[Column],
    ingredients: Mapping[str, str],
    files: Sequence[File],
    *,
    retry_errors: bool,
) -> TakenOver:
    """Find the rows of files in earlier tables; files that have not changed.

    Shards keep their order, and their rows unless a file has gone. A file is taken from
    the first table that has it.

    Args:
      tables: URIs of finished tables.
      rows_made_by: how the plan makes rows of stored ones.
      columns: of the plan.
      ingredients: of the plan's fingerprint, to name what differs.
      files: of the source now.
      retry_errors: compute the rows of shards with bad rows again.

    Raises:
      FileNotFoundError: there is no such table.
      ConfigError: one is not finished, or does not hold all rows of its source.
    """
    left = {file.uri: file for file in files}
    left_out: set[str] = set()
    shards: list[Shard] = []
    earlier: list[Earlier] = []
    notes = []
    for uri in tables:
        table, there = Table(storage.absolute(uri)), _finished_plan(uri)
        if reason := _difference(there, rows_made_by, columns, ingredients):
            notes.append(f"nothing is taken over from {uri!r}: {reason}")
            continue
        again = _with_bad_rows(table) if retry_errors else frozenset()
        for name in [n for n, file in left.items() if _hash(file) in there.left_out]:
            left_out.add(_hash(left.pop(name)))
        found = list(_wanted(table, left, len(earlier), again))
        if not found:
            notes.append(
                f"nothing is taken over from {uri!r}: none of its files is left"
            )
            continue
        for shard in found:
            for piece in shard.pieces:
                left.pop(piece.file, None)
        shards += found
        earlier.append(Earlier(table.uri, there.fingerprint, there.claim))
    numbered = (replace(shard, index=i) for i, shard in enumerate(shards))
    return TakenOver(
        shards=tuple(numbered),
        earlier=tuple(earlier),
        files=tuple(left.values()),
        left_out=tuple(sorted(left_out)),
        notes=tuple(notes),
    )


def _hash(file: File) -> str:
    return hash_file(file.uri, file.identity)


def outlook(plan: TablePlan, shards: Sequence[Shard]) -> dict[Made, Outlook]:
    """Say how the shards of a plan will be made; a worker may still compute more.

    Args:
      plan: with earlier tables.
      shards: of the plan.
    """
    if not plan.earlier:
        return {"computed": Outlook(len(shards), plan.rows, 0.0)}
    there = [read_plan(Table(one.uri)) for one in plan.earlier]
    a_row = [_seconds_a_row(one.uri) for one in plan.earlier]
    ways = {
        (number, whole): _made(plan, one, whole=whole)
        for number, one in enumerate(there)
        for whole in (True, False)
    }
    counts: dict[Made, list[tuple[int | None, float]]] = {}
    for shard in shards:
        origin, seconds = shard.origin, 0.0
        if origin is None:
            made: Made = "computed"
        else:
            made = ways[origin.table, origin.whole]
            seconds = a_row[origin.table] * (shard.rows or 0)
        counts.setdefault(made, []).append((shard.rows, seconds))
    return {
        made: Outlook(
            len(found),
            None if any(r is None for r, _ in found) else sum(r or 0 for r, _ in found),
            round(sum(seconds for _, seconds in found), 1),
        )
        for made, found in counts.items()
    }


def _made(plan: TablePlan, there: TablePlan, *, whole: bool) -> Made:
    if whole and are_same_parts(plan, there):
        return "carried"
    columns = same_columns(plan.columns, there.columns)
    return "projected" if len(columns) == len(plan.columns) else "extended"


def _seconds_a_row(uri: str) -> float:
    """Give the seconds of workers that a row of a finished table took."""
    summary = Table(uri).read_success()
    assert summary is not None  # it was finished when the plan was made
    rows: int = summary["rows"] + summary["quarantined"]
    return float(summary["seconds"]) / max(rows, 1)


def _finished_plan(uri: str) -> TablePlan:
    """Read the plan of a table that rows can be taken over from."""
    table = Table(uri)
    plan = read_plan(table)
    if table.read_success() is None:
        raise ConfigError(
            f"--from must name finished tables, {uri!r} has no _SUCCESS; go on with the"
            " command that began it"
        )
    if plan.config.limit:
        raise ConfigError(
            f"--from must name tables of all rows of their source, {uri!r} was made"
            f" with --limit {plan.config.limit}"
        )
    return plan


def _difference(
    there: TablePlan,
    rows_made_by: str,
    columns: Sequence[Column],
    ingredients: Mapping[str, str],
) -> str:
    """Say why a table holds nothing that is wanted; empty if it does."""

    def different(names: Sequence[str]) -> str:
        found = [n for n in names if there.ingredients[n] != ingredients[n]]
        return f" (different: {', '.join(found) or 'types of features'})"

    if there.rows_made_by != rows_made_by:
        return f"its rows are made in another way{different(_OF_ROWS)}"
    wanted = [column for column in columns if column.is_computed]
    if not same_columns(wanted, there.columns):
        return f"it has none of the columns{different(_OF_VALUES)}"
    return ""


def _with_bad_rows(table: Table) -> frozenset[int]:
    """Find the shards that have bad rows."""
    manifest = read_manifest(table).to_pylist()
    return frozenset(part["shard"] for part in manifest if part["quarantined"])


def _wanted(
    table: Table, files: Mapping[str, File], number: int, again: frozenset[int]
) -> Iterator[Shard]:
    """Yield the shards of a table without the rows of files that have changed.

    Args:
      table: the earlier table.
      files: that are wanted, by URI.
      number: of the table among the plan's earlier ones.
      again: shards whose rows are to be computed again.
    """
    for shard in read_shards(table):
        kept = [i for i, piece in enumerate(shard.pieces) if _is_same(piece, files)]
        if not kept:
            continue
        pieces = tuple(shard.pieces[index] for index in kept)
        origin = Origin(
            number, shard.index, tuple(kept), len(kept) == len(shard.pieces)
        )
        computes = shard.index in again or not shard.names_rows
        yield Shard(shard.index, pieces, None if computes else origin)


def _is_same(piece: Piece, files: Mapping[str, File]) -> bool:
    """Whether a piece is of a file that is as it was."""
    file = files.get(piece.file)
    return (
        file is not None
        and piece.version != ""
        and file.identity == piece.version
        and file.name == piece.name
    )
