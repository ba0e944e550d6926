"""What lies in a table's directory, what it is called, and what clearing leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ROOTS, commit, root_of

from transforms import storage
from transforms.lookup import ConfigError
from transforms.table import directory, names
from transforms.table.directory import FORMAT_VERSION, Table, to_json, to_parquet

PART = "data/part-00000-0123abcd.parquet"
OURS = (
    "_SUCCESS",
    PART,
    "data/part-123456-0123abcd.parquet",
    *(f"_featuretap/{name}" for name in ("config.json", *directory._DOCUMENTS)),
    "_featuretap/commits/00000.json",
    "_featuretap/errors/00000-0123abcd.parquet",
    "_featuretap/attempts/00000-0123abcd.json",
    "_featuretap/uploads/1-2/part.parquet",
)
"""In another order than that in which they may be removed."""
THEIRS = (
    "README.md",
    "data/part-0-0123abcd.parquet",
    "data/part-00000-0123ABCD.parquet",
    "data/part-00000-0123abcd.parquet.tmp",
    "data/more/part-00000-0123abcd.parquet",
    "_featuretap/notes.txt",
    "_featuretap/commits/0.json",
    "_featuretap/commits/00000.json.bak",
    "_featuretap/errors/a.parquet",
    "_featuretap/attempts/00000.json",
)


@pytest.fixture(params=ROOTS)
def table(request: Any, tmp_path: Path) -> Table:
    return Table(root_of(request.param, tmp_path))


def fill(table: Table, *paths: str) -> None:
    for name in paths:
        storage.replace(table.path(name), b"x")


def present(table: Table, paths: tuple[str, ...]) -> list[str]:
    return [name for name in paths if storage.exists(table.path(name))]


shard_numbers = st.integers(0, 10**7)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(shard_numbers, digests)
def test_every_name_that_is_given_is_recognized(shard: int, sha256: str) -> None:
    part, errors = names.part_name(shard, sha256), names.errors_name(shard, sha256)
    assert names.PART.fullmatch(part.removeprefix("data/"))
    assert names.OF_SHARD.fullmatch(errors.removeprefix("_featuretap/errors/"))
    record = names.commit_name(shard).removeprefix("_featuretap/commits/")
    found = names.COMMIT.fullmatch(record)
    assert found
    assert int(found[1]) == shard
    assert sha256[:8] in part
    assert sha256[:8] in errors


@given(st.sets(shard_numbers, min_size=2, max_size=2), digests)
def test_names_of_two_shards_differ(shards: set[int], sha256: str) -> None:
    for name in (
        lambda shard: names.part_name(shard, sha256),
        lambda shard: names.errors_name(shard, sha256),
        names.commit_name,
    ):
        assert len({name(shard) for shard in shards}) == 2


def test_paths_are_below_the_table() -> None:
    table = Table("gs://bucket/table")
    assert table.path("data/a") == "gs://bucket/table/data/a"
    assert (
        table.internal("plan.parquet") == "gs://bucket/table/_featuretap/plan.parquet"
    )
    assert table.internal() == "gs://bucket/table/_featuretap"


def test_readers_see_all_of_data_and_what_is_not_hidden(table: Table) -> None:
    fill(table, *OURS, *THEIRS, ".hidden", "_delta_log/0.json", "sub/a", "data/_x")
    assert table.visible_names() == [
        "data/_x",
        "data/more/",
        "data/part-0-0123abcd.parquet",
        "data/part-00000-0123ABCD.parquet",
        PART,
        f"{PART}.tmp",
        "data/part-123456-0123abcd.parquet",
        "README.md",
        "sub/",
    ]


def test_only_what_is_named_as_a_part_is_one(table: Table) -> None:
    fill(table, *OURS, *THEIRS)
    assert table.part_names() == [PART, "data/part-123456-0123abcd.parquet"]
    assert table.names_beside_parts() == ["_featuretap/errors/00000-0123abcd.parquet"]


def test_what_is_not_there_is_listed_as_nothing(table: Table) -> None:
    assert (
        table.visible_names() == table.part_names() == table.names_beside_parts() == []
    )
    assert table.committed() == []
    assert table.attempts() == []
    assert table.read_success() is None
    assert table.read_commit(0) is None


CLAIM = "_featuretap/config.json"


def test_clearing_removes_all_that_is_ours_but_the_claim(table: Table) -> None:
    fill(table, *OURS, *THEIRS)
    table.clear(lambda: None)
    assert present(table, OURS) == [CLAIM]
    assert present(table, THEIRS) == [*THEIRS]
    table.clear(lambda: None)
    assert present(table, THEIRS) == [*THEIRS]


def test_clearing_leaves_no_empty_directory(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "table"))
    fill(table, *OURS)
    table.clear(lambda: None)
    left = (tmp_path / "table").rglob("*")
    assert [path.name for path in left] == ["_featuretap", "config.json"]


def test_clearing_may_stop_anywhere_and_commits_name_files_that_are_there(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(table, *OURS)
    remove, order = storage.remove, []

    def removed(uri: str) -> None:
        remove(uri)
        order.append(uri.removeprefix(f"{table.uri}/"))
        left = present(table, OURS)
        if any(name.startswith("_featuretap/commits/") for name in left):
            assert PART in left
            assert "_featuretap/errors/00000-0123abcd.parquet" in left
        assert CLAIM in left

    monkeypatch.setattr(storage, "remove", removed)
    table.clear(lambda: None)
    assert order[0] == "_SUCCESS"


def test_clearing_finds_what_late_workers_commit_meanwhile(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(table, *OURS)
    late = ["_featuretap/commits/00001.json", "data/part-00001-0123abcd.parquet"]
    remove = storage.remove

    def removed(uri: str) -> None:
        remove(uri)
        if uri.endswith("schema.json"):
            fill(table, *late)

    monkeypatch.setattr(storage, "remove", removed)
    table.clear(lambda: None)
    assert present(table, late) == []


@pytest.mark.parametrize(
    ("document", "found", "remedy"),
    [
        ({"format_version": 1}, "1", "make the table again at another path; remove"),
        ({"format_version": 3}, "3", "use a newer featuretap"),
        ({"format_version": "x"}, "x", "make the table again at another path; remove"),
        ({"format_version": "3"}, "3", "make the table again"),
        ({"format_version": None}, "None", "make the table again"),
        ({}, "None", "make the table again"),
    ],
)
def test_a_table_of_another_format_is_refused_with_what_to_do(
    table: Table, document: dict[str, Any], found: str, remedy: str
) -> None:
    storage.replace(table.internal("config.json"), json.dumps(document).encode())
    match = rf"of format {FORMAT_VERSION}, the one in '.*' has format {found}; {remedy}"
    with pytest.raises(ConfigError, match=match):
        table.read_config()


def test_a_table_of_this_format_is_read(table: Table) -> None:
    document = {"format_version": FORMAT_VERSION, "name": "日本"}
    storage.replace(table.internal("config.json"), to_json(document))
    assert table.read_config() == document


def test_a_directory_that_is_no_table_is_named(table: Table) -> None:
    fill(table, "a.parquet")
    with pytest.raises(FileNotFoundError) as caught:
        table.read_config()
    assert "must hold _featuretap/config.json, found none in" in str(caught.value)
    assert "featuretap run CONFIG" in str(caught.value)
    assert table.uri in str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b'{"format_version": 2', "Expecting"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[1]", "it is a list"),
        (b"null", "it is a NoneType"),
        (b'"text"', "it is a str"),
    ],
)
def test_a_damaged_document_is_named(table: Table, data: bytes, why: str) -> None:
    storage.replace(table.internal("schema.json"), data)
    with pytest.raises(
        ValueError, match=rf"(?s)schema\.json must hold a JSON object.*{why}.*damaged"
    ):
        table.read_json("schema.json")


def test_a_shard_is_committed_once(table: Table) -> None:
    first, second = commit(7), commit(7, bad=2)
    assert table.create_commit(first)
    assert not table.create_commit(second)
    assert table.read_commit(7) == first
    table.remove_commit(7)
    assert table.create_commit(second)
    assert [*table.read_commits([7])] == [second]


def test_committed_shards_are_sorted_as_numbers(table: Table) -> None:
    shards = [100_000, 99_999, 0, 1_000_000]
    for shard in shards:
        assert table.create_commit(commit(shard))
    assert table.committed() == sorted(shards)
    assert [one.shard for one in table.read_commits(shards)] == shards


def test_notes_are_listed_by_shard(table: Table) -> None:
    fill(
        table, *(f"_featuretap/attempts/{n}-0123abcd.json" for n in ("00001", "00012"))
    )
    fill(table, "_featuretap/attempts/00001-89abcdef.json", *THEIRS)
    notes = [uri.rpartition("/")[2] for uri in table.attempts(1)]
    assert notes == ["00001-0123abcd.json", "00001-89abcdef.json"]
    assert len(table.attempts()) == 3
    assert table.attempts(2) == []
    assert all(uri.startswith(f"{table.uri}/_featuretap/") for uri in table.attempts())


def test_documents_are_for_people() -> None:
    text = to_json({"b": 1, "a": ["日本"]}).decode()
    assert text == '{\n  "b": 1,\n  "a": [\n    "日本"\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})


def test_a_small_table_survives_storing(table: Table) -> None:
    rows = pa.table({"a": [1, 2], "b": ["x", None]}).replace_schema_metadata({"m": "n"})
    storage.replace(table.path("x.parquet"), to_parquet(rows))
    found = table.read_parquet("x.parquet", rows.schema, "remedy")
    assert found.equals(rows, check_metadata=True)
