"""BigQuery's REST API on loopback, as far as a publication calls it.

It keeps Google's rules that matter to one: lists come empty without list inference, a
job's schema must be that of its files, a job with other labels than the table's fails,
rows of external tables are not listed, an external table keeps its columns unless they
are to be detected. It reads the Parquet files through fsspec.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from ports import free_port

PAGE = 7
_ROOT = re.compile(r"/bigquery/v2/projects/(?P<project>[^/]+)(?P<rest>/.*)")
_TABLE = re.compile(r"/datasets/(?P<dataset>[^/]+)/tables(/(?P<table>[^/]+))?")
_SELECT = re.compile(
    r"SELECT (?P<names>.+) FROM `(?P<table>[^`]+)`(?P<where> WHERE.*)?"
)
_KINDS = {
    **dict.fromkeys(("int8", "int16", "int32", "int64"), "INTEGER"),
    **dict.fromkeys(("uint8", "uint16", "uint32"), "INTEGER"),
    **dict.fromkeys(("float", "double"), "FLOAT"),
    "bool": "BOOLEAN",
    "string": "STRING",
    "binary": "BYTES",
    "timestamp[us, tz=UTC]": "TIMESTAMP",
}


_ACCOUNT = {
    "type": "authorized_user",
    "client_id": "tests",
    "client_secret": "-",
    "refresh_token": "-",
    "token": "let-me-in",
    "expiry": "2999-01-01T00:00:00Z",
    "quota_project_id": "acme",
}
"""As gcloud keeps it; with such a token Google's client asks nobody for another."""


class Gs(MemoryFileSystem):
    """Cloud Storage, in memory."""

    protocol = ("gs", "gcs")
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("gs://", "memory://", 1))


