"""Odd addresses, things of others, calls that were cut off, two calls at once.

Heavy tests, which need the extra `hand-off`. With REQUIRE_HAND_OFF set they fail where
they would be skipped.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import PLACES, need_stores
from test_publish import local_tables

from pipeline.publish.finished import FinishedTable, open_finished
from pipeline.publish.publish import publish_table
from pipeline.publish.target import make_target
from transforms.lookup import ConfigError

__all__ = ["local_tables"]  # a fixture
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
ICEBERG = {"name": "ml.features"}


@pytest.fixture(autouse=True)
def _stores() -> None:
    need_stores()


@pytest.mark.parametrize(
    ("target", "name", "held"),
    [
        ("faiss", "about.json", b"not JSON"),
        ("faiss", "about.json", b"[1]"),
        ("faiss", "about.json", b'{"properties": 3}'),
        ("projector", "projector_config.pbtxt", b"# featuretap 3\n"),
        ("projector", "projector_config.pbtxt", b"\xff\xfe"),
        ("huggingface", "README.md", b"\xff\xfe"),
        ("feast", "featuretap.json", b"[]"),
        ("feast", "featuretap.json", b"not JSON"),
        ("atlas", "inside", b"a directory, where a file is meant"),
    ],
)
def test_files_of_others_are_left_alone_whatever_they_hold(
    target: str, name: str, held: bytes, local_tables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(held)
    column = {"column": "head"} if target in ("faiss", "atlas") else {}
    made = make_target(local_tables["one"], target, {"path": str(tmp_path), **column})
    assert made.found(open_finished(local_tables["one"])) == {}
    assert (tmp_path / name).read_bytes() == held


def test_metadata_of_others_is_passed_over(
    local_tables: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "atlas.parquet"
    theirs = pa.schema([("a", pa.int64())], {b"\xff": b"\xfe"})
    pq.write_table(theirs.empty_table(), path)
    options = {"path": str(path), "column": "head"}
    with pytest.raises(ConfigError, match="it holds something else"):
        publish_table(local_tables["one"], "atlas", options)


def test_postgres_has_names_and_comments_of_all_kinds(
    local_tables: dict[str, str], tmp_path: Path
) -> None:
    import psycopg

    place, table = PLACES["pgvector"](tmp_path), local_tables["one"]
    with psycopg.connect(place.options["dsn"]) as connection:
        connection.execute("CREATE TABLE theirs (a int)")
        connection.execute("COMMENT ON TABLE theirs IS '2024'")
    longest = {**place.options, "name": "n" * 63}
    for one in ("one", "two"):
        publish_table(local_tables[one], "pgvector", longest)
    for options, said in (
        ({"name": "theirs"}, "it holds something else"),
        ({"name": "n" * 64}, "1 to 63 bytes, got 'nnn"),
        ({"name": "public."}, "1 to 63 bytes, got 'public.'"),
        ({"name": "a.b.c"}, "must be table or schema.table"),
        ({"dsn": "no such thing"}, "dsn must be as libpq takes it: missing"),
    ):
        with pytest.raises(ConfigError, match=said):
            publish_table(table, "pgvector", {**place.options, **options})
    place.close()


def test_a_server_that_does_not_answer_is_named(local_tables: dict[str, str]) -> None:
    options = {"url": "http://127.0.0.1:1", "column": "head"}
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:1 cannot be asked"):
        publish_table(local_tables["one"], "qdrant", options)


def test_a_card_that_was_cut_off_is_written_again(
    local_tables: dict[str, str], tmp_path: Path
) -> None:
    place = PLACES["huggingface"](tmp_path)
    path = Path(place.options["path"])
    (path / "data" / ".unfinished-abc").mkdir(parents=True)
    (path / ".README.md.0123abcd.tmp").write_text("---")
    assert publish_table(local_tables["one"], "huggingface", place.options).rows == 20


@pytest.mark.parametrize("left", [["data"], ["_transactions", "data"]])
def test_a_lance_table_without_a_version_is_written_again(
    left: list[str], local_tables: dict[str, str], tmp_path: Path
) -> None:
    place = PLACES["lance"](tmp_path)
    publish_table(local_tables["one"], "lance", place.options)
    for directory in (tmp_path / "lance" / "features.lance").iterdir():
        if directory.name not in left:
            shutil.rmtree(directory)
    assert publish_table(local_tables["one"], "lance", place.options).rows == 20
    assert place.keys() == [*range(20)]


def test_an_iceberg_table_has_the_files_where_the_table_is_now(
    local_tables: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = PLACES["iceberg"](tmp_path)
    before, after = tmp_path / "bef ore", tmp_path / "ä'%20fter"
    shutil.copytree(local_tables["one"], before)
    publish_table(str(before), "iceberg", place.options)
    assert publish_table(str(before), "iceberg", place.options).was_there
    before.rename(after)
    assert not publish_table(str(after), "iceberg", place.options).was_there
    assert place.keys() == [*range(20)]
    assert not [one for one in caplog.records if "statistics" in one.message]


@pytest.mark.parametrize("mark", ["#", "?"])
def test_addresses_that_iceberg_cannot_read_are_refused(
    mark: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="must lie elsewhere"):
        make_target(str(tmp_path / f"table{mark}1"), "iceberg", ICEBERG)


def test_of_two_publications_to_delta_at_once_one_fails(
    local_tables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltalake.exceptions import CommitFailedError

    from pipeline.publish.delta import Delta

    place, table = PLACES["delta"](tmp_path), open_finished(local_tables["two"])
    target = Delta(local_tables["two"], **place.options)
    target.write(replace(table, parts=table.parts[:1]))
    added = Delta._added

    def race(self: Delta, table: FinishedTable, there: set[str]) -> Any:
        monkeypatch.setattr(Delta, "_added", added)
        target.write(table)
        return added(self, table, there)

    monkeypatch.setattr(Delta, "_added", race)
    with pytest.raises(CommitFailedError):
        target.write(table)
    assert place.keys() == [*range(30)]


def test_documents_of_bigquery_that_were_cut_off_or_are_of_others(
    local_tables: dict[str, str], tmp_path: Path
) -> None:
    from bigquery_server import in_gs, loopback

    with loopback(tmp_path):
        table, path = in_gs(local_tables["one"]), tmp_path / "documents"
        options = {"name": "a.b.c", "kind": "external", "path": str(path)}
        publish_table(table, "bigquery", options)
        (path / "load.json").write_text("{}")  # as if cut off before it was removed
        assert publish_table(table, "bigquery", options).was_there
        assert [file.name for file in path.iterdir()] == ["table.json"]
        (path / "table.json").write_text(json.dumps({"labels": 3}))
        with pytest.raises(ConfigError, match="it holds something else"):
            publish_table(table, "bigquery", options)


def test_an_external_table_of_bigquery_reads_the_files_where_they_are_now(
    local_tables: dict[str, str], tmp_path: Path
) -> None:
    from bigquery_server import Gs, in_gs, loopback

    with loopback(tmp_path) as held:
        table = in_gs(local_tables["one"])
        options = {"name": "acme.ml.features", "kind": "external", "submit": True}
        publish_table(table, "bigquery", options)
        Gs().mv("/features/one", "/features/moved", recursive=True)
        moved = "gs://features/moved"
        assert not publish_table(moved, "bigquery", options).was_there
        assert publish_table(moved, "bigquery", options).was_there
        assert f"{moved}/data/" in str(held.tables["acme.ml.features"])
