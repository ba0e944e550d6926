"""BigQuery by Google's own types and client, against its API on loopback."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from bigquery_server import Gs, Loopback, RefusedError, in_gs, loopback
from conftest import Job, vectors, write_parquet
from test_publish import Tables, local_tables

from pipeline import make_plan, run_plan
from pipeline.publish import bigquery_service, bigquery_specs
from pipeline.publish.columns import Columns
from pipeline.publish.finished import open_finished
from pipeline.publish.publish import publish_table
from pipeline.publish.target import make_target
from transforms.dtypes import DTYPES
from transforms.lookup import ConfigError
from transforms.table.columns import Column

if not os.environ.get("REQUIRE_HAND_OFF"):
    pytest.importorskip("google.cloud.bigquery", reason="needs the extra hand-off")
from google.cloud import bigquery

__all__ = ["local_tables"]  # a fixture
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
NAME = "acme.ml.features"
LOAD = {"name": NAME, "submit": True}
EXTERNAL = {"name": NAME, "kind": "external", "submit": True}
KEY = Column("example_id", "key", "string")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Loopback]:
    with loopback(tmp_path) as held:
        yield held


@pytest.fixture
def tables(held: Loopback, local_tables: dict[str, str]) -> dict[str, str]:
    return {name: in_gs(table) for name, table in local_tables.items()}


def parts(table: str) -> list[str]:
    return [f"{table}/{part.path}" for part in open_finished(table).parts]


def read(uri: str) -> Any:
    with fsspec.open(uri) as stream:
        return json.loads(stream.read())


def test_a_load_job_says_what_it_should_field_by_field(tables: dict[str, str]) -> None:
    done = publish_table(tables["one"], "bigquery", {"name": NAME, "location": "EU"})
    assert done.location == f"{tables['one']}-bigquery"
    assert sorted(Gs().ls(done.location, detail=False)) == [
        "/features/one-bigquery/load.json",
        "/features/one-bigquery/table.json",
    ]
    job = read(f"{done.location}/load.json")
    assert job["jobReference"] == {"projectId": "acme", "location": "EU"}
    given = bigquery.LoadJobConfig.from_api_repr(job["configuration"])
    assert given.to_api_repr() == job["configuration"]
    load = job["configuration"]["load"]
    assert bigquery.TableReference.from_api_repr(load["destinationTable"]) == (
        bigquery.TableReference.from_string(NAME)
    )
    assert load["sourceUris"] == parts(tables["one"])
    assert given.source_format == bigquery.SourceFormat.PARQUET
    assert given.write_disposition == bigquery.WriteDisposition.WRITE_TRUNCATE
    assert given.parquet_options.enable_list_inference is True
    assert given.schema == [
        bigquery.SchemaField("example_id", "INTEGER", "REQUIRED", None, "int64 of id"),
        bigquery.SchemaField("text", "STRING", "NULLABLE", None, "string of text"),
        bigquery.SchemaField(
            "hidden",
            "FLOAT",
            "REPEATED",
            None,
            "float32 [4] of features:activation_1",
        ),
        bigquery.SchemaField("head", "FLOAT", "REPEATED", None, "float32 [2] of head"),
    ]
    table = bigquery.Table.from_api_repr(read(f"{done.location}/table.json"))
    assert str(table.reference) == NAME
    assert table.labels == given.labels
    assert f"featuretap.fingerprint: {done.fingerprint}" in table.description
    assert f"featuretap.model_digest: {done.model_digest}" in table.description
    assert table.labels["featuretap_fingerprint"] == done.fingerprint[:63]
    assert table.labels["featuretap_model"] == done.model_digest[:63]
    for text in (*table.labels, *table.labels.values()):
        assert re.fullmatch(r"[a-z0-9_-]{1,63}", text)


def test_an_external_table_says_what_it_should_field_by_field(
    tables: dict[str, str], tmp_path: Path
) -> None:
    options = {"name": NAME, "kind": "external", "path": str(tmp_path / "documents")}
    publish_table(tables["two"], "bigquery", options)
    (document,) = (tmp_path / "documents").iterdir()
    assert document.name == "table.json"
    resource = json.loads(document.read_text())
    table = bigquery.Table.from_api_repr(resource)
    assert table.to_api_repr() == resource
    external = table.external_data_configuration
    assert external.source_format == bigquery.ExternalSourceFormat.PARQUET
    assert external.source_uris == parts(tables["two"])
    assert external.parquet_options.enable_list_inference is True
    assert external.autodetect is True
    assert not external.schema  # Google disallows one for Parquet
    assert not table.schema
    again = bigquery.ExternalConfig.from_api_repr(resource["externalDataConfiguration"])
    assert again.to_api_repr() == resource["externalDataConfiguration"]


def test_each_dtype_has_a_type_of_bigquery_or_is_refused() -> None:
    found = {}
    for dtype in {*DTYPES} - {"float16", "uint64"}:
        columns = Columns((KEY, Column("a", "keep", dtype)))
        bigquery_specs.check_columns(columns)
        found[dtype] = bigquery_specs.schema(columns.all)[1].field_type
    for dtype in ("float16", "uint64"):
        columns = Columns((KEY, Column("a", "keep", dtype)))
        with pytest.raises(ConfigError, match=rf"got a \({dtype} \[\]\); keep or tap"):
            bigquery_specs.check_columns(columns)
    assert found == {
        "string": "STRING",
        "bytes": "BYTES",
        "bool": "BOOLEAN",
        "timestamp": "TIMESTAMP",
        **dict.fromkeys(("int8", "int16", "int32", "int64"), "INTEGER"),
        **dict.fromkeys(("uint8", "uint16", "uint32"), "INTEGER"),
        **dict.fromkeys(("float32", "float64"), "FLOAT"),
    }


@pytest.mark.parametrize("name", ["größe", "_file_path", "_partitiontime", "a" * 301])
def test_names_that_bigquery_does_not_allow_are_refused(name: str) -> None:
    columns = Columns((KEY, Column(name, "keep", "int64")))
    with pytest.raises(ConfigError, match=f"got {name} "):
        bigquery_specs.check_columns(columns)


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (
            "/data/one",
            {},
            r"must lie at a gs:// URI without \*, it lies at '/data/one'",
        ),
        ("gs://b/a*b", {}, r"without \*, it lies at 'gs://b/a\*b'"),
        (
            "gs://b/one",
            {"name": "ml.features"},
            "must be project.dataset.table, got 'ml",
        ),
        ("gs://b/one", {"kind": "view"}, "kind"),
        ("gs://b/one", {"submit": True, "path": "x"}, "path must be left out with"),
    ],
)
def test_options_that_cannot_be_are_refused(
    held: Loopback, table: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        make_target(table, "bigquery", {"name": NAME, **options})


def test_a_plan_for_a_table_on_a_disk_is_refused(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"^publish\.bigquery: BigQuery reads files"):
        job.plan(publish={"bigquery": {"name": NAME}})


def test_more_parts_than_a_job_takes_are_refused(
    tables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bigquery_specs._MOST_URIS == 10_000
    monkeypatch.setattr(bigquery_specs, "_MOST_URIS", 0)
    with pytest.raises(ConfigError, match="at most 0 files at once, the table has 1"):
        publish_table(tables["one"], "bigquery", {"name": NAME})


def test_documents_are_replaced_but_not_those_of_others(
    tables: dict[str, str], tmp_path: Path
) -> None:
    options = {"name": NAME, "path": str(tmp_path / "documents")}
    job, table = (tmp_path / "documents" / n for n in ("load.json", "table.json"))
    publish_table(tables["one"], "bigquery", options)
    assert publish_table(tables["one"], "bigquery", options).was_there
    for damage in ("{", "{}"):
        job.write_text(damage)
        assert not publish_table(tables["one"], "bigquery", options).was_there
    job.unlink()  # as a call leaves it that was cut off
    assert publish_table(tables["two"], "bigquery", options).rows == 30
    with pytest.raises(ConfigError, match=r"vectors of one model.*\n.*there: "):
        publish_table(tables["other"], "bigquery", options)
    publish_table(tables["two"], "bigquery", {**options, "kind": "external"})
    assert not job.exists()
    for theirs in ("{}", "[]", "mine"):
        table.write_text(theirs)
        with pytest.raises(ConfigError, match="of featuretap's making"):
            publish_table(tables["one"], "bigquery", options)
    table.rename(tmp_path / "documents" / "notes.txt")
    with pytest.raises(ConfigError, match="of featuretap's making"):
        publish_table(tables["one"], "bigquery", options)


def test_the_python_of_the_documentation_hands_documents_in(
    held: Loopback,
    tables: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "load").mkdir()
    monkeypatch.chdir(tmp_path / "load")
    text = (Path(__file__).parents[2] / "docs" / "stores.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (load,) = (block for block in blocks if "load.json" in block)
    (external,) = (block for block in blocks if "create_table" in block)
    for name, rows in (("one", 20), ("two", 30)):  # the second replaces the first
        done = publish_table(tables[name], "bigquery", {"name": NAME, "path": "."})
        exec(load, {})
        assert len(held.rows[NAME]) == rows
        label = held.tables[NAME]["labels"]["featuretap_fingerprint"]
        assert label == done.fingerprint[:63]
    held.tables.clear()
    options = {"name": NAME, "path": "../external", "kind": "external"}
    publish_table(tables["one"], "bigquery", options)
    monkeypatch.chdir("../external")
    exec(external, {})
    uris = held.tables[NAME]["externalDataConfiguration"]["sourceUris"]
    assert uris == parts(tables["one"])


def test_a_table_is_loaded_in_one_job_and_read_back_without_a_query(
    held: Loopback, tables: dict[str, str]
) -> None:
    publish_table(tables["one"], "bigquery", LOAD)
    assert held.methods()[:3] == ["GET features", "GET features", "POST jobs"]
    assert "POST queries" not in held.methods()
    assert "PATCH features" not in held.methods()
    count = len(held.calls)
    again = publish_table(tables["one"], "bigquery", LOAD)
    assert again.was_there
    assert set(held.methods(count)) == {"GET features", "GET data"}
    count = len(held.calls)
    publish_table(tables["two"], "bigquery", LOAD)
    assert held.methods(count)[:6] == [
        *("GET features", "GET features", "PATCH features"),
        *("POST jobs", "PATCH features", "GET data"),
    ]
    marks, last = [body for method, _, body in held.calls if method == "PATCH"]
    assert marks["labels"]["featuretap_fingerprint"] is None
    assert set(last) == {"labels", "description"}
    assert held.tables[NAME]["labels"] == last["labels"]
    assert held.loads == 2


def test_an_external_table_follows_and_is_read_by_queries(
    held: Loopback, tables: dict[str, str]
) -> None:
    assert publish_table(tables["one"], "bigquery", EXTERNAL).rows == 20
    assert publish_table(tables["one"], "bigquery", EXTERNAL).was_there
    count = len(held.calls)
    assert publish_table(tables["two"], "bigquery", EXTERNAL).rows == 30
    assert held.methods(count).count("PATCH features") == 1
    assert publish_table(tables["more"], "bigquery", EXTERNAL).rows == 30
    names = [one["name"] for one in held.tables[NAME]["schema"]["fields"]]
    assert {"stem", "output"} & set(names)
    assert "GET data" not in held.methods()
    with pytest.raises(ConfigError, match="vectors of one model"):
        publish_table(tables["other"], "bigquery", EXTERNAL)
    with pytest.raises(ConfigError, match=r"must stay as it was.*type EXTERNAL"):
        publish_table(tables["two"], "bigquery", LOAD)


@pytest.mark.parametrize("options", [LOAD, EXTERNAL], ids=["load", "external"])
def test_keys_may_be_text(
    held: Loopback, tmp_path: Path, options: dict[str, Any]
) -> None:
    made = Tables(tmp_path)
    write_parquet(made.data / "0.parquet", range(10), vectors(10), 5)
    source = {"key": "text", "keep": ["vec"]}
    time = {"path": str(tmp_path / "text"), "event_timestamp": "2026-01-01T00:00:00Z"}
    run_plan(make_plan(made.config(source=source, table=time)))
    assert publish_table(in_gs(time["path"]), "bigquery", options).rows == 10
    schema = held.tables[NAME]["schema"]["fields"]
    kinds = {one["name"]: (one["type"], one["mode"]) for one in schema}
    assert kinds["example_id"][0] == "STRING"
    assert kinds["event_timestamp"][0] == "TIMESTAMP"
    assert kinds["vec"] == ("FLOAT", "REPEATED")


def test_vectors_that_came_empty_would_be_noticed(
    tables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = bigquery.format_options.ParquetOptions
    monkeypatch.setattr(bigquery_specs, "_parquet_options", options)
    with pytest.raises(RuntimeError, match="other values than were sent"):
        publish_table(tables["one"], "bigquery", LOAD)


def test_a_job_that_fails_leaves_the_rows_and_says_why(
    held: Loopback, tables: dict[str, str]
) -> None:
    publish_table(tables["one"], "bigquery", LOAD)
    held.failure = "Error while reading data: password=hunter2"
    with pytest.raises(RuntimeError, match=r"job .+ failed:\n  Error while.*=\*\*\*$"):
        publish_table(tables["two"], "bigquery", LOAD)
    assert len(held.rows[NAME]) == 20
    held.failure = ""
    assert publish_table(tables["two"], "bigquery", LOAD).rows == 30


def test_a_job_that_arrived_before_the_end_is_given_again(
    held: Loopback, tables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_table(tables["one"], "bigquery", LOAD)
    run = bigquery_service._run

    def cut_off(*arguments: Any) -> None:
        run(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bigquery_service, "_run", cut_off)
        with pytest.raises(KeyboardInterrupt):
            publish_table(tables["two"], "bigquery", LOAD)
    labels = held.tables[NAME]["labels"]
    assert "featuretap_fingerprint" not in labels  # neither table's
    assert "featuretap_model" in labels
    assert publish_table(tables["two"], "bigquery", LOAD).rows == 30
    assert len(held.rows[NAME]) == 30


@pytest.mark.parametrize(
    ("method", "end"), [("GET", "/features"), ("POST", "/jobs"), ("GET", "/data")]
)
def test_missing_rights_are_said(
    held: Loopback, tables: dict[str, str], method: str, end: str
) -> None:
    said = "Access Denied: Project acme: User does not have bigquery.jobs.create"
    held.refusals[method, end] = RefusedError(403, "accessDenied", said)
    with pytest.raises(ConfigError, match=rf"refuses .* acme\.ml\.features: .*{said}"):
        publish_table(tables["one"], "bigquery", LOAD)


def test_a_dataset_has_to_be_there(held: Loopback, tables: dict[str, str]) -> None:
    held.datasets.clear()
    with pytest.raises(RuntimeError, match="Not found: Dataset"):
        publish_table(tables["one"], "bigquery", LOAD)
    with pytest.raises(ConfigError, match="Not found: Dataset"):
        publish_table(tables["one"], "bigquery", EXTERNAL)


def test_credentials_have_to_be_there(
    tables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="needs credentials of Google's; set GOOGLE"):
        publish_table(tables["one"], "bigquery", LOAD)


def test_labels_of_others_stay(held: Loopback, tables: dict[str, str]) -> None:
    publish_table(tables["one"], "bigquery", LOAD)
    held.tables[NAME]["labels"]["team"] = "search"
    publish_table(tables["two"], "bigquery", LOAD)
    assert held.tables[NAME]["labels"]["team"] == "search"


def test_the_parts_are_as_bigquery_reads_lists(tables: dict[str, str]) -> None:
    with fsspec.open(parts(tables["one"])[0]) as stream:
        schema = pq.ParquetFile(stream).schema
    paths = [schema.column(index).path for index in range(len(schema))]
    assert "head.list.element" in paths  # what list inference asks for


def test_labels_stand_for_whole_properties(tables: dict[str, str]) -> None:
    table = open_finished(tables["one"])
    labels = bigquery_specs.labels_of(table)
    assert bigquery_specs.properties_of(labels, table) == {
        name: table.properties[name] for name in bigquery_specs.LABELS
    }
    other = {**labels, "featuretap_model": "0" * 63}
    assert bigquery_specs.properties_of(other, table)["featuretap.model_digest"] == (
        "0" * 63
    )
    assert bigquery_specs.properties_of({"team": "search"}, table) == {}
