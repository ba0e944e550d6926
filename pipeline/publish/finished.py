"""A finished table as targets see it: parts, columns, rows in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.publish.columns import Columns
from transforms import storage
from transforms.column_names import KEY
from transforms.lookup import ConfigError
from transforms.table.batches import record_batches
from transforms.table.columns import Column
from transforms.table.commit_record import StoredFile
from transforms.table.directory import Table
from transforms.table.manifest import read_manifest
from transforms.table.plan_file import TablePlan, read_plan
from transforms.values import finite_rows, matrix

FINGERPRINT = "featuretap.fingerprint"
MODEL = "featuretap.model_digest"
OPTIONS = "featuretap.options"
TABLE = "featuretap.table"


@dataclass(frozen=True, slots=True)
class FinishedTable:
    """A table that can be published.

    Attributes:
      table: its directory.
      plan: that it was made by.
      summary: that its `_SUCCESS` holds.
      parts: with rows, in order, as the manifest names them.
      options: hash of the options that it is published with; empty if none were named.
    """

    table: Table
    plan: TablePlan
    summary: Mapping[str, Any]
    parts: tuple[StoredFile, ...]
    options: str = ""

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(part.rows for part in self.parts)

    @property
    def columns(self) -> Columns:
        """What each row has."""
        return Columns(self.plan.columns, tuple(self.plan.config.table.entity))

    @property
    def properties(self) -> dict[str, str]:
        """What travels with the data: which table it is, and of which model."""
        return {
            FINGERPRINT: self.plan.fingerprint,
            MODEL: self.plan.model_digest,
            OPTIONS: self.options,
            TABLE: self.table.uri,
        }

    @property
    def tag(self) -> str:
        """Eight hex digits: of the table, and of the options it is published with.

        What a target names so is another thing for each publication, and never
        replaced while something leads to it.
        """
        text = f"{self.plan.fingerprint} {self.options}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def refuse_non_finite(self, columns: Iterable[Column], store: str) -> None:
        """Refuse vectors that a store cannot hold, or search.

        Rows are looked at only where they were not counted when they were computed.

        Args:
          columns: of vectors.
          store: that takes finite ones only, for the message.

        Raises:
          ConfigError: a vector holds values that are NaN or infinite, or too large for
            float32.
        """
        counted = self.plan.config.errors.non_finite != "allow"
        for column in columns:
            none = not self.summary.get("non_finite", {}).get(column.name)
            if counted and none and column.dtype == "float32":
                continue
            for batch in self.batches([KEY, column.name]):
                vectors = float32_matrix(batch[column.name], column.width or 0)
                bad = np.flatnonzero(~finite_rows(vectors))
                if len(bad):
                    raise ConfigError(
                        f"{store} takes vectors of finite float32 only, column"
                        f" {column.name!r} of row {batch[KEY][bad[0]].as_py()!r} holds"
                        " others (errors.non_finite = 'quarantine' keeps NaN and"
                        " infinite ones out of a table)"
                    )

    def batches(
        self, columns: Sequence[str], parts: Sequence[StoredFile] | None = None
    ) -> Iterator[pa.Table]:
        """Yield rows in order, some thousands at a time.

        Args:
          columns: which columns, by name, in this order.
          parts: of which parts; all of them by default.
        """
        for part in self.parts if parts is None else parts:
            yield from batches_of(self.table.path(part.path), columns)

    def part_uri(self, part: StoredFile) -> str:
        """Give the URI of a part, absolute also on a local disk.

        Nothing in it is percent-encoded: readers of Iceberg decode nothing.
        """
        uri = self.table.path(part.path)
        local = storage.local_path(uri)
        return uri if local is None else f"file://{local.absolute()}"


def batches_of(uri: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield columns of a Parquet file in the order asked for, some rows at a time."""
    for batch in record_batches(uri, columns):
        yield pa.Table.from_batches([batch])


def float32_matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Give vectors as a float32 array `[rows, width]` that may be written to."""
    with np.errstate(over="ignore"):
        return np.array(matrix(column, width), np.float32)


def rows_of(tables: Iterable[pa.Table], keys: pa.Array) -> pa.Table:
    """Give the rows of some keys, of tables one after the other."""
    return pa.concat_tables(
        table.filter(pc.is_in(table[KEY], keys.cast(table[KEY].type)))
        for table in tables
    )


def open_finished(uri: str) -> FinishedTable:
    """Open a table that is to be published.

    Raises:
      FileNotFoundError: there is no table.
      ConfigError: it is not finished, or has no rows.
      TableError: it is damaged.
    """
    table = Table(storage.absolute(uri))
    plan = read_plan(table)
    summary = table.read_success()
    if summary is None:
        raise ConfigError(
            f"only finished tables are published, {uri!r} has no _SUCCESS; go on with"
            " the command that began it"
        )
    parts = tuple(
        StoredFile(row["path"], row["rows"], row["bytes"], row["sha256"])
        for row in read_manifest(table).to_pylist()
        if row["rows"]
    )
    if not parts:
        raise ConfigError(f"a published table must have rows, {uri!r} has none")
    return FinishedTable(table, plan, summary, parts)
