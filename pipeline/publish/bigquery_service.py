"""BigQuery itself, through Google's client: make and replace tables, read them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.publish.bigquery_specs import LABELS
from pipeline.publish.finished import FINGERPRINT
from transforms.column_names import KEY
from transforms.credentials import mask
from transforms.lookup import ConfigError

_TYPES = {"load": "TABLE", "external": "EXTERNAL"}


class Service:
    """One table in BigQuery."""

    def __init__(self, name: Any, kind: str, location: str | None) -> None:
        """Find the table.

        Args:
          name: its reference; jobs run in its project, too.
          kind: `load` for a table of BigQuery's own, `external` for one over files.
          location: of jobs; BigQuery finds out where the dataset is by default.
        """
        self._name = name
        self._kind = kind
        self._location = location

    def labels(self, parts: Sequence[str]) -> Mapping[str, str] | None:
        """Read the labels of what is there; None if there is nothing.

        An external table that reads other files has no label of a fingerprint.

        Args:
          parts: URIs of the files that it is to read.

        Raises:
          ConfigError: what is there is of the other kind, or may not be seen.
        """
        with self._client() as client:
            there = _look(client, self._name)
        if there is None:
            return None
        ours = set(LABELS.values()) & set(there.labels)
        if ours and there.table_type != _TYPES[self._kind]:
            raise ConfigError(
                f"target bigquery.kind must stay as it was, {self._name} is a table of"
                f" type {there.table_type}; choose another name, or remove it"
            )
        labels = dict(there.labels)
        external = there.external_data_configuration
        if ours and external and list(external.source_uris) != list(parts):
            labels.pop(LABELS[FINGERPRINT], None)
        return labels

    def load(self, job: Mapping[str, Any], resource: Mapping[str, Any]) -> None:
        """Load a table, in place of the one there, in one job.

        While the job runs, a table that was there has no label of a fingerprint: if
        this ends early, nobody takes the rows for those of either table.

        Args:
          job: body of `jobs.insert`.
          resource: with the labels and the description that the table gets.

        Raises:
          RuntimeError: the job failed; the table has the rows that it had.
        """
        from google.cloud.bigquery import Table

        beside = {key: resource[key] for key in ("labels", "description")}
        with self._client() as client:
            there = _look(client, self._name)
            load = dict(job["configuration"]["load"])
            if there is None:  # a table gets its labels with its rows
                load["destinationTableProperties"] = beside
            else:  # a job with other labels than the table's fails
                there.labels = {**there.labels, LABELS[FINGERPRINT]: None}
                client.update_table(there, ["labels"])
            _run(client, {**job["configuration"], "load": load})
            if there is not None:
                client.update_table(Table.from_api_repr(resource), list(beside))

    def link(self, resource: Mapping[str, Any]) -> None:
        """Let an external table have other files, in one call."""
        from google.cloud.bigquery import Table

        table = Table.from_api_repr(resource)
        fields = ["external_data_configuration", "labels", "description"]
        with self._client() as client:
            if _look(client, self._name) is None:
                client.create_table(table)
            else:
                client.update_table(table, fields, autodetect_schema=True)

    def keys(self, key: Any) -> Iterator[list[Any]]:
        """Yield the keys, a page at a time.

        Args:
          key: its field.
        """
        with self._client() as client:
            yield from self._keys(client, key)

    def rows(self, fields: Sequence[Any], keys: Sequence[Any]) -> list[dict[str, Any]]:
        """Read rows by their keys.

        Args:
          fields: of the columns to read; the first is the key.
          keys: of the rows.
        """
        with self._client() as client:
            if self._kind == "load":
                found = self._listed(client, fields, keys)
            else:
                found = self._query(client, [field.name for field in fields], keys)
            return [dict(row.items()) for row in found]

    def _keys(self, client: Any, key: Any) -> Iterator[list[Any]]:
        """Yield keys; listing rows costs nothing, and external tables cannot do it."""
        if self._kind == "load":
            found = client.list_rows(self._name, selected_fields=[key])
        else:
            found = self._query(client, [key.name])
        for page in found.pages:
            yield [row[0] for row in page]

    def _listed(
        self, client: Any, fields: Sequence[Any], keys: Sequence[Any]
    ) -> Iterator[Any]:
        """Yield rows by their place in the listing of keys.

        A query would scan, and bill, whole columns of vectors for a few rows.
        """
        missing, start = set(keys), 0
        for page in self._keys(client, fields[0]):
            for index, key in enumerate(page, start):
                if key in missing:
                    missing.remove(key)
                    yield from client.list_rows(
                        self._name,
                        selected_fields=fields,
                        start_index=index,
                        max_results=1,
                    )
            start += len(page)
            if not missing:
                return

    def _query(self, client: Any, names: Sequence[str], keys: Any = None) -> Any:
        from google.cloud import bigquery

        query = f"SELECT {', '.join(f'`{n}`' for n in names)} FROM `{self._name}`"
        config = bigquery.QueryJobConfig()
        if keys is not None:
            query += f" WHERE `{KEY}` IN UNNEST(@keys)"
            kind = "STRING" if isinstance(keys[0], str) else "INT64"
            chosen = bigquery.ArrayQueryParameter("keys", kind, keys)
            config.query_parameters = [chosen]
        return client.query_and_wait(query, job_config=config)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """Open a client; the credentials are Google's default ones.

        Raises:
          ConfigError: there are none, or BigQuery refuses what was asked for.
        """
        from google.api_core.exceptions import ClientError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.bigquery import Client

        try:
            with Client(self._name.project, location=self._location) as client:
                yield client
        except GoogleAuthError as error:
            raise ConfigError(
                "target bigquery needs credentials of Google's; set"
                " GOOGLE_APPLICATION_CREDENTIALS, or call gcloud auth"
                f" application-default login: {mask(str(error))}"
            ) from None
        except ClientError as error:
            raise ConfigError(
                f"BigQuery refuses what was asked for of {self._name}:"
                f" {mask(error.message)}"
            ) from None


def _look(client: Any, name: Any) -> Any:
    """Read a table's resource; None if there is no such table."""
    from google.api_core.exceptions import NotFound

    try:
        return client.get_table(name)
    except NotFound:
        return None


def _run(client: Any, configuration: Mapping[str, Any]) -> None:
    """Run a job to its end."""
    from google.api_core.exceptions import GoogleAPICallError

    job = client.create_job(configuration)
    try:
        job.result()
    except GoogleAPICallError:
        if not job.error_result:
            raise
        said = [mask(one["message"]) for one in job.errors or [job.error_result]]
        raise RuntimeError(
            "\n  ".join([f"BigQuery's job {job.job_id} failed:", *said])
        ) from None
