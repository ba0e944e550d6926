"""The record that makes a shard count: as stored, as read, as counted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import commit, table_plan

from transforms.metrics import COUNTERS
from transforms.table.columns import METADATA_KEY
from transforms.table.commit_record import Commit, StoredFile, parse_commit
from transforms.table.directory import FORMAT_VERSION, to_json
from transforms.table.manifest import MANIFEST_SCHEMA, manifest_table, with_plan

counts = st.integers(0, 2**40)
records = st.builds(
    commit,
    st.integers(0, 10**6),
    st.integers(0, 10),
    rest_lost=st.booleans(),
    piece_rows=st.none() | st.lists(counts, max_size=4).map(tuple),
    non_finite=st.dictionaries(st.text(max_size=5), counts, max_size=3),
    device_rows=counts,
    seconds=st.dictionaries(st.sampled_from(["read", "total"]), st.floats(0, 1e9)),
)


def stored(record: Commit) -> bytes:
    return to_json(record.to_json())


@given(records)
def test_a_record_survives_storing(record: Commit) -> None:
    assert parse_commit(record.shard, stored(record)) == record
    assert Commit.from_json(record.to_json()) == record


def test_fields_that_a_record_need_not_have_get_their_defaults() -> None:
    document = commit().to_json()
    for name in ("rest_lost", "non_finite", "device_rows", "seconds"):
        del document[name]
    assert Commit.from_json(document) == commit()


@given(records, st.integers(0, 10**6))
def test_the_record_of_another_shard_is_refused(record: Commit, shard: int) -> None:
    if shard != record.shard:
        with pytest.raises(ValueError, match=f"record of shard {shard} must name its"):
            parse_commit(shard, stored(record))


OTHER = StoredFile("data/part-00009-00000000.parquet", 1, 1, "0" * 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"shard": 1},
        {"part": OTHER},
        {"part": replace(commit(0).part, path="../../etc/passwd")},
        {"part": replace(commit(0).part, path="/data/part-00000-00000000.parquet")},
        {"part": replace(commit(0).part, sha256="f" * 64)},
        {"errors": replace(OTHER, path="_featuretap/errors/00001-00000000.parquet")},
        {"errors": replace(OTHER, path="data/part-00000-00000000.parquet")},
    ],
)
def test_a_record_may_only_name_its_own_files(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shard 0 must name its own files, it names"):
        parse_commit(0, stored(replace(commit(0), **changes)))


def damaged(**changes: Any) -> bytes:
    document = {**commit(0).to_json(), **changes}
    return json.dumps({k: v for k, v in document.items() if v is not ...}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        damaged(part=...),
        damaged(part=None),
        damaged(part=[]),
        damaged(part={"path": "x"}),
        damaged(part={**commit(0).to_json()["part"], "sha256": None}),
        damaged(part={**commit(0).to_json()["part"], "more": 1}),
        damaged(errors=...),
        damaged(errors="x"),
        damaged(errors={"path": "x"}),
        damaged(piece_rows=3),
        damaged(piece_rows=...),
        damaged(claim=...),
        damaged(unknown=1),
    ],
)
def test_a_damaged_record_is_named_by_its_shard(data: bytes) -> None:
    with pytest.raises(ValueError, match="commit record of shard 0 cannot be read: "):
        parse_commit(0, data)


def test_counters_tell_what_a_record_tells() -> None:
    found = {name: count(commit(3, bad=4)) for name, count in COUNTERS.items()}
    assert found == {
        "shards": 1,
        "rows": 6,
        "quarantined_rows": 4,
        "part_bytes": 100,
    }
    assert COUNTERS["quarantined_rows"](commit(3)) == 0


def test_a_manifest_has_a_row_for_each_part() -> None:
    manifest = manifest_table([commit(0), commit(12, bad=3)])
    assert manifest.schema == MANIFEST_SCHEMA
    assert manifest.to_pylist()[1] == {
        "shard": 12,
        "path": "data/part-00012-0000000c.parquet",
        "rows": 7,
        "quarantined": 3,
        "bytes": 100,
        "sha256": "0000000c" * 8,
    }
    assert manifest["shard"].to_pylist() == [0, 12]
    assert manifest_table([]).schema == MANIFEST_SCHEMA


def test_a_manifest_says_what_the_table_was_made_by() -> None:
    made = with_plan(manifest_table([commit()]), table_plan())
    assert json.loads(made.schema.metadata[METADATA_KEY]) == {
        "format_version": FORMAT_VERSION,
        "fingerprint": "f" * 64,
        "versions": {"numpy": "2.0", "keras": "3.15"},
    }
    turned = table_plan(versions={"keras": "3.15", "numpy": "2.0"})
    assert with_plan(manifest_table([commit()]), turned).schema.metadata == (
        made.schema.metadata
    )
