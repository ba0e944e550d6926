"""Plans in a table's directory: claimed once, written once, read as they were."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import ROOTS, commit, config, root_of, shards, table_plan

from transforms import storage
from transforms.dtypes import DTYPES, Feature
from transforms.lookup import ConfigError
from transforms.shard import Origin, Piece, Shard, Shards
from transforms.table.columns import METADATA_KEY, Column
from transforms.table.directory import FORMAT_VERSION, Table
from transforms.table.plan_file import (
    Claim,
    TablePlan,
    claim_table,
    pending_shards,
    read_claim,
    read_plan,
    read_shards,
    versions,
    write_plan,
)
from transforms.taps.language import Tap


@pytest.fixture(params=ROOTS)
def table(request: Any, tmp_path: Path) -> Table:
    return Table(root_of(request.param, tmp_path))


def written(
    table: Table, plan: TablePlan | None = None, units: Shards | None = None
) -> None:
    plan = plan or table_plan()
    claim_table(table, plan)
    write_plan(table, plan, shards() if units is None else units, read_claim(table))


def test_of_many_claims_one_wins(table: Table) -> None:
    plans = [table_plan(fingerprint=f"{i:064x}") for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        won = list(pool.map(lambda plan: claim_table(table, plan), plans))
    (winner,) = [i for i, claim in enumerate(won) if claim]
    assert read_claim(table).fingerprint == plans[winner].fingerprint
    assert read_claim(table).id == won[winner]
    assert not claim_table(table, plans[winner])


def test_a_claim_says_whose_table_it_is(table: Table) -> None:
    plan = table_plan()
    assert claim_table(table, plan)
    claim = read_claim(table)
    assert (claim.fingerprint, claim.model_digest) == ("f" * 64, "d" * 64)
    assert (claim.ingredients, claim.versions) == (plan.ingredients, plan.versions)
    written = {"mode": "json", "exclude_none": True, "exclude": {"gates", "publish"}}
    assert claim.config == config().model_dump(**written)
    assert len(claim.id) == 32
    storage.remove(table.internal("config.json"))
    assert claim_table(table, plan)
    assert read_claim(table).id != claim.id


def test_what_nobody_has_claimed_is_no_table(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_PATIENCE_SECONDS", ())
    with pytest.raises(FileNotFoundError, match="found none in"):
        read_claim(table)
    nobody = Claim("x", "", {}, "", {}, {})
    with pytest.raises(FileNotFoundError, match="found none in"):
        write_plan(table, table_plan(), shards(), nobody)
    assert not storage.exists(table.internal("schema.json"))


def test_a_plan_survives_storing(table: Table) -> None:
    plan = table_plan()
    written(table, plan)
    found = read_plan(table)
    assert found.claim == read_claim(table).id != ""
    assert replace(found, claim="") == plan
    assert list(read_shards(table)) == list(shards())


names = st.text("abcdef_", min_size=1, max_size=6)
shapes = st.lists(st.none() | st.integers(0, 9), max_size=3).map(tuple)
dtypes = st.sampled_from(sorted(DTYPES))
reductions = st.lists(st.text(max_size=8), max_size=2).map(tuple)
roles = st.sampled_from(["key", "timestamp", "keep", "feature", "shape"])
units = st.sampled_from(["", "s", "ms", "us"])
columns = st.builds(
    Column, names, roles, dtypes, shapes, names, reductions, units, st.booleans()
)
taps = st.builds(Tap, names, reductions, names, st.none() | dtypes, names)
features = st.builds(Feature, dtypes, shapes, st.booleans())


@given(
    st.lists(columns, max_size=4).map(tuple),
    st.lists(taps, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=6), features, max_size=3),
    st.none() | st.integers(0, 10**12),
)
def test_any_columns_taps_and_features_survive_storing(
    made: Any, chosen: Any, read: Any, rows: int | None
) -> None:
    table = Table("memory://direct/any-plan")
    plan = table_plan(columns=made, taps=chosen, features=read, rows=rows)
    storage.remove(table.internal("config.json"))
    written(table, plan)
    found = read_plan(table)
    assert found.claim == read_claim(table).id != ""
    assert replace(found, claim="") == plan


def test_the_config_of_a_plan_survives_storing(table: Table) -> None:
    asked = config(
        source={"split": "a", "features": {"x": "int64"}, "preprocess": ["a", "b"]},
        model={"inputs": {"x": "y"}, "precision": "bfloat16", "imports": ["m"]},
        table={"event_timestamp": "2026-01-01T00:00:00Z", "rows_per_part": 7},
        errors={"max_fraction": 0.25, "non_finite": "quarantine"},
        limit=9,
    )
    written(table, table_plan(config=asked))
    assert read_plan(table).config == asked


def state(root: Path) -> dict[str, tuple[int, int]]:
    files = (root / "_featuretap").iterdir()
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}


def test_what_is_the_same_is_not_written_again(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    written(table)
    before = state(tmp_path)
    assert set(before) == {"config.json", "schema.json", "plan.parquet"}
    write_plan(table, table_plan(), shards(), read_claim(table))
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("plan", "units", "changed"),
    [
        ({"config": config(errors={"attempts": 9})}, shards(), "config.json"),
        ({"rows": None}, shards(), "schema.json"),
        ({}, shards(version="w"), "plan.parquet"),
    ],
)
def test_only_what_differs_is_written_again(
    plan: dict[str, Any], units: Shards, changed: str, tmp_path: Path
) -> None:
    table = Table(str(tmp_path))
    written(table)
    before, claim = state(tmp_path), read_claim(table)
    write_plan(table, table_plan(**plan), units, read_claim(table))
    after = state(tmp_path)
    assert [name for name in before if before[name] != after[name]] == [changed]
    assert read_claim(table).id == claim.id


def test_a_claim_keeps_its_fingerprint_whoever_writes_the_plan(table: Table) -> None:
    written(table)
    claim = read_claim(table)
    strict = table_plan(
        config=config(errors={"max_fraction": 0.5}), fingerprint="0" * 64
    )
    write_plan(table, strict, shards(), read_claim(table))
    assert read_claim(table) == replace(claim, config=read_claim(table).config)
    assert read_plan(table).config.errors.max_fraction == 0.5


def test_a_plan_of_another_format_is_refused(table: Table) -> None:
    written(table)
    document = json.loads(storage.read(table.internal("config.json")))
    assert document["format_version"] == FORMAT_VERSION
    document["format_version"] = FORMAT_VERSION + 1
    storage.replace(table.internal("config.json"), json.dumps(document).encode())
    for read in (read_claim, read_plan):
        with pytest.raises(ConfigError, match="use a newer featuretap"):
            read(table)


def test_a_plan_cut_off_before_its_layout_is_told_from_no_table(table: Table) -> None:
    claim_table(table, table_plan())
    with pytest.raises(FileNotFoundError, match=r"must hold _featuretap/schema\.json"):
        read_plan(table)


def test_the_schema_says_by_which_model_and_format() -> None:
    schema = table_plan().schema
    assert schema.names == ["example_id", "at", "word", "h", "h_shape"]
    about = json.loads(schema.metadata[METADATA_KEY])
    assert about["model_digest"] == "d" * 64
    assert about["format_version"] == FORMAT_VERSION


def test_a_row_has_the_bytes_of_its_columns() -> None:
    plan = table_plan()
    assert plan.bytes_per_row == sum(c.bytes_per_row for c in plan.columns)
    assert plan.bytes_per_row == 8 + 8 + 32 + 4 * 128 * 2 + 8 * 2


def test_versions_are_those_of_the_packages_that_make_bytes() -> None:
    assert set(versions()) == {"featuretap", "tensorflow", "keras", "numpy", "pyarrow"}
    assert all(version[:1].isdigit() for version in versions().values())


@given(st.integers(0, 12), st.sets(st.integers(0, 11)), st.integers(1, 5))
def test_listings_share_the_pending_shards(
    count: int, done: set[int], listings: int
) -> None:
    table = Table("memory://direct/pending")
    storage.remove_tree(table.uri)
    written(table, units=shards(count))
    for shard in done:
        table.create_commit(commit(shard))
    pending = [shard for shard in shards(count) if shard.index not in done]
    assert list(pending_shards(table.uri)) == pending
    shares = [list(pending_shards(table.uri, i, listings)) for i in range(listings)]
    for share in shares:
        assert [s.index for s in share] == sorted(s.index for s in share)
    found = sorted((s for share in shares for s in share), key=lambda s: s.index)
    assert found == pending


def test_pending_shards_come_with_their_pieces(table: Table) -> None:
    pieces = (
        Piece("a", "a", 3, 4, version="v"),
        Piece("b", "b", span=(10, 20)),
    )
    origin = Origin(0, 7, (1, 2), whole=False)
    units = [Shard(0, pieces, origin), Shard(1, pieces[:1])]
    written(table, units=Shards.of(units))
    assert list(pending_shards(table.uri)) == units
    assert Shards.of(units).origins() == [origin, None]
    stored = pq.read_schema(
        storage.filesystem(table.uri)[0].open(table.path("_featuretap/plan.parquet"))
    )
    assert stored.names == ["shard", "rows", "pieces", "origin"]
