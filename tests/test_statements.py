"""Lines of docs/stores.md for stores that need no code: parsed, and run if possible."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pyarrow.dataset as ds
import pytest
import sqlglot
from botocore.exceptions import ParamValidationError
from conftest import Job
from sqlglot import expressions

PAGE = Path(__file__).parents[1] / "docs" / "stores.md"
SECTION = PAGE.read_text().partition("\n## Where no code is needed\n")[2]
SNIPPETS = re.findall(r"```(\w+)\n(.*?)```", SECTION.partition("\n## ")[0], re.DOTALL)
PYTHON = {
    text.splitlines()[0].removeprefix("# "): text
    for language, text in SNIPPETS
    if language == "python"
}
"""Snippets by their first line."""


def parsed(text: str) -> list[Any]:
    """The statements of a snippet, whose first line names the dialect."""
    dialect = text.splitlines()[0].removeprefix("-- ").lower()
    return sqlglot.parse(text, dialect=dialect)


def statements() -> list[Any]:
    """All statements of the section."""
    return [
        one for language, text in SNIPPETS if language == "sql" for one in parsed(text)
    ]


@pytest.fixture
def table(job: Job, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table as the snippets take it: key, time, `texture`, here of two values."""
    monkeypatch.chdir(job.directory)
    job.run(
        taps=[{"path": "head", "column": "texture"}],
        table={"path": "out/features", "event_timestamp": "2026-03-01T00:00:00Z"},
    )
    return job.directory / "out" / "features" / "data"


def fitted(name: str) -> str:
    """A snippet for the table of these tests."""
    return PYTHON[name].replace("128", "2")


def test_every_store_has_its_lines() -> None:
    for store in ("Vertex AI", "Databricks", "Hopsworks", "SageMaker", "Milvus"):
        assert f"\n**{store}.**" in SECTION
        assert any(name.startswith(store) for name in PYTHON)
    assert "\n**Pinecone.**" in SECTION
    assert {language for language, _ in SNIPPETS} == {"sql", "python"}


def test_statements_parse_in_their_dialects() -> None:
    kinds = [type(one) for one in statements()]
    assert kinds == [expressions.Create, expressions.Export, *[expressions.Create] * 2]
    with pytest.raises(sqlglot.ParseError):  # what else parses is no proof
        parsed("-- Databricks\nCREATE TABLE a TBLPROPERTIES delta = true AS SELECT 1")


@pytest.mark.parametrize("name", PYTHON)
def test_snippets_are_python(name: str) -> None:
    ast.parse(PYTHON[name])


def test_what_bigquery_selects_is_what_vertex_ai_takes(table: Path) -> None:
    view, export = statements()[:2]
    database = duckdb.connect()
    database.execute("CREATE SCHEMA ml")
    rows = f"SELECT * FROM read_parquet('{table}/*.parquet')"
    database.execute(f"CREATE VIEW ml.features AS {rows}")
    database.execute(view.sql(dialect="duckdb"))
    served = database.sql("SELECT * FROM ml.served").arrow().read_all()
    assert set(served.column_names) >= {"example_id", "feature_timestamp", "texture"}
    assert "event_timestamp" not in served.column_names
    found = database.sql(export.this.sql(dialect="duckdb")).arrow().read_all()
    line = json.loads(json.dumps(found.slice(0, 1).to_pylist()[0]))
    assert (type(line["id"]), len(line["embedding"])) == (str, 2)
    assert len(found) == 100


def test_sagemaker_takes_each_row(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "nobody's")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    session = boto3.Session()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    sent: list[Any] = []

    def answer(params: dict[str, Any], **_: Any) -> Any:
        """Keep what botocore has checked, in place of a server."""
        sent.append(json.loads(params["body"]))
        return type("Answer", (), {"status_code": 200}), {}

    session.events.register("before-call", answer)
    exec(fitted("SageMaker Feature Store"), {})
    made, *put = sent
    assert made["RecordIdentifierFeatureName"] == "example_id"
    names = [one["FeatureName"] for one in made["FeatureDefinitions"]]
    assert len(put) == 100
    key, time, texture = put[0]["Record"]
    assert [one["FeatureName"] for one in (key, time, texture)] == names
    assert time["ValueAsString"] == "2026-03-01T00:00:00Z"
    assert len(texture["ValueAsStringList"]) == 2
    with pytest.raises(ParamValidationError):  # what else is accepted is no proof
        exec(fitted("SageMaker Feature Store").replace("ValueAsString", "Value"), {})


def test_the_files_for_pinecone_have_its_columns(table: Path) -> None:
    exec(PYTHON["Files for Pinecone"], {})
    found = ds.dataset("import/features").to_table()
    assert [str(kind) for kind in found.schema.types] == [
        "string",
        "list<element: float>",
    ]
    assert found.column_names == ["id", "values"]
    sent = ds.dataset(table).to_table().to_pylist()
    expected = {str(row["example_id"]): row["texture"] for row in sent}
    assert {row["id"]: row["values"] for row in found.to_pylist()} == expected
