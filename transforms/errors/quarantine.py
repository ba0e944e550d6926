"""Collect the rows of a shard that failed, and tell bad rows from a bad config."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from transforms.errors.failure import Failure
from transforms.errors.stages import Stage
from transforms.shard import Shard, split_positions

ERROR_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("shard", pa.int64()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("stage", pa.string()),
        ("exception", pa.string()),
        ("message", pa.string()),
    ]
)
_DAMAGE = ("DataLossError", "EOFError")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row of the errors table.

    Attributes:
      example_id: the row's key as text; None where it could not be read.
      shard: index of the row's shard.
      file: URI of the row's file.
      row: row within the file; of text that is read in spans of bytes, within the span.
      stage: in which it failed.
      exception: type name of what was raised.
      message: what that said, without names of graph nodes.
    """

    example_id: str | None
    shard: int
    file: str
    row: int
    stage: Stage
    exception: str
    message: str


class Quarantine:
    """Collects a shard's bad rows, and stops when they are not the rows' fault.

    Attributes:
      rows: the bad rows so far.
      sound: how many rows came through.
      rest_lost: whether a file of unknown length broke off, so that nobody knows how
        many rows it held.
    """

    def __init__(
        self,
        shard: Shard,
        key: str,
        batch_rows: int,
        *,
        judges: bool,
        notice: Callable[[BadRow], None] = lambda _: None,
    ) -> None:
        """Start with nothing.

        Args:
          shard: whose rows.
          key: feature that identifies an example; empty for file and row.
          batch_rows: so many rows that fail alike before any is sound may speak of
            the config and not of the data.
          judges: whether they do: then they stop the run.
          notice: called with the first bad row, once it is clear that it does not stop
            the run.
        """
        self.rows: list[BadRow] = []
        self.sound = 0
        self.rest_lost = False
        self._shard = shard
        self._key = key
        self._batch_rows = batch_rows
        self._judges = judges
        self._notice = notice
        self._has_noticed = False
        self._ends = np.zeros(len(shard.pieces), np.int64)

    def add(self, failure: Failure) -> None:
        """Take a row that failed.

        Raises:
          RuntimeError: all rows so far failed alike, and they fill a batch.
        """
        self._saw(np.array([failure.position]))
        self.rows.append(bad_row(self._shard, self._key, failure))
        self.rest_lost = self.rest_lost or failure.rest_lost
        if len(self.rows) == self._batch_rows:
            self._stop_if_alike()
        if self.sound or not self._judges:
            self._notice_first()

    def know(
        self, bad: Iterable[BadRow], positions: Iterable[int], *, rest_lost: bool
    ) -> None:
        """Take rows that are known to be bad before any is read.

        Args:
          bad: the rows.
          positions: theirs.
          rest_lost: whether a file of unknown length had broken off.
        """
        self.rows.extend(bad)
        self._saw(np.array(list(positions), np.int64))
        self.rest_lost = self.rest_lost or rest_lost
        self._judges = False  # the config has been judged before

    def passed(self, rows: int, positions: np.ndarray) -> None:
        """Count rows that came through, of those at some positions."""
        self.sound += rows
        self._notice_first()
        self._saw(positions)

    def piece_rows(self) -> tuple[int, ...] | None:
        """Rows found in each piece, None if that was known before."""
        return None if self._shard.rows is not None else tuple(self._ends.tolist())

    def close(self) -> None:
        """Check the shard as a whole.

        Raises:
          RuntimeError: all rows failed alike, or they are not the planned ones.
        """
        self._stop_if_alike()
        self._notice_first()
        found = self.sound + len(self.rows)
        if self._shard.rows not in (None, found):
            raise RuntimeError(
                f"shard {self._shard.index} must account for {self._shard.rows} planned"
                f" rows, got {self.sound} sound and {len(self.rows)} bad ones; the"
                " source has changed since it was planned, or its reader loses rows"
            )

    def table(self) -> pa.Table:
        """The bad rows as a table (`ERROR_SCHEMA`), by file and row."""
        ordered = sorted(self.rows, key=lambda bad: (bad.file, bad.row))
        return pa.Table.from_pylist([asdict(bad) for bad in ordered], ERROR_SCHEMA)

    def _notice_first(self) -> None:
        if self.rows and not self._has_noticed:
            self._has_noticed = True
            self._notice(self.rows[0])

    def _saw(self, positions: np.ndarray) -> None:
        pieces, rows = split_positions(positions)
        np.maximum.at(self._ends, pieces, rows + 1)

    def _stop_if_alike(self) -> None:
        kinds = {(bad.stage, bad.exception) for bad in self.rows}
        if self.sound or len(self.rows) < 2 or len(kinds) > 1:
            return
        ((stage, exception),) = kinds
        if stage == "crash" or exception in _DAMAGE or not self._judges:
            return
        first = self.rows[0]
        raise RuntimeError(
            f"all {len(self.rows)} rows of the first batch failed alike in {stage},"
            f" which means a wrong config or model rather than bad rows: {exception}:"
            f" {first.message} (first: row {first.row} of {first.file}). Correct the"
            " config; or, if these rows are bad indeed, leave them out of the source"
        )


def bad_row(shard: Shard, key: str, failure: Failure) -> BadRow:
    """Say of a row that failed what the errors table says.

    Args:
      shard: whose row.
      key: feature that identifies an example; empty for file and row.
      failure: of the row.
    """
    piece, row = shard.locate(failure.position)
    return BadRow(
        example_id=failure.passed.get(key) if key else f"{piece.name}#{row}",
        shard=shard.index,
        file=piece.file,
        row=row,
        stage=failure.stage,
        exception=failure.exception,
        message=failure.message,
    )
