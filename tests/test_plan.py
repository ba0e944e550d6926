"""Configs, shards, schemas and fingerprints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import ROWS, Job, write_parquet
from hypothesis import given
from hypothesis import strategies as st

from pipeline import load_config, make_plan
from pipeline.cut import cut_shards
from transforms.lookup import ConfigError
from transforms.shard import Shards, position
from transforms.sources.source import File

blocks = st.lists(st.integers(0, 50), max_size=5).map(tuple)
files = st.lists(st.tuples(blocks, st.booleans()), max_size=6)


def listed(shapes: list[tuple[tuple[int, ...], bool]]) -> list[File]:
    return [
        File(f"uri{i}", f"name{i}", 0, "", rows, divisible)
        for i, (rows, divisible) in enumerate(shapes)
    ]


@given(files, st.integers(1, 60))
def test_a_plan_covers_every_row_exactly_once_in_order(shapes: Any, size: int) -> None:
    found = listed(shapes)
    shards = list(cut_shards(found, size))
    rows = [
        (piece.file, row)
        for shard in shards
        for piece in shard.pieces
        for row in range(piece.start, piece.start + (piece.rows or 0))
    ]
    assert rows == [(f.uri, row) for f in found for row in range(sum(f.blocks or ()))]
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(0 < (shard.rows or 0) <= size for shard in shards)


@given(files, st.integers(1, 60))
def test_blocks_are_cut_only_where_they_exceed_a_shard(shapes: Any, size: int) -> None:
    found = [f for f in listed(shapes) if not f.divisible]
    for shard in cut_shards(found, size):
        for piece in shard.pieces:
            (file,) = [f for f in found if f.uri == piece.file]
            start = 0
            for block in file.blocks or ():
                inside = start <= piece.start < start + block
                if inside and block <= size:
                    assert (piece.start, piece.rows) == (start, block)
                start += block


@given(files, st.integers(1, 60))
def test_shards_survive_storing(shapes: Any, size: int) -> None:
    shards = list(cut_shards(listed(shapes), size))
    stored = Shards.of(shards)
    assert list(stored[1::2]) == shards[1::2]
    assert list(stored) == shards
    assert [stored[i] for i in range(len(stored))] == shards
    assert stored.rows == sum(shard.rows or 0 for shard in shards)


@given(files, st.integers(1, 60))
def test_every_position_of_a_shard_is_located(shapes: Any, size: int) -> None:
    for shard in cut_shards(listed(shapes), size):
        located = [
            shard.locate(position(index, row))
            for index, piece in enumerate(shard.pieces)
            for row in range(piece.rows or 0)
        ]
        assert located == [
            (piece, row)
            for piece in shard.pieces
            for row in range(piece.start, piece.start + (piece.rows or 0))
        ]


def test_files_of_unknown_rows_are_grouped_by_their_bytes() -> None:
    known = File("k", "k", 0, "", (5,))
    sizes = [10, 20, 3, 40, 1]
    unknown = [File(f"u{i}", f"u{i}", n << 20, "") for i, n in enumerate(sizes)]
    shards = list(cut_shards([known, *unknown, known], 100))
    assert [shard.rows for shard in shards] == [5, None, None, None, None, 5]
    names = [[piece.name for piece in shard.pieces] for shard in shards[1:-1]]
    assert names == [["u0", "u1"], ["u2"], ["u3"], ["u4"]]


def test_spans_of_a_file_are_pieces_of_unknown_rows() -> None:
    spans = ((0, 20 << 20), (20 << 20, 40 << 20), (40 << 20, 41 << 20))
    file = File("f", "f", 41 << 20, "7", spans=spans)
    shards = list(cut_shards([file], 100))
    found = [[piece.span for piece in shard.pieces] for shard in shards]
    assert found == [[spans[0]], [spans[1], spans[2]]]
    assert shards[0].pieces[0].version == f"{41 << 20} bytes, version 7"


def test_the_plan_knows_schema_and_sizes(job: Job) -> None:
    plan = job.plan(
        source={"keep": ["text"]},
        taps=[
            {"path": "features:activation_1", "column": "hidden", "dtype": "float16"},
            {"path": "features:nested/**", "reduce": "l2_normalize"},
        ],
    )
    assert plan.rows == 100
    assert [(c.name, c.role, c.shape, c.bytes_per_row) for c in plan.columns] == [
        ("example_id", "key", (), 8),
        ("text", "keep", (), 32),
        ("hidden", "feature", (4,), 8),
        ("features_nested_pair_0", "feature", (4,), 16),
        ("features_nested_pair_1", "feature", (3,), 12),
    ]
    assert plan.bytes_per_row == 76
    assert plan.schema.field("hidden").type == pa.list_(
        pa.field("element", pa.float16())
    )


def test_planning_does_not_run_the_model(job: Job) -> None:
    import keras
    import toolbox

    toolbox.never = lambda: keras.Sequential(  # type: ignore[attr-defined]
        [keras.Input((6,), name="vec"), toolbox.RaisesWhenRun(name="late")]
    )
    plan = job.plan(model={"build": "toolbox:never"}, taps=[{"path": "late"}])
    assert plan.columns[-1].shape == (6,)


@pytest.mark.parametrize("reader", ["parquet", "tfrecord", "tfds", "user"])
@pytest.mark.parametrize("limit", [1, 29, 30, 31, 77, 500])
def test_limit_takes_exactly_the_first_rows(
    tmp_path: Path, sources: dict[str, Any], reader: str, limit: int
) -> None:
    plan = Job(tmp_path, sources[reader]).plan(limit=limit)
    assert plan.rows == min(limit, 100)
    whole = Job(tmp_path, sources[reader]).plan()
    first = [piece.file for shard in plan.shards for piece in shard.pieces]
    assert first[0] == whole.shards[0].pieces[0].file


def test_a_table_is_not_read_as_its_own_source(tmp_path: Path) -> None:
    from conftest import vectors

    write_parquet(tmp_path / "a.parquet", range(20), vectors(), 8)
    job = Job(tmp_path, {"reader": "parquet", "path": str(tmp_path)})
    job.run()
    with pytest.raises(ConfigError, match=r"table.path must not hold files of the"):
        job.plan()


def test_default_parts_are_whole_batches_of_a_sensible_size(job: Job) -> None:
    plan = job.plan(table={"rows_per_part": None})
    assert len(plan.shards) == 1


def test_a_heavy_model_has_smaller_parts_on_every_machine(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_default: dict[str, Any] = {"table": {"rows_per_part": None}}
    light = job.plan(**by_default)
    needed = {a.address: a.flops or 0 for a in light.activations}
    costliest = max(needed[tap.address] for tap in light.taps)
    monkeypatch.setattr("pipeline.cut._PART_FLOPS", 32 * costliest)
    heavy = job.plan(**by_default)
    assert (light.shards.most_rows, heavy.shards.most_rows) == (ROWS, 32)
    assert job.plan(table={"rows_per_part": ROWS}).shards.most_rows == ROWS  # as asked
    assert len(job.plan(**by_default, limit=40).shards) == 2
    monkeypatch.setattr("transforms.device.cores", lambda: 64)
    assert job.plan(**by_default).fingerprint == heavy.fingerprint


def test_another_cut_is_refused_with_both_and_the_size_that_goes_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import prepare_table

    by_default: dict[str, Any] = {"table": {"rows_per_part": None}}
    prepare_table(job.plan(**by_default))
    monkeypatch.setattr("pipeline.cut._PART_FLOPS", 1)
    with pytest.raises(ConfigError, match=r"\(different: parts\)") as refused:
        prepare_table(job.plan(**by_default))
    said = str(refused.value)
    assert f"there: 1 of at most {ROWS} rows\n    here:  7 of at most 16 rows" in said
    assert f"table.rows_per_part = {ROWS} would go on with what is there" in said
    prepare_table(job.plan(table={"rows_per_part": ROWS}))


CHANGES: dict[str, tuple[dict[str, Any], str | None]] = {
    "nothing": ({}, None),
    "table.path": ({"table": {"path": "elsewhere"}}, None),
    "errors": ({"errors": {"max_fraction": 0.5}}, None),
    "taps": ({"taps": [{"path": "head"}]}, "taps"),
    "reduce": ({"taps": [{"path": "head", "reduce": "l2_normalize"}]}, "taps"),
    "preprocess": ({"source": {"preprocess": ["toolbox:double"]}}, "preprocess"),
    "batch_rows": ({"model": {"batch_rows": 8}}, "batch_rows"),
    "precision": ({"model": {"precision": "bfloat16"}}, "precision"),
    "jit": ({"model": {"jit": True}}, "jit"),
    "key": ({"source": {"key": None}}, "source"),
    "keep": ({"source": {"keep": ["text"]}}, "source"),
    "rows_per_part": ({"table": {"rows_per_part": 10}}, "parts"),
    "event_timestamp": (
        {"table": {"event_timestamp": "2026-01-01T00:00:00Z"}},
        "event_timestamp",
    ),
    "limit": ({"limit": 10}, "limit"),
    "model": ({"model": {"build": "toolbox:picky_model"}}, "model"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_exactly_when_the_bytes_may(
    job: Job, change: str
) -> None:
    sections, ingredient = CHANGES[change]
    taps = {"taps": [{"path": "head"}]} if change == "model" else {}
    before, after = job.plan(**taps), job.plan(**{**taps, **sections})
    different = {k for k, v in before.ingredients.items() if after.ingredients[k] != v}
    if ingredient is None:
        assert before.fingerprint == after.fingerprint
        assert not different
    else:
        assert before.fingerprint != after.fingerprint
        assert ingredient in different


def test_the_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    from conftest import vectors

    write_parquet(tmp_path / "a.parquet", range(20), vectors(), 8)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    before = job.plan()
    os.utime(tmp_path / "a.parquet", (1, 1))
    assert job.plan().ingredients["files"] != before.ingredients["files"]


def test_the_fingerprint_changes_with_user_code_and_model_files(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import toolbox

    monkeypatch.chdir(tmp_path)
    code = "def step(features, add=0):\n    return features\n"
    (tmp_path / "my_steps.py").write_text(code)
    toolbox.dict_model().save("model.keras")
    sections: dict[str, Any] = {
        "source": {"preprocess": ["my_steps:step"]},
        "model": {"build": None, "path": "model.keras", "imports": ["toolbox"]},
    }
    before = job.plan(**sections)
    (tmp_path / "my_steps.py").write_text(code + "# another\n")
    assert (
        job.plan(**sections).ingredients["user_code"]
        != (before.ingredients["user_code"])
    )
    changed = toolbox.dict_model()
    changed.get_layer("stem").kernel.assign_add(changed.get_layer("stem").kernel)
    changed.save("model.keras")
    assert job.plan(**sections).ingredients["model"] != before.ingredients["model"]


def test_weights_are_part_of_the_fingerprint(job: Job, tmp_path: Path) -> None:
    import toolbox

    model = toolbox.dict_model()
    model.save(tmp_path / "model.keras")
    fingerprints = set()
    for bias in (1.0, 2.0):
        model.get_layer("head").bias.assign([bias, 0.0])
        weights = tmp_path / f"{bias}.weights.h5"
        model.save_weights(weights)
        section = {
            "build": None,
            "path": str(tmp_path / "model.keras"),
            "weights": str(weights),
            "imports": ["toolbox"],
        }
        fingerprints.add(job.plan(model=section).ingredients["model"])
    assert len(fingerprints) == 2


def test_rows_per_part_does_not_matter_where_files_are_parts(
    tmp_path: Path, sources: dict[str, Any]
) -> None:
    job = Job(tmp_path, sources["tfrecord"])
    assert job.plan().fingerprint == job.plan(table={"rows_per_part": 5}).fingerprint


@pytest.mark.parametrize("winner", ["first", "second"])
def test_of_two_plans_for_one_directory_only_one_is_kept(job: Job, winner: str) -> None:
    from pipeline import prepare_table
    from transforms.table.directory import Table
    from transforms.table.plan_file import claim_table, read_shards

    table = Table(job.config().table.path)
    plans = [job.plan(), job.plan(model={"batch_rows": 8})]
    if winner == "second":
        plans.reverse()
    assert claim_table(table, plans[0])
    assert not claim_table(table, plans[1])
    with pytest.raises(ConfigError, match="different: batch_rows"):
        prepare_table(plans[1])
    prepare_table(plans[0])  # killed after its claim, it goes on where it was
    assert len(read_shards(table)) == len(plans[0].shards)


def test_weights_are_loaded_into_a_built_model(job: Job, tmp_path: Path) -> None:
    import toolbox

    changed = toolbox.dict_model()
    changed.get_layer("head").bias.assign([5.0, -5.0])
    changed.save_weights(tmp_path / "w.weights.h5")
    weights = {"weights": str(tmp_path / "w.weights.h5")}
    head = job.run(model=weights)["head"].to_pylist()
    assert min(first for first, _ in head) > 0.9
    other = toolbox.image_model()
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ConfigError, match=r"model\.weights must fit the model"):
        job.plan(model={"weights": str(tmp_path / "other.weights.h5")})


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("[sorce]", [], "sorce is not a known key; nearest is 'source'"),
        ("", [], "source is required"),
        ("[model]\npth=1", [], "model.pth is not a known key; nearest is 'path'"),
        ("[[taps]]\npaths=1", [], r"taps\[0\].paths is not a known key"),
        ("[[taps]]", [], r"taps\[0\].path is required"),
        ("[model]\nbatch_rows=0", [], "model.batch_rows: .* got 0"),
        ("[errors]\nmax_fraction=2", [], "errors.max_fraction"),
        ("[model]\nprecision='f8'", [], "model.precision"),
        ("[table]\npath='/'", [], "table.path: must name a directory of its own"),
        ("[source", [], "must be TOML"),
        ("", ["a"], "--set must be a.b=value"),
        ("", ["taps.0.path=x"], "taps"),
        ("taps=[]", ["taps.3.path=x"], "must name an existing entry, got '3'"),
    ],
)
def test_wrong_configs_are_named_by_place(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides)


def test_set_overrides_values_with_toml_or_text(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        "[source]\nreader='x'\n[model]\npath='m'\n[[taps]]\npath='a'\n[table]\npath='t'"
    )
    config = load_config(
        path,
        [
            "model.batch_rows=32",
            "table.path=gs://bucket/t",
            "taps.0.path=b",
            "source.keep=['label']",
        ],
    )
    assert config.model.batch_rows == 32
    assert config.table.path == "gs://bucket/t"
    assert config.taps[0].path == "b"
    assert config.source.keep == {"label": "label"}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"taps": []}, r"taps must name at least one .*featuretap taps CONFIG"),
        (
            {"model": {"batch_rows": 600_000_000}},
            r"got 600000000 rows of 4 values for column 'hidden'; set it to 536870911",
        ),
        (
            {"source": {"key": "idd"}},
            "source.key must name a feature .* nearest is 'id'",
        ),
        ({"source": {"key": "vec"}}, "source.key must be a scalar"),
        ({"source": {"keep": ["txt"]}}, "source.keep must name .* nearest is 'text'"),
        (
            {"source": {"keep": ["id"]}, "taps": [{"path": "head", "column": "id"}]},
            "got 'id' for a keep and a feature column",
        ),
        ({"table": {"event_timestamp": "2026-01-01"}}, "must have an offset"),
        ({"table": {"event_timestamp": "id"}}, "RFC 3339"),
        ({"table": {"event_timestamp": "whenn"}}, "must name a feature"),
    ],
)
def test_columns_that_cannot_be_are_refused(
    job: Job, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(job.config(**sections))
