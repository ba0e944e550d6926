"""Keys that are to be forgotten -> the shards of a table without their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa

from pipeline.forget.keys import Keys, Redaction
from transforms import storage
from transforms.column_names import KEY
from transforms.errors.quarantine import BadRow
from transforms.lookup import ConfigError
from transforms.shard import Origin, Piece, Shard, hash_file
from transforms.table.commit_record import Commit
from transforms.table.directory import Table, open_parquet
from transforms.table.earlier import StoredPiece, read_bad_rows, stored_pieces
from transforms.table.plan_file import read_shards

_PARALLEL_PARTS = 8
_SHARDS_AT_A_TIME = 1024
_ROWS_AT_A_TIME = 100_000


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a table.

    Attributes:
      shards: without the rows, numbered from 0.
      rows: how many rows are left out, bad ones included.
      keys: how many of the keys the table has in rows that are not bad.
      files: of the source, of which other rows are left, whose names say a key.
      emptied: hashes of files of the source of which no row is left.
      unknown: bad rows that are left, of which nobody knows whether they have a key.
      said: hash of what is said of bad rows that are left.
    """

    shards: tuple[Shard, ...]
    rows: int
    keys: int
    files: tuple[str, ...]
    emptied: tuple[str, ...]
    unknown: int
    said: str


def leave_out(table: Table, keys: Keys, redaction: Redaction) -> Left:
    """Find the rows of some keys in a finished table, and cut its shards without them.

    Of the parts only the columns of the keys are read.

    Args:
      table: that holds the rows.
      keys: of the rows.
      redaction: their text.

    Raises:
      ConfigError: it cannot be told which rows of the source are meant.
    """
    shards: list[Shard] = []
    rows = unknown = 0
    before: dict[str, str] = {}
    said = hashlib.sha256()
    seen = keys.values.schema.empty_table()
    for shard, found in _looked_at(table, keys, redaction):
        pieces = list(found.left(shard.pieces))
        rows += found.count
        unknown += found.unknown
        said.update(found.said.encode())
        before |= {p.file: hash_file(p.file, p.version) for p in shard.pieces}
        seen = _once(pa.concat_tables([seen, found.keys]))
        if pieces:
            indexes, kept = zip(*pieces, strict=True)
            origin = Origin(0, shard.index, indexes, whole=not found.count)
            shards.append(Shard(len(shards), kept, origin))
    files = {piece.file for shard in shards for piece in shard.pieces}
    return Left(
        shards=tuple(shards),
        rows=rows,
        keys=len(seen),
        files=tuple(sorted(f for f in files if redaction.redacted(f) != f)),
        emptied=tuple(sorted(h for f, h in before.items() if f not in files)),
        unknown=unknown,
        said=said.hexdigest(),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """Rows of one shard that are to be forgotten.

    Attributes:
      gone: for each piece its rows, counted from its own first, in order: int64.
      sizes: of the pieces, in rows.
      keys: that the rows in the part have.
      unknown: bad rows that are left, of which nobody knows whether they have a key.
      said: what is said of bad rows that are left.
    """

    gone: Sequence[np.ndarray]
    sizes: Sequence[int]
    keys: pa.Table
    unknown: int
    said: str

    @property
    def count(self) -> int:
        """How many rows that are."""
        return sum(map(len, self.gone))

    def left(self, pieces: Sequence[Piece]) -> Iterator[tuple[int, Piece]]:
        """Yield what is left of the pieces of a shard, with the index of each."""
        for index, piece in enumerate(pieces):
            if not self.count or not len(self.gone[index]):
                yield index, piece
                continue
            kept = np.delete(np.arange(self.sizes[index]), self.gone[index])
            for run in np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1):
                if len(run):
                    start = piece.start + int(run[0])
                    yield index, replace(piece, start=start, rows=len(run))


def _looked_at(
    table: Table, keys: Keys, redaction: Redaction
) -> Iterator[tuple[Shard, _Found]]:
    """Look at each shard, several at a time."""
    shards = read_shards(table)
    commits = table.read_commits(range(len(shards)))
    both = zip(shards, commits, strict=True)
    look = partial(_look, table, keys, redaction)
    with ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
        while some := list(islice(both, _SHARDS_AT_A_TIME)):
            found = pool.map(look, *zip(*some, strict=True))
            yield from zip((shard for shard, _ in some), found, strict=True)


def _look(
    table: Table, keys: Keys, redaction: Redaction, shard: Shard, commit: Commit
) -> _Found:
    rows, found = _in_part(table, keys, commit)
    bad = read_bad_rows(table, commit)
    lost: list[BadRow] = []
    kept: list[BadRow] = []
    for one in bad:
        (lost if _is_of(one, keys, redaction) else kept).append(one)
    unknown = sum(keys.columns != (KEY,) or one.example_id is None for one in kept)
    said = "\n".join(redaction.redacted(one.message) for one in kept)
    if not len(rows) and not lost:
        return _Found((), (), found, unknown, said)
    if bad and not shard.names_rows:
        raise ConfigError(
            "rows to forget must be told apart by file and row, shard"
            f" {shard.index} of {table.uri!r} has a bad row, and reads several ranges"
            " of one file in each of which rows count anew; take the rows out of the"
            " source, and make the table anew"
        )
    stored = stored_pieces(shard.pieces, commit, bad)
    bad_ones = stored_pieces(shard.pieces, commit, lost)
    gone = [
        np.union1d(_rows_of(one, rows), other.bad)
        for one, other in zip(stored, bad_ones, strict=True)
    ]
    return _Found(gone, [one.rows for one in stored], found, unknown, said)


def _in_part(table: Table, keys: Keys, commit: Commit) -> tuple[np.ndarray, pa.Table]:
    """Find the rows of a part that have one of the keys, and which keys these are."""
    rows: list[int] = []
    found = [keys.values.schema.empty_table()]
    first = 0
    fs, path = storage.filesystem(table.path(commit.part.path))
    with fs.open(path, "rb") as stream, open_parquet(stream, check_pages=True) as file:
        for batch in file.iter_batches(
            _ROWS_AT_A_TIME, columns=list(keys.columns), use_threads=False
        ):
            some = keys.rows(batch)
            rows += (first + row for row in some)
            first += len(batch)
            taken = pa.Table.from_batches([batch.take(pa.array(some, pa.int64()))])
            found.append(taken.select(keys.columns).cast(keys.values.schema))
    return np.array(rows, np.int64), _once(pa.concat_tables(found))


def _rows_of(stored: StoredPiece, rows: np.ndarray) -> np.ndarray:
    """Give rows of a part that are of a piece, counted from its own first row."""
    sound = stored.sound()
    inside = rows - stored.first
    found: np.ndarray = sound[inside[(inside >= 0) & (inside < len(sound))]]
    return found


def _is_of(bad: BadRow, keys: Keys, redaction: Redaction) -> bool:
    """Whether a bad row has one of the keys; the errors table knows no entities."""
    return keys.columns == (KEY,) and bad.example_id in redaction.texts


def _once(table: pa.Table) -> pa.Table:
    """Give each row of a table once."""
    return table.group_by(table.column_names, use_threads=False).aggregate([])
