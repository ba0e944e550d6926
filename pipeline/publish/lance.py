"""LanceDB: a table with vectors of fixed length, a version for each publication."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import FinishedTable, rows_of
from pipeline.publish.placed import place_of
from transforms import storage
from transforms.column_names import KEY
from transforms.lookup import need

_UNFINISHED = (["data"], ["_transactions", "data"])  # cut off before a version
_RESERVED = ("_rowid", "_rowaddr", "_distance", "_score", "_relevance_score")


class Lance:
    """A table of a LanceDB database; searches work on each column of vectors."""

    normalizes = False

    def __init__(
        self, table: str, *, uri: str | None = None, name: str = "features"
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          uri: of the database, a directory; beside the table by default.
          name: of the table in there.
        """
        need("lancedb", "lance")
        self._uri = place_of(table, uri, "lance")
        self._name = name

    @property
    def location(self) -> str:
        """Database and name."""
        return f"{self._uri}/{self._name}.lance"

    def check(self, columns: Columns) -> None:
        """Refuse names of columns that searches add."""
        ours = (c for c in columns.all if c.name in _RESERVED)
        refuse(ours, "LanceDB keeps some names of columns for itself")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties that the table's schema holds."""
        database = self._database()
        if self._name not in database.list_tables().tables:
            return None
        place = storage.join(self._uri, f"{self._name}.lance")
        if storage.list_directories(place) in _UNFINISHED:
            storage.remove_tree(place)
            return None
        metadata = database.open_table(self._name).schema.metadata or {}
        return {name.decode(): value.decode() for name, value in metadata.items()}

    def write(self, table: FinishedTable) -> None:
        """Write a version, which appears at once."""
        # what LanceDB takes for vectors, and refuses, depends on names and widths
        table.refuse_non_finite(table.columns.vectors(), "LanceDB")
        schema = _schema(table)
        names = schema.names
        batches = (
            batch.cast(schema.remove_metadata()).to_batches()
            for batch in table.batches(names)
        )
        reader = pa.RecordBatchReader.from_batches(
            schema, (one.cast(schema) for some in batches for one in some)
        )
        self._database().create_table(
            self._name, data=reader, schema=schema, mode="overwrite"
        )

    def remove_older(self, table: FinishedTable) -> None:
        """Leave old versions to `cleanup_old_versions`."""

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of the newest version."""
        there = self._database().open_table(self._name).to_lance()
        for batch in there.to_batches(columns=[KEY]):
            yield batch.column(0)

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the newest version."""
        there = self._database().open_table(self._name).to_lance()
        batches = there.to_batches(columns=table.columns.compared())
        return rows_of((pa.Table.from_batches([batch]) for batch in batches), keys)

    def _database(self) -> Any:
        import lancedb

        return lancedb.connect(self._uri)


def _schema(table: FinishedTable) -> pa.Schema:
    """Vectors of one length as fixed-size lists, which search needs."""
    widths = {column.name: column.width for column in table.columns.vectors()}
    fields = [
        field.with_type(pa.list_(field.type.value_type, widths[field.name]))
        if field.name in widths
        else field
        for field in table.columns.schema
    ]
    return pa.schema(fields, metadata=table.properties)