class RefusedError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass
class Loopback:
    """What the server holds, and what it was asked.

    Attributes:
      datasets: that there are, as `project.dataset`.
      tables: resources, by `project.dataset.table`.
      rows: of the tables of BigQuery's own.
      calls: method, path and body of each call, in order.
      refusals: what is answered instead, by method and end of the path.
      failure: message of the error that jobs end with.
      loads: how many jobs have replaced rows.
    """

    datasets: set[str] = field(default_factory=lambda: {"acme.ml"})
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    refusals: dict[tuple[str, str], RefusedError] = field(default_factory=dict)
    failure: str = ""
    loads: int = 0
    _jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    _results: dict[str, Any] = field(default_factory=dict)

    def methods(self, since: int = 0) -> list[str]:
        """Name what was called: method, and last word of the path."""
        return [f"{m} {p.rsplit('/', 1)[-1]}" for m, p, _ in self.calls[since:]]

    def answer(self, method: str, url: str, body: Any) -> Any:
        split = urlsplit(url)
        query = {key: values[0] for key, values in parse_qs(split.query).items()}
        self.calls.append((method, split.path, body))
        for (refused, end), error in self.refusals.items():
            if method == refused and split.path.endswith(end):
                raise error
        found = _ROOT.fullmatch(split.path)
        assert found, url
        project, rest = found["project"], found["rest"]
        if rest == "/jobs":
            return self._insert(body)
        if rest.startswith("/jobs/"):
            return self._jobs[rest.rsplit("/", 1)[-1]]
        if rest.startswith("/queries"):
            return self._query(rest, body, query)
        table = _TABLE.match(rest)
        assert table, url
        name = f"{project}.{table['dataset']}.{table['table']}"
        if rest.endswith("/data"):
            return self._list(name, query)
        return self._table(method, project, table, body, query)

    def _table(self, method: str, project: str, at: Any, body: Any, query: Any) -> Any:
        dataset = f"{project}.{at['dataset']}"
        if dataset not in self.datasets:
            raise RefusedError(404, "notFound", f"Not found: Dataset {dataset}")
        if method == "POST":
            name = f"{dataset}.{body['tableReference']['tableId']}"
            assert name not in self.tables
            self.tables[name] = {**body, "type": "EXTERNAL", "schema": _detect(body)}
            return self.tables[name]
        name = f"{dataset}.{at['table']}"
        if name not in self.tables:
            raise RefusedError(404, "notFound", f"Not found: Table {name}")
        there = self.tables[name]
        if method == "PATCH":
            labels = {**there.get("labels", {}), **body.get("labels", {})}
            labels = {label: value for label, value in labels.items() if value}
            there.update({**body, "labels": labels})
            if query.get("autodetect_schema") == "True":
                there["schema"] = _detect(there)
        return there

    def _insert(self, body: Any) -> Any:
        """Run a load job at once."""
        job = {**body, "status": {"state": "DONE"}}
        try:
            self._load(body["configuration"])
        except RefusedError as error:
            said = {"reason": error.reason, "message": error.message}
            job["status"] |= {"errorResult": said, "errors": [said]}
        self._jobs[body["jobReference"]["jobId"]] = job
        return job

    def _load(self, configuration: Any) -> None:
        load = configuration["load"]
        at = load["destinationTable"]
        dataset = f"{at['projectId']}.{at['datasetId']}"
        name = f"{dataset}.{at['tableId']}"
        there = self.tables.get(name)
        _check(load, there, dataset in self.datasets)
        if self.failure:
            raise RefusedError(400, "invalid", self.failure)
        rows = [row for uri in load["sourceUris"] for row in _read(load, uri)]
        if load["writeDisposition"] != "WRITE_TRUNCATE":
            rows = [*self.rows.get(name, []), *rows]
        self.rows[name] = rows
        self.loads += 1
        made = there or {
            "tableReference": at,
            "type": "TABLE",
            **load.get("destinationTableProperties", {}),
        }
        self.tables[name] = {**made, "schema": load["schema"], "numRows": len(rows)}

    def _list(self, name: str, query: Any) -> Any:
        table = self.tables[name]
        if table["type"] != "TABLE":
            raise RefusedError(
                400, "invalid", f"Cannot list a table of type {table['type']}"
            )
        rows = self.rows[name][int(query.get("startIndex", 0)) :]
        names = query["selectedFields"].split(",")
        most = int(query.get("maxResults", len(rows)))
        return _page(table["schema"], names, rows[:most], query.get("pageToken"))

    def _query(self, rest: str, body: Any, query: Any) -> Any:
        """Run a query that chooses columns, and rows by their keys."""
        if rest == "/queries":
            select = _SELECT.fullmatch(body["query"])
            assert select, body
            names = re.findall("`([^`]+)`", select["names"])
            table = self.tables[select["table"]]
            rows = self.rows.get(select["table"]) or _linked(table)
            if select["where"]:
                assert select["where"] == " WHERE `example_id` IN UNNEST(@keys)"
                (given,) = body["queryParameters"]
                values = given["parameterValue"]["arrayValues"]
                keys = {value["value"] for value in values}
                rows = [row for row in rows if str(row["example_id"]) in keys]
            job = uuid.uuid4().hex
            self._results[job] = (table["schema"], names, rows)
            self._jobs[job] = {
                "jobReference": {"projectId": "acme", "jobId": job, "location": "EU"},
                "configuration": {"query": {"query": body["query"]}},
                "status": {"state": "DONE"},
            }
        else:
            job = rest.rsplit("/", 1)[-1]
        page = _page(*self._results[job], query.get("pageToken"))
        reference = self._jobs[job]["jobReference"]
        return {**page, "jobComplete": True, "jobReference": reference}


@contextmanager
def loopback(root: Path) -> Iterator[Loopback]:
    """Serve, and lead Google's client there, with credentials of its own."""
    held, port = Loopback(), free_port()
    host = f"http://127.0.0.1:{port}"
    server = ThreadingHTTPServer(("127.0.0.1", port), _handler(held))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    account = root / "account.json"
    account.write_text(json.dumps(_ACCOUNT))
    Gs.store.clear()
    Gs.pseudo_dirs[:] = [""]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGQUERY_EMULATOR_HOST", host)
        patch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))
        patch.setitem(_registry, "gs", Gs)
        yield held
    server.shutdown()
    server.server_close()
    thread.join()


