"""A shard of an earlier table -> its record, its bad rows, the rows of its part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pyarrow as pa

from transforms.errors.quarantine import ERROR_SCHEMA, BadRow
from transforms.shard import Piece, Shard, Shards, position
from transforms.table.batches import record_batches
from transforms.table.columns import Column
from transforms.table.commit_record import Commit, Made
from transforms.table.directory import REPAIR, Table
from transforms.table.plan_file import Earlier, TablePlan, read_plan, read_shards

_OF_ANY_MODEL = ("read", "preprocess")  # stages before the model


@dataclass(frozen=True, slots=True)
class EarlierShard:
    """Rows of a shard that an earlier table holds.

    Attributes:
      table: the earlier table.
      commit: the record of its shard.
      columns: for columns of the new table the name of the same column there.
      missing: the computed columns of the new table that are not there.
      is_same: whether its part is, byte by byte, what the new table wants.
      bad: its bad rows, as rows of the new table.
      ranges: first row in the part and row after the last, of each wanted piece.
      found: rows of each wanted piece, bad ones included.
    """

    table: Table
    commit: Commit
    columns: Mapping[str, str]
    missing: tuple[str, ...]
    is_same: bool
    bad: tuple[BadRow, ...]
    ranges: tuple[tuple[int, int], ...]
    found: tuple[int, ...]

    @property
    def rest_lost(self) -> bool:
        """Whether a wanted file of unknown length broke off."""
        return self.commit.rest_lost and bool(self.bad)

    def credited(self, commit: Commit) -> Commit:
        """Say in a record how it came about, and what that saved."""
        rows = self.commit.part.rows
        share = commit.part.rows / rows if rows else 0.0
        before = self.commit.seconds.get("total", 0.0) + self.commit.saved_seconds
        saved = before * share - commit.seconds.get("total", 0.0)
        made: Made = "extended" if self.missing else "projected"
        return replace(
            commit,
            made="carried" if self.is_same else made,
            saved_seconds=round(max(saved, 0.0), 3),
            saved_bytes=commit.part.bytes if self.is_same else 0,
        )

    def last_positions(self) -> np.ndarray:
        """Give the position of the last row of each piece that has rows: int64."""
        ends = [position(i, rows - 1) for i, rows in enumerate(self.found) if rows]
        return np.array(ends, np.int64)

    def bad_positions(self, shard: Shard) -> frozenset[int]:
        """Give the positions of the bad rows in the new shard."""
        found = _pieces_of(shard.pieces, self.bad)
        return frozenset(
            position(index, bad.row - shard.pieces[index].start)
            for index, bad in zip(found, self.bad, strict=True)
            if index is not None
        )

    def rows(self) -> Iterator[pa.Table]:
        """Yield the wanted rows of the part, some thousands at a time.

        The columns have the names of the new table. At most a row group is in memory.

        Raises:
          FileNotFoundError: the part is gone.
          OSError: it cannot be read.
        """
        names = list(dict.fromkeys(self.columns.values()))
        wanted = np.zeros(self.commit.part.rows, bool)
        for start, stop in self.ranges:
            wanted[start:stop] = True
        row = 0
        for batch in record_batches(self.table.path(self.commit.part.path), names):
            chosen = np.flatnonzero(wanted[row : row + len(batch)])
            row += len(batch)
            if len(chosen):
                some = batch.take(pa.array(chosen))
                yield pa.table(
                    {new: some.column(old) for new, old in self.columns.items()}
                )


def earlier_shard(plan: TablePlan, shard: Shard) -> EarlierShard | None:
    """Find the rows of a shard in the earlier table that it comes from.

    Args:
      plan: of the new table.
      shard: of the new table.

    Returns:
      None if the shard comes from nowhere, or a fresh run might have other bad rows:
      some were bad because of columns that are no longer wanted.

    Raises:
      RuntimeError: there is another table now, or its record is gone.
    """
    if shard.origin is None:
        return None
    earlier = plan.earlier[shard.origin.table]
    there = _plan_of(earlier)
    table = Table(earlier.uri)
    commit = table.read_commit(shard.origin.shard)
    if commit is None:
        raise RuntimeError(
            f"shard {shard.origin.shard} must be committed in {earlier.uri!r}, which"
            f" rows are taken over from, it is not; {REPAIR}"
        )
    if commit.claim != earlier.claim:
        raise RuntimeError(_replaced(earlier, commit.fingerprint))
    columns = same_columns(plan.columns, there.columns)
    missing = tuple(c.name for c in plan.columns if c.name not in columns)
    bad = read_bad_rows(table, commit)
    judged = {c.made_by for c in there.columns} - {c.made_by for c in plan.columns}
    if judged and any(one.stage not in _OF_ANY_MODEL for one in bad):
        return None
    pieces = _pieces_there(earlier, shard)
    ranges, found = _wanted(stored_pieces(pieces, commit, bad), shard)
    return EarlierShard(
        table=table,
        commit=commit,
        columns=columns,
        missing=missing,
        is_same=shard.origin.whole and are_same_parts(plan, there),
        bad=_moved(bad, shard),
        ranges=ranges,
        found=found,
    )


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """What a part and its errors hold of one piece.

    Attributes:
      piece: of the shard.
      rows: that it has, bad ones included.
      first: its first row in the part.
      bad: its bad rows, counted from its own first row, in order: int64.
    """

    piece: Piece
    rows: int
    first: int
    bad: np.ndarray

    def in_part(self, row: int) -> int:
        """Give the row of the part that holds a row of the piece, or the next sound."""
        skipped = int(np.searchsorted(self.bad, row)) if len(self.bad) else 0
        return self.first + row - skipped

    def sound(self) -> np.ndarray:
        """Give the rows that the part holds, counted from the piece's first: int64."""
        return np.delete(np.arange(self.rows), self.bad)


