"""BigQuery: a load job or an external table, as documents or given to BigQuery."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from pipeline.publish.bigquery_service import Service
from pipeline.publish.bigquery_specs import (
    LABELS,
    check_columns,
    load_job,
    properties_of,
    schema,
    source_uris,
    table_resource,
)
from pipeline.publish.columns import Columns
from pipeline.publish.finished import FINGERPRINT, FinishedTable, batches_of, rows_of
from pipeline.publish.placed import is_free, place_of
from pipeline.publish.target import read_object
from transforms import storage
from transforms.column_names import KEY
from transforms.lookup import ConfigError, need
from transforms.table.directory import to_json

_JOB = "load.json"
_TABLE = "table.json"
_NAME = re.compile(r"[\w.:-]+\.\w+\.[\w-]+")


class BigQuery:
    """A table of BigQuery, or the documents by which anybody makes it.

    Files are read by BigQuery itself, so the published table must lie in Cloud Storage.
    """

    normalizes = False

    def __init__(
        self,
        table: str,
        *,
        name: str,
        kind: Literal["load", "external"] = "load",
        submit: bool = False,
        location: str | None = None,
        path: str | None = None,
    ) -> None:
        """Find the place.

        Args:
          table: URI of the table that is published.
          name: of the table in BigQuery, `project.dataset.table`.
          kind: `load` copies the rows into BigQuery, `external` leaves them in the
            files.
          submit: call BigQuery; by default only documents are written.
          location: of the dataset; BigQuery finds it out by default.
          path: URI of the directory of documents; beside the table by default.
        """
        need("google.cloud.bigquery", "bigquery")
        from google.cloud.bigquery import TableReference

        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"target bigquery.name must be project.dataset.table, got {name!r}"
            )
        if not table.startswith("gs://") or "*" in table:
            raise ConfigError(
                "BigQuery reads files of Cloud Storage by their names: the table must"
                f" lie at a gs:// URI without *, it lies at {table!r}; copy it there,"
                " and publish the copy"
            )
        if submit and path:
            raise ConfigError(
                "target bigquery.path must be left out with submit, which writes no"
                f" documents; got {path!r}"
            )
        project, dataset, last = name.rsplit(".", 2)
        self._name = TableReference.from_api_repr(
            {"projectId": project, "datasetId": dataset, "tableId": last}
        )
        self._kind = kind
        self._location = location
        self._path = place_of(table, path, "bigquery")
        self._service = Service(self._name, kind, location) if submit else None

    @property
    def location(self) -> str:
        """The table in BigQuery, or the directory of documents."""
        return f"{self._name} in BigQuery" if self._service else self._path

    def check(self, columns: Columns) -> None:
        """Refuse what BigQuery has no types for, and names that it does not allow."""
        check_columns(columns)

    def found(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the labels of the table in BigQuery, or of the document of it."""
        parts = source_uris(table)
        labels = self._service.labels(parts) if self._service else self._written(table)
        return None if labels is None else properties_of(labels, table)

    def write(self, table: FinishedTable) -> None:
        """Make or replace the table, or the documents."""
        documents = self._documents(table)
        if not self._service:
            for name, document in documents.items():
                storage.replace(self._file(name), to_json(document))
        elif self._kind == "load":
            self._service.load(documents[_JOB], documents[_TABLE])
        else:
            self._service.link(documents[_TABLE])

    def remove_older(self, table: FinishedTable) -> None:
        """Remove the job of a publication of the other kind, before this one."""
        if not self._service and self._kind == "external":
            storage.remove(self._file(_JOB))

    def keys(self, table: FinishedTable) -> Iterator[pa.Array]:
        """Yield the keys in BigQuery, or of the files that the documents name."""
        if self._service:
            (key,) = schema([table.columns.key])
            for page in self._service.keys(key):
                yield pa.array(page, table.columns.key.arrow_type)
        else:
            for rows in self._rows([KEY]):
                yield from rows[KEY].chunks

    def look_up(self, table: FinishedTable, keys: pa.Array) -> pa.Table:
        """Read rows in BigQuery, or of the files that the documents name."""
        if not self._service:
            return rows_of(self._rows(table.columns.compared()), keys)
        columns = [table.columns.key, *table.columns.vectors()]
        rows = self._service.rows(schema(columns), keys.to_pylist())
        types = [pa.field(column.name, column.arrow_type) for column in columns]
        return pa.Table.from_pylist(rows, pa.schema(types))

    def _documents(self, table: FinishedTable) -> dict[str, dict[str, Any]]:
        """Make the documents, in the order in which they are written."""
        resource = table_resource(table, self._name, self._kind)
        if self._kind == "external":
            return {_TABLE: resource}
        return {_TABLE: resource, _JOB: load_job(table, self._name, self._location)}

    def _written(self, table: FinishedTable) -> Mapping[str, str] | None:
        """Read the labels in the document of the table."""
        found = {name: self._read(name) for name in self._documents(table)}
        there = found[_TABLE]
        if there is None:
            return None if is_free(self._path, lambda _: False) else {}
        found_labels = there.get("labels")
        labels = dict(found_labels) if isinstance(found_labels, dict) else {}
        if found != self._documents(table):
            labels.pop(LABELS[FINGERPRINT], None)  # they are to be made anew
        return labels

    def _rows(self, columns: list[str]) -> Iterator[pa.Table]:
        """Read the files that the documents name."""
        if self._kind == "load":
            uris = self._read(_JOB)["configuration"]["load"]["sourceUris"]
        else:
            uris = self._read(_TABLE)["externalDataConfiguration"]["sourceUris"]
        for uri in uris:
            yield from batches_of(uri, columns)

    def _read(self, name: str) -> Any:
        """Read a document; None if there is none, an empty one for anything else."""
        try:
            return read_object(storage.read(self._file(name)))
        except FileNotFoundError:
            return None

    def _file(self, name: str) -> str:
        return storage.join(self._path, name)
