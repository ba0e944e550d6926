"""The values that cross stage borders: pieces, shards, parts and commits."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROW_BITS = 40
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
    return (piece << _ROW_BITS) + row


def split_position(at: int) -> tuple[int, int]:
    """Undo `position`: piece and row."""
    return at >> _ROW_BITS, at & ((1 << _ROW_BITS) - 1)


def split_positions(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Undo `position` for int64 `[rows]`: pieces and rows."""
    return positions >> _ROW_BITS, positions & ((1 << _ROW_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Shard:
    """Contiguous rows that are read, computed and written as one unit.

    Attributes:
      index: position of the shard in the plan, and of its part in the table.
      pieces: where the rows lie, in order.
    """

    index: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int | None:
        """Planned rows; None where a piece's row count is unknown."""
        counts = [piece.rows for piece in self.pieces]
        return None if None in counts else sum(c for c in counts if c is not None)

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
    return pa.RecordBatch.from_arrays([indexes, rows, lists], schema=SHARD_SCHEMA)


def piece_from_json(document: dict[str, Any]) -> Piece:
    """Undo `asdict`, also where it has been through JSON or Arrow."""
    span = document["span"]
    return Piece(**{**document, "span": span and tuple(span)})


def _shard(row: dict[str, Any]) -> Shard:
    return Shard(row["shard"], tuple(map(piece_from_json, row["pieces"])))


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, preprocessed, inferred or encoded.

    Attributes:
      example_id: the row's key as text, None where it could not be read.
      shard: index of the row's shard.
      file: URI of the row's file.
      row: row within the file; of text that is read in spans of bytes, within the span.
      stage: `read`, `preprocess`, `infer`, `encode` or `crash`.
      exception: type of the exception.
      message: what it said, without graph node names.
    """

    example_id: str | None
    shard: int
    file: str
    row: int
    stage: str
    exception: str
    message: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One immutable file of the table.

    Attributes:
      path: relative to the table's directory; holds 8 digits of the content's hash.
      rows: rows in the Parquet footer.
      bytes: size.
      sha256: hash of the content, 64 hex digits.
    """

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Commit:
    """The record that makes one shard count: what was written, and what it cost.

    Attributes:
      shard: index of the shard.
      fingerprint: of the plan under which it was computed.
      planned_rows: rows the shard had to account for.
      part: the feature rows.
      errors: the quarantined rows, None if there are none.
      rest_lost: whether a file of unknown length broke off, so that more rows than
        `planned_rows` may have been meant.
      piece_rows: rows found in each piece, bad ones included, where the plan did not
        know them.
      non_finite: rows that hold NaN or infinite values, by column, where
        `errors.non_finite` is `warn`.
      device_rows: rows that went through the model at a time at the end; fewer than
        `model.batch_rows` where the device had run out of memory.
      seconds: wall-clock seconds by phase: `read` and `write` are what the loop waited
        for reader and writer, `compute` is the model, `total` is everything.
    """

    shard: int
    fingerprint: str
    planned_rows: int
    part: StoredFile
    errors: StoredFile | None
    rest_lost: bool = False
    piece_rows: tuple[int, ...] | None = None
    non_finite: dict[str, int] = field(default_factory=dict)
    device_rows: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def quarantined(self) -> int:
        """Rows that are in the errors table instead of the part."""
        return self.errors.rows if self.errors else 0

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON document."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Commit:
        """Undo `to_json`."""
        errors, found = document["errors"], document["piece_rows"]
        return cls(
            **{
                **document,
                "part": StoredFile(**document["part"]),
                "errors": StoredFile(**errors) if errors else None,
                "piece_rows": None if found is None else tuple(found),
            }
        )