def stored_pieces(
    pieces: Sequence[Piece], commit: Commit, bad: Sequence[BadRow]
) -> list[StoredPiece]:
    """Tell which rows of a part are of which piece.

    Args:
      pieces: of the part's shard.
      commit: its record.
      bad: its bad rows.

    Raises:
      RuntimeError: a bad row is of none of them.
    """
    counts = commit.piece_rows or [piece.rows or 0 for piece in pieces]
    found: dict[int, list[int]] = {}
    for one, index in zip(bad, _pieces_of(pieces, bad), strict=True):
        if index is None:
            raise RuntimeError(
                f"a bad row must lie in its shard, row {one.row} of {one.file} does"
                f" not; {REPAIR}"
            )
        found.setdefault(index, []).append(one.row - pieces[index].start)
    stored, first, none = [], 0, np.array([], int)
    for index, (piece, rows) in enumerate(zip(pieces, counts, strict=True)):
        rows_bad = found.get(index, [])
        of_piece = np.unique(rows_bad).astype(int) if rows_bad else none
        stored.append(StoredPiece(piece, rows, first, of_piece))
        first += rows - len(rows_bad)
    return stored


def are_same_parts(plan: TablePlan, there: TablePlan) -> bool:
    """Whether whole shards of another table are, byte by byte, what a plan wants.

    And whether their records say of rows that are not finite what it wants to know.
    """
    counts = (plan.config.errors.non_finite, there.config.errors.non_finite)
    uncounted = counts == ("warn", "allow")
    # of these two a part's schema is made, which takes long for each of a million
    says = (plan.columns, plan.model_digest)
    return not uncounted and says == (there.columns, there.model_digest)


def same_columns(wanted: Sequence[Column], there: Sequence[Column]) -> dict[str, str]:
    """Find the columns of a table that hold what another table wants.

    Both tables make their rows in the same way (`TablePlan.rows_made_by`).

    Returns:
      `{name of the wanted column: name there}`, in the order of the wanted ones.
    """
    by_hash = {c.made_by: c.name for c in there if c.is_computed}
    others = {c.name for c in there if not c.is_computed}
    found = {}
    for column in wanted:
        if column.is_computed and column.made_by in by_hash:
            found[column.name] = by_hash[column.made_by]
        elif not column.is_computed and column.name in others:
            found[column.name] = column.name
    return found


@cache
def _plan_of(earlier: Earlier) -> TablePlan:
    """Read the plan of an earlier table, once in a process.

    Raises:
      RuntimeError: there is another table now.
    """
    plan = read_plan(Table(earlier.uri))
    if plan.claim != earlier.claim or plan.fingerprint != earlier.fingerprint:
        raise RuntimeError(_replaced(earlier, plan.fingerprint))
    return plan


def _replaced(earlier: Earlier, now: str) -> str:
    return (
        f"{earlier.uri!r}, which rows are taken over from, has been replaced\n"
        f"  planned with: {earlier.fingerprint}\n  there now:    {now}\n"
        "start afresh with --overwrite"
    )


@cache
def _shards_of(earlier: Earlier) -> Shards:
    return read_shards(Table(earlier.uri))


def read_bad_rows(table: Table, commit: Commit) -> list[BadRow]:
    """Read the bad rows of a shard.

    Raises:
      FileNotFoundError, TableError: their file is gone or damaged.
    """
    if commit.errors is None:
        return []
    found = table.read_parquet(commit.errors.path, ERROR_SCHEMA, REPAIR)
    return [BadRow(**row) for row in found.to_pylist()]


def _pieces_there(earlier: Earlier, shard: Shard) -> Sequence[Piece]:
    """Give the pieces of the earlier shard that a shard comes from."""
    assert shard.origin is not None
    if shard.origin.whole:
        return shard.pieces
    return _shards_of(earlier)[shard.origin.shard].pieces


def _wanted(
    stored: Sequence[StoredPiece], shard: Shard
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Give the rows of the part of each piece of a shard, and how many each has."""
    assert shard.origin is not None
    ranges, found = [], []
    for index, piece in zip(shard.origin.pieces, shard.pieces, strict=True):
        there = stored[index]
        start = piece.start - there.piece.start
        rows = there.rows - start if piece.rows is None else piece.rows
        ranges.append((there.in_part(start), there.in_part(start + rows)))
        found.append(rows)
    return tuple(ranges), tuple(found)


def _moved(bad: Sequence[BadRow], shard: Shard) -> tuple[BadRow, ...]:
    """Give the bad rows of wanted pieces, as rows of the new shard."""
    found = _pieces_of(shard.pieces, bad)
    wanted = [one for one, at in zip(bad, found, strict=True) if at is not None]
    return tuple(replace(one, shard=shard.index) for one in wanted)


def _pieces_of(pieces: Sequence[Piece], bad: Sequence[BadRow]) -> list[int | None]:
    """Find the index of the piece of each bad row; None if it is of none of them.

    Pieces are gone through once: a shard of images has thousands of one row each.
    """
    of_file: dict[str, list[int]] = {one.file: [] for one in bad}
    for index, piece in enumerate(pieces):
        if piece.file in of_file:
            of_file[piece.file].append(index)

    def holds(piece: Piece, one: BadRow) -> bool:
        row = one.row - piece.start
        return row >= 0 and (piece.rows is None or row < piece.rows)

    return [
        next((i for i in of_file[one.file] if holds(pieces[i], one)), None)
        for one in bad
    ]
