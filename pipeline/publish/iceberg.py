"""Apache Iceberg: the parts themselves become files of a table in any catalog."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.publish.columns import Columns, refuse
from pipeline.publish.finished import FINGERPRINT, TABLE, FinishedTable
from transforms.column_names import KEY
from transforms.credentials import mask
from transforms.lookup import ConfigError, need

_RESERVED = (
    *("_file", "_pos", "_deleted", "_spec_id", "_partition"),
    *("_row_id", "_last_updated_sequence_number"),
)


class Iceberg:
    """A table in a catalog, which gets one snapshot for each table that is published.

    The files stay where they are: the published table must not be removed before
    another one is published in its place. `gc.enabled=false` keeps Iceberg from
    removing them.
    """

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        name: str,
        catalog: str = "default",
        properties: dict[str, str] | None = None,
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          name: of the Iceberg table, `namespace.table`.
          catalog: name of a catalog that pyiceberg knows.
          properties: of the catalog, such as `uri` and `warehouse`, where pyiceberg's
            own configuration does not name them.
        """
        need("pyiceberg.catalog", "iceberg")
        # of each column without statistics, in each part, it would warn
        logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)
        self._name = name
        self._catalog_name = catalog
        self._properties = properties or {}
        if "." not in name:
            raise ConfigError(
                f"target iceberg.name must be namespace.table, got {name!r}"
            )
        if {"#", "?"} & set(table):
            raise ConfigError(
                "readers of Iceberg take what follows # or ? in an address for no part"
                f" of it: a table that is published must lie elsewhere, got {table!r}"
            )

    @property
    def location(self) -> str:
        """Name and catalog, with the catalog's address."""
        from pyiceberg.utils.config import Config

        known = Config().get_catalog_config(self._catalog_name) or {}
        uri = {**known, **self._properties}.get("uri")
        at = f" at {mask(str(uri))}" if uri else ""
        return f"{self._name} in catalog {self._catalog_name}{at}"

    def check(self, columns: Columns) -> None:
        """Refuse what Iceberg has no types for, and names of its own columns."""
        columns.refuse_odd_numbers("Iceberg")
        ours = (c for c in columns.all if c.name in _RESERVED)
        refuse(ours, "Iceberg keeps some names of columns for itself")

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the properties of the Iceberg table."""
        catalog = self._catalog()
        if not catalog.table_exists(self._name):
            return None
        found = dict(catalog.load_table(self._name).properties)
        if found.get(TABLE) != table.table.uri:
            found.pop(FINGERPRINT, None)  # its files lie elsewhere
        return found

    def write(self, table: FinishedTable) -> None:
        """Add the files in one transaction, and one snapshot."""
        from pyiceberg.io.pyarrow import parquet_file_to_data_file

        catalog = self._catalog()
        uris = [table.part_uri(part) for part in table.parts]
        properties = {**table.properties, "gc.enabled": "false"}
        if not catalog.table_exists(self._name):
            catalog.create_namespace_if_not_exists(self._name.rpartition(".")[0])
            with catalog.create_table_transaction(
                self._name, table.columns.schema, properties=properties
            ) as transaction:
                transaction.add_files(uris, check_duplicate_files=False)
            return
        there = catalog.load_table(self._name)
        files = [task.file for task in there.scan().plan_files()]
        with there.transaction() as transaction:
            self._set_columns(transaction, there, table.columns.schema)
            transaction.set_properties(properties)
            update = transaction.update_snapshot({FINGERPRINT: table.plan.fingerprint})
            with update.overwrite() as snapshot:
                for file in files:
                    snapshot.delete_data_file(file)
                metadata = transaction.table_metadata
                for uri in uris:
                    file = parquet_file_to_data_file(there.io, metadata, uri)
                    snapshot.append_data_file(file)

    def remove_older(self, table: FinishedTable) -> None:
        """Leave old snapshots to whoever expires them."""

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys of the newest snapshot."""
        scan = self._catalog().load_table(self._name).scan(selected_fields=(KEY,))
        for batch in scan.to_arrow_batch_reader():
            yield batch.column(0)

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows of the newest snapshot."""
        from pyiceberg.expressions import In

        names = tuple(table.columns.compared())
        there = self._catalog().load_table(self._name)
        chosen = In(term=KEY, literals=set(keys.to_pylist()))
        return there.scan(row_filter=chosen, selected_fields=names).to_arrow()

    def _catalog(self) -> Any:
        from pyiceberg.catalog import load_catalog

        return load_catalog(self._catalog_name, **self._properties)

    def _set_columns(self, transaction: Any, there: Any, schema: pa.Schema) -> None:
        """Add columns that are new, and drop those that are gone."""
        from pyiceberg.table import TableProperties

        gone = {field.name for field in there.schema().fields} - set(schema.names)
        with transaction.update_schema(allow_incompatible_changes=True) as update:
            for name in sorted(gone):
                update.delete_column(name)
            update.union_by_name(schema)
        mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
        transaction.set_properties({TableProperties.DEFAULT_NAME_MAPPING: mapping})
