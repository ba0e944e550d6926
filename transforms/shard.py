"""The values that cross stage borders: pieces, shards, parts and commits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Piece:
    """Contiguous rows of one file.

    Attributes:
      file: the URI that the reader opens.
      name: the file's name in default keys, stable when the data moves.
      start: first row within the file.
      rows: how many rows; None is all that the file holds, not known before reading.
    """

    file: str
    name: str
    start: int = 0
    rows: int | None = None


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

    def locate(self, position: int) -> tuple[Piece, int]:
        """Find the piece and the row within its file of the shard's n-th row."""
        for piece in self.pieces:
            if piece.rows is None or position < piece.rows:
                return piece, piece.start + position
            position -= piece.rows
        raise IndexError(f"shard {self.index} has no row {position} past its end")


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
                    ]
                )
            ),
        ),
    ]
)


def shards_to_arrow(shards: list[Shard]) -> pa.Table:
    """Lay shards out as a table, one row a shard (`SHARD_SCHEMA`)."""
    rows = [
        {
            "shard": shard.index,
            "rows": shard.rows,
            "pieces": [asdict(piece) for piece in shard.pieces],
        }
        for shard in shards
    ]
    return pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)


def shards_from_arrow(table: pa.Table) -> list[Shard]:
    """Undo `shards_to_arrow`."""
    return [
        Shard(row["shard"], tuple(Piece(**piece) for piece in row["pieces"]))
        for row in table.to_pylist()
    ]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read, preprocessed, inferred or encoded.

    Attributes:
      example_id: the row's key as text, None where it could not be read.
      shard: index of the row's shard.
      file: URI of the row's file.
      row: row within the file.
      stage: `read`, `preprocess`, `infer` or `encode`.
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
      seconds: wall-clock seconds by phase: `read` and `write` are what the loop waited
        for reader and writer, `compute` is the model, `total` is everything.
    """

    shard: int
    fingerprint: str
    planned_rows: int
    part: StoredFile
    errors: StoredFile | None
    rest_lost: bool = False
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
        errors = document["errors"]
        return cls(
            **{
                **document,
                "part": StoredFile(**document["part"]),
                "errors": StoredFile(**errors) if errors else None,
            }
        )
