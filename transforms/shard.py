"""Say which stored rows make up a shard: pieces, shards, positions."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROW_BITS = 40
"""Bits of a position that count rows; those above count pieces."""
_CHUNK_SHARDS = 10_000


@dataclass(frozen=True, slots=True)
class Piece:
    """Contiguous rows of one file.

    Attributes:
      file: the URI that the reader opens.
      name: the file's name in default keys, stable when the data moves.
      start: first row within the file, or within its `span`.
      rows: how many rows; None if only reading tells.
      span: a range of bytes, `(first, end)`, for text that is cut without being read.
        A row belongs to the span in which its first byte lies.
      version: size, and etag or modification time, when planned; empty if the reader
        has no say in it.
    """

    file: str
    name: str
    start: int = 0
    rows: int | None = None
    span: tuple[int, int] | None = None
    version: str = ""


def position(piece: int, row: int = 0) -> int:
    """Number a row of a shard by its piece and by its row in there.

    Positions grow along the shard, and do not depend on how many rows the pieces before
    turn out to hold.

    >>> position(2, 5) - position(2)
    5
    """
    return (piece << ROW_BITS) + row


def split_position(at: int) -> tuple[int, int]:
    """Undo `position`: piece and row."""
    return at >> ROW_BITS, at & ((1 << ROW_BITS) - 1)


def split_positions(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undo `position` for int64 `[rows]`: pieces and rows."""
    return positions >> ROW_BITS, positions & ((1 << ROW_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Origin:
    """A shard of an earlier table that holds the rows of a shard.

    Attributes:
      table: which of the plan's earlier tables (`TablePlan.earlier`).
      shard: its index there.
      pieces: indexes of its pieces, there, that are still wanted, in order.
      whole: whether these are all of them.
    """

    table: int
    shard: int
    pieces: tuple[int, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class Shard:
    """Contiguous rows that are read, computed and written as one unit.

    Attributes:
      index: position of the shard in the plan, and of its part in the table.
      pieces: where the rows lie, in order.
      origin: where these rows have been computed before; None if nowhere.
    """

    index: int
    pieces: tuple[Piece, ...]
    origin: Origin | None = None

    @property
    def rows(self) -> int | None:
        """Planned rows; None where a piece's row count is unknown."""
        counts = [piece.rows for piece in self.pieces]
        return None if None in counts else sum(c for c in counts if c is not None)

    @property
    def names_rows(self) -> bool:
        """Whether file and row tell its rows apart.

        Not where it has several spans of one file, in each of which rows count anew.
        """
        spans = {(piece.file, piece.span) for piece in self.pieces if piece.span}
        return len(spans) == len({file for file, _ in spans})

    def locate(self, at: int) -> tuple[Piece, int]:
        """Find the piece and the row of a position.

        The row counts within the file, or within the piece's span of bytes.
        """
        index, row = split_position(at)
        piece = self.pieces[index]
        return piece, piece.start + row


SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("rows", pa.int64()),
        (
            "pieces",
            pa.list_(
                pa.struct(
                    [
                        ("file", pa.string()),
                        ("name", pa.string()),
                        ("start", pa.int64()),
                        ("rows", pa.int64()),
                        ("span", pa.list_(pa.int64())),
                        ("version", pa.string()),
                    ]
                )
            ),
        ),
        (
            "origin",
            pa.struct(
                [
                    ("table", pa.int64()),
                    ("shard", pa.int64()),
                    ("pieces", pa.list_(pa.int64())),
                    ("whole", pa.bool_()),
                ]
            ),
        ),
    ]
)


class Shards(Sequence[Shard]):
    """The shards of a plan, in order, in columns rather than objects.

    Attributes:
      table: one row a shard (`SHARD_SCHEMA`).
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Shards:
        """Lay shards out, some thousands at a time."""
        source = iter(shards)
        batches = []
        while chunk := list(itertools.islice(source, _CHUNK_SHARDS)):
            batches.append(_record_batch(chunk))
        return cls(pa.Table.from_batches(batches, SHARD_SCHEMA))

    @property
    def rows(self) -> int | None:
        """Planned rows; None if a source tells only when it is read."""
        rows = self.table["rows"]
        return None if rows.null_count else pc.sum(rows, min_count=0).as_py()

    @property
    def most_rows(self) -> int | None:
        """Rows of the largest shard; None if a source tells only when it is read."""
        rows = self.table["rows"]
        return None if rows.null_count else pc.max(rows).as_py()

    def digest(self) -> str:
        """Hash how the rows are cut: 64 hex digits."""
        digest = hashlib.sha256()
        pieces = pc.list_flatten(self.table["pieces"])
        lengths = pc.list_value_length(self.table["pieces"])
        starts = (
            pc.struct_field(pieces, "start"),
            lengths,
            pc.list_flatten(pc.struct_field(pieces, "span")),
        )
        for numbers in starts:
            digest.update(numbers.to_numpy().astype("<i8").tobytes())
        return digest.hexdigest()

    def origins(self) -> list[Origin | None]:
        """Where the rows of each shard have been computed before."""
        found = self.table["origin"].to_pylist()
        return [one and origin_from_json(one) for one in found]

    def files(self) -> dict[str, str]:
        """Versions of the files by name."""
        pieces = pc.list_flatten(self.table["pieces"])
        names, versions = (pc.struct_field(pieces, n) for n in ("file", "version"))
        return dict(zip(names.to_pylist(), versions.to_pylist(), strict=True))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Shard]:
        for batch in self.table.to_batches(_CHUNK_SHARDS):
            for row in batch.to_pylist():
                yield _shard(row)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Shards: ...
    def __getitem__(self, index: int | slice) -> Shard | Shards:
        if isinstance(index, slice):
            rows = pa.array(range(*index.indices(len(self))), pa.int64())
            return Shards(self.table.take(rows))
        row = range(len(self))[index]
        return _shard(self.table.slice(row, 1).to_pylist()[0])


def _record_batch(shards: Sequence[Shard]) -> pa.RecordBatch:
    pieces = [piece for shard in shards for piece in shard.pieces]
    kind = SHARD_SCHEMA.field("pieces").type
    columns = [
        pa.array([getattr(piece, field.name) for piece in pieces], field.type)
        for field in kind.value_type
    ]
    ends = itertools.accumulate((len(shard.pieces) for shard in shards), initial=0)
    structs = pa.StructArray.from_arrays(columns, fields=list(kind.value_type))
    lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), structs, type=kind)
    indexes = pa.array([shard.index for shard in shards], pa.int64())
    rows = pa.array([shard.rows for shard in shards], pa.int64())
    origins = pa.array(
        [shard.origin and asdict(shard.origin) for shard in shards],
        SHARD_SCHEMA.field("origin").type,
    )
    return pa.RecordBatch.from_arrays(
        [indexes, rows, lists, origins], schema=SHARD_SCHEMA
    )


def piece_from_json(document: dict[str, Any]) -> Piece:
    """Undo `asdict`, also where it has been through JSON or Arrow."""
    span = document["span"]
    return Piece(**{**document, "span": span and tuple(span)})


def origin_from_json(document: dict[str, Any]) -> Origin:
    """Undo `asdict`, also where it has been through JSON or Arrow."""
    return Origin(**{**document, "pieces": tuple(document["pieces"])})


def hash_file(uri: str, version: str) -> str:
    """Hash a file with its version: 32 hex digits."""
    return hashlib.sha256(f"{uri}\0{version}".encode()).hexdigest()[:32]


def rows_key(made_by: str, pieces: Iterable[Piece]) -> str:
    """Hash what the rows of a shard are: 16 hex digits.

    Args:
      made_by: hash of what makes rows of stored ones (`TablePlan.rows_made_by`).
      pieces: of the shard, with the versions of their files.

    >>> rows_key("made", [Piece("data/a", "a", 2, None, (0, 9), "5 1f")])
    '7ecea651adcdbd31'
    """
    digest = hashlib.sha256(made_by.encode())
    for piece in pieces:
        document = {name: getattr(piece, name) for name in Piece.__slots__}
        digest.update(json.dumps(document, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _shard(row: dict[str, Any]) -> Shard:
    return Shard(
        row["shard"],
        tuple(map(piece_from_json, row["pieces"])),
        row["origin"] and origin_from_json(row["origin"]),
    )