def in_gs(table: str) -> str:
    """Copy a table from the local disk to Cloud Storage; give its URI there."""
    uri = f"gs://features/{Path(table).name}"
    if not Gs().exists(uri):
        Gs().put(f"{table}/", f"{uri}/", recursive=True)
    return uri


def _handler(held: Loopback) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            data = self.rfile.read(length)
            assert self.headers["Authorization"] == f"Bearer {_ACCOUNT['token']}"
            body = json.loads(data) if data else None
            try:
                return self._say(200, held.answer(self.command, self.path, body))
            except RefusedError as error:
                said = {"reason": error.reason, "message": error.message}
                document = {"code": error.status, "errors": [said], **said}
                return self._say(error.status, {"error": document})
            except Exception as error:  # Google's client would call again for minutes
                said = {"message": f"{type(error).__name__}: {error}"}
                return self._say(400, {"error": {"code": 400, "errors": [], **said}})

        def _say(self, status: int, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = _do  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _check(load: Any, there: Any, is_dataset: bool) -> None:
    """Keep the rules of load jobs."""
    if not is_dataset:
        raise RefusedError(404, "notFound", "Not found: Dataset was not found")
    if there and there["type"] != "TABLE":
        raise RefusedError(400, "invalid", f"Cannot load into a {there['type']}")
    given = load.get("destinationTableProperties", {}).get("labels")
    if there and given and given != there.get("labels"):
        raise RefusedError(400, "invalid", "Labels differ from those of the table")
    assert load["sourceFormat"] == "PARQUET"
    assert all(re.fullmatch(r"gs://[^*]+\.parquet", u) for u in load["sourceUris"])


def _read(load: Any, uri: str) -> Iterator[dict[str, Any]]:
    """Read a file by a job's schema."""
    with fsspec.open(uri) as stream:
        rows = pq.read_table(stream)
    named = {one["name"]: one for one in load["schema"]["fields"]}
    if set(named) != set(rows.column_names):
        raise RefusedError(
            400, "invalid", f"Columns of {uri} are not those of the schema"
        )
    for column in rows.schema:
        given = named[column.name]
        wanted = {**_field(column), "mode": given["mode"]}
        is_list = given["mode"] == "REPEATED"
        if is_list != pa.types.is_list(column.type) or given["type"] != wanted["type"]:
            raise RefusedError(400, "invalid", f"Field {column.name} does not match")
    is_inferred = load.get("parquetOptions", {}).get("enableListInference")
    for row in rows.to_pylist():
        yield {
            name: [] if isinstance(value, list) and not is_inferred else value
            for name, value in row.items()
        }


def _field(column: pa.Field) -> dict[str, str]:
    is_list = pa.types.is_list(column.type)
    kind = column.type.value_type if is_list else column.type
    mode = "REPEATED" if is_list else "NULLABLE"
    return {"name": column.name, "type": _KINDS[str(kind)], "mode": mode}


def _detect(table: Any) -> Any:
    """Give the schema of the last file of an external table."""
    external = table["externalDataConfiguration"]
    assert external["sourceFormat"] == "PARQUET"
    assert external["parquetOptions"] == {"enableListInference": True}
    with fsspec.open(max(external["sourceUris"])) as stream:
        return {"fields": [_field(column) for column in pq.read_schema(stream)]}


def _linked(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for uri in table["externalDataConfiguration"]["sourceUris"]:
        with fsspec.open(uri) as stream:
            rows += pq.read_table(stream).to_pylist()
    return rows


def _page(schema: Any, names: list[str], rows: Any, token: str | None) -> Any:
    """Give a few rows as the API does: values are text, lists are lists of values."""
    start = int(token or 0)
    fields = {one["name"]: one for one in schema["fields"]}
    page = [{"f": [_cell(row[name]) for name in names]} for row in rows[start:][:PAGE]]
    more = {"pageToken": str(start + PAGE)} if start + PAGE < len(rows) else {}
    chosen = {"fields": [fields[name] for name in names]}
    return {"schema": chosen, "totalRows": str(len(rows)), "rows": page, **more}


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return {"v": [_cell(one) for one in value]}
    return {"v": None if value is None else str(value)}
