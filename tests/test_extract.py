"""From config to finished table: values, files, resuming, bad rows."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apache_beam as beam
import duckdb
import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toolbox
from conftest import ROWS, Job, stacked, vectors, worker_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import run_plan, table_status, verify_table
from pipeline.run import prepare_table
from transforms import CommitTable, ExtractShards
from transforms.extract import extract_shard
from transforms.lookup import ConfigError
from transforms.table.columns import Column
from transforms.table.directory import Table
from transforms.table.encode import to_array
from transforms.table.parquet_writer import PartWriter
from transforms.table.plan_file import pending_shards


def contents(directory: Path) -> dict[str, str]:
    """Hash of every file that does not tell how long something took."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.parent.name != "commits"
    }


def test_values_equal_those_of_a_keras_submodel(job: Job) -> None:
    table = job.run()
    model = toolbox.dict_model()
    submodel = keras.Model(model.input, [model.get_layer("stem").output, model.output])
    stem, head = submodel(vectors(), training=False)
    hidden = model.get_layer("features").first(stem)
    np.testing.assert_allclose(stacked(table["hidden"]), hidden, atol=1e-5)
    np.testing.assert_allclose(stacked(table["head"]), head, atol=1e-5)


def test_a_saved_model_gives_the_same_table_as_the_built_one(
    job: Job, tmp_path: Path
) -> None:
    toolbox.dict_model().save(tmp_path / "model.keras")
    saved = {
        "build": None,
        "path": str(tmp_path / "model.keras"),
        "imports": ["toolbox"],
    }
    built = job.run()
    other = job.run(model=saved, table={"path": str(tmp_path / "saved")})
    assert stacked(built["hidden"]).tolist() == stacked(other["hidden"]).tolist()


def test_pandas_and_duckdb_read_the_table_as_it_is(job: Job) -> None:
    job.run(source={"keep": ["text"]})
    frame = pd.read_parquet(job.table)
    assert frame["text"].tolist() == [f"row {i}" for i in range(ROWS)]
    assert np.stack(frame["hidden"]).shape == (ROWS, 4)
    parts = str(job.table / "data" / "*.parquet")
    rows = duckdb.sql(
        f"select count(*), min(len(hidden)), max(len(hidden)) from '{parts}'"
    ).fetchall()
    assert rows == [(ROWS, 4, 4)]


def test_running_again_changes_no_byte_and_computing_again_gives_the_same(
    job: Job, tmp_path: Path
) -> None:
    job.run()
    before = contents(job.table)
    # a random id tells one --overwrite from another
    del before["_featuretap/config.json"], before["_SUCCESS"]
    times = {path: path.stat().st_mtime_ns for path in job.table.rglob("*")}
    job.run()
    assert {path: path.stat().st_mtime_ns for path in job.table.rglob("*")} == times
    run_plan(job.plan(), overwrite=True)
    assert {**contents(job.table), **before} == contents(job.table)
    assert verify_table(str(job.table)) == []


def test_part_names_hold_their_content_hash(job: Job) -> None:
    job.run()
    parts = sorted((job.table / "data").glob("*.parquet"))
    for index, part in enumerate(parts):
        digest = hashlib.sha256(part.read_bytes()).hexdigest()
        assert part.name == f"part-{index:05d}-{digest[:8]}.parquet"


def test_encodings_and_statistics_are_as_documented(job: Job) -> None:
    job.run(
        source={"keep": ["text"]}, table={"event_timestamp": "2026-01-01T00:00:00Z"}
    )
    part = pq.ParquetFile(next(iter((job.table / "data").glob("*.parquet"))))
    group = part.metadata.row_group(0)
    found = {
        column.path_in_schema: (
            "RLE_DICTIONARY" in column.encodings,
            column.is_stats_set,
            column.compression,
        )
        for column in (group.column(i) for i in range(group.num_columns))
    }
    assert found == {
        "example_id": (False, True, "ZSTD"),
        "event_timestamp": (False, True, "ZSTD"),
        "text": (True, True, "ZSTD"),
        "hidden.list.element": (False, False, "ZSTD"),
        "head.list.element": (False, False, "ZSTD"),
    }
    schema = part.schema_arrow
    assert schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
    assert [field.name for field in schema if field.nullable] == ["text"]
    for name in ("hidden", "head"):
        assert schema.field(name).type.value_field.nullable  # or Feast knows no type


def test_metadata_tells_where_columns_come_from(job: Job) -> None:
    plan = job.plan(taps=[{"path": "features:*", "reduce": ["l2_normalize"]}])
    run_plan(plan)
    part = next(iter((job.table / "data").glob("*.parquet")))
    document = json.loads(pq.read_schema(part).metadata[b"featuretap"])
    assert document["model_digest"] == plan.model_digest
    assert set(document) == {"columns", "format_version", "model_digest"}
    column = document["columns"][1]
    assert (column["source"], column["reduce"]) == ("features:output", ["l2_normalize"])
    assert (column["shape"], column["dtype"]) == ([3], "float32")
    manifest = pq.read_schema(job.table / "_featuretap" / "manifest.parquet")
    for about in (
        json.loads(manifest.metadata[b"featuretap"]),
        json.loads((job.table / "_SUCCESS").read_text()),
        json.loads((job.table / "_featuretap" / "commits" / "00000.json").read_text()),
    ):
        assert about["fingerprint"] == plan.fingerprint
        assert set(about["versions"]) >= {"featuretap", "tensorflow", "keras"}


def test_tensors_are_flattened_in_c_order_with_their_shape_in_the_metadata(
    tmp_path: Path,
) -> None:
    images = np.random.default_rng(0).random((10, 8, 8, 1), np.float32)
    table = pa.table(
        {
            "id": list(range(10)),
            "image": pa.FixedSizeListArray.from_arrays(
                pa.array(images.reshape(-1)), 64
            ),
        }
    )
    pq.write_table(table, tmp_path / "i.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    reshape = {"step": "reshape", "feature": "image", "shape": [8, 8, 1]}
    result = job.run(
        source={"preprocess": [reshape], "keep": ["image"]},
        model={"build": "toolbox:image_model"},
        taps=[{"path": "conv"}],
    )
    conv = np.asarray(toolbox.image_model().get_layer("conv")(images))
    np.testing.assert_allclose(stacked(result["conv"]), conv.reshape(10, -1), atol=1e-5)
    document = json.loads(
        pq.read_schema(next(iter((job.table / "data").glob("*.parquet")))).metadata[
            b"featuretap"
        ]
    )
    assert document["columns"][-1]["shape"] == [6, 6, 4]


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=5),
    )
)
@settings(deadline=None)
def test_writing_and_reading_is_identity(tmp_path_factory: Any, values: Any) -> None:
    column = Column("x", "feature", values.dtype.name, values.shape[1:])
    array = to_array(column, values)
    schema = pa.schema([pa.field("x", column.arrow_type, nullable=False)])
    path = tmp_path_factory.mktemp("parts") / "p.parquet"
    with PartWriter(path, schema, [column]) as writer:
        writer.write(pa.RecordBatch.from_arrays([array], schema=schema))
        writer.finish()
    read = np.array(pq.read_table(path)["x"].to_pylist(), values.dtype)
    np.testing.assert_array_equal(read.reshape(values.shape), values)


def test_row_groups_are_written_as_they_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.table.parquet_writer.ROW_GROUP_BYTES", 1000)
    column = Column("x", "feature", "float32", (10,))
    schema = pa.schema([pa.field("x", column.arrow_type, nullable=False)])
    values = np.random.default_rng(0).random((20, 10), np.float32)
    batch = pa.RecordBatch.from_arrays([to_array(column, values)], schema=schema)
    with PartWriter(tmp_path / "p.parquet", schema, [column]) as writer:
        for _ in range(6):
            writer.write(batch)
            assert writer._waiting_bytes < 1000
    metadata = pq.ParquetFile(tmp_path / "p.parquet").metadata
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [40, 40, 40]


def test_a_failing_write_is_raised(tmp_path: Path) -> None:
    column = Column("x", "feature", "float32", (10,))
    schema = pa.schema([pa.field("x", column.arrow_type, nullable=False)])
    wrong = pa.RecordBatch.from_arrays([pa.array([1])], names=["x"])

    def write() -> None:
        with PartWriter(tmp_path / "p.parquet", schema, [column]) as writer:
            writer.write(wrong)
            writer.finish()

    with pytest.raises(ValueError, match="Schema at index 0 was different"):
        write()


def test_an_event_timestamp_can_be_a_constant_or_text(job: Job, tmp_path: Path) -> None:
    constant = job.run(table={"event_timestamp": "2026-01-31T12:00:00+01:00"})
    assert {t.isoformat() for t in constant["event_timestamp"].to_pylist()} == {
        "2026-01-31T11:00:00+00:00"
    }
    times = ["2026-01-01T00:00:00Z", "today", "soon"]
    table = pa.table(
        {
            "id": [0, 1, 2],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 18), 6),
            "at": times,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    source = {"reader": "parquet", "path": str(tmp_path / "t.parquet")}
    other = Job(tmp_path / "out", source)
    result = other.run(table={"event_timestamp": "at"}, errors={"max_fraction": 0.7})
    assert result["example_id"].to_pylist() == [0]
    assert {e["stage"] for e in other.errors()} == {"encode"}


def test_another_plan_in_the_same_directory_is_refused(job: Job) -> None:
    job.run()
    other = job.plan(model={"batch_rows": 8})
    there = job.plan().fingerprint
    with pytest.raises(ConfigError) as caught:
        run_plan(other)
    lines = str(caught.value).splitlines()
    assert "different: batch_rows" in lines[0]
    assert lines[1:4] == ["  model.batch_rows", "    there: 16", "    here:  8"]
    assert lines[-3] == f"    there: {there}"
    assert lines[-2] == f"    here:  {other.fingerprint}"
    assert "--overwrite" in lines[-1]


def test_overwrite_removes_only_what_featuretap_wrote(job: Job) -> None:
    job.run()
    (job.table / "notes.txt").write_text("mine")
    (job.table / "other.parquet").write_text("mine too")
    run_plan(job.plan(limit=10), overwrite=True)
    assert (job.table / "notes.txt").read_text() == "mine"
    assert (job.table / "other.parquet").read_text() == "mine too"
    assert table_status(str(job.table)).rows == 10


def test_parts_without_a_plan_are_not_taken_for_ours(job: Job) -> None:
    (job.table / "data").mkdir(parents=True)
    (job.table / "data" / "part-00000-00000000.parquet").write_text("?")
    with pytest.raises(ConfigError, match="must not hold parts without a plan"):
        run_plan(job.plan())


def test_a_shard_computed_by_many_at_once_counts_once(job: Job) -> None:
    plan = job.plan(errors={"attempts": 9})  # a process's own notes tell of deaths
    prepare_table(plan)
    worker = worker_of(job.table)
    shard = plan.shards[0]
    with ThreadPoolExecutor(8) as pool:
        commits = list(pool.map(lambda _: extract_shard(worker, shard), range(8)))
    assert all(commit == commits[0] for commit in commits)
    assert len(list((job.table / "_featuretap" / "commits").iterdir())) == 1


def test_what_is_committed_is_not_computed_again(job: Job) -> None:
    plan = job.plan()
    prepare_table(plan)
    worker = worker_of(job.table)
    extract_shard(worker, plan.shards[1])
    left = [shard.index for shard in pending_shards(str(job.table))]
    assert left == [s.index for s in plan.shards if s.index != 1]
    record = job.table / "_featuretap" / "commits" / "00001.json"
    before = record.read_bytes()
    run_plan(plan)
    assert record.read_bytes() == before


def test_orphans_are_removed_before_success(job: Job) -> None:
    plan = job.plan()
    prepare_table(plan)
    orphan = job.table / "data" / "part-00000-deadbeef.parquet"
    orphan.parent.mkdir()
    orphan.write_text("left by a killed worker")
    others = [
        job.table / "data" / "part-00000-deadbeef-copy.parquet",
        job.table / "_featuretap" / "notes.txt",
        job.table / "_featuretap" / "errors" / "mine.parquet",
    ]
    others[2].parent.mkdir()
    for other in others:
        other.write_text("somebody else's")
    (job.table / "_featuretap" / "uploads" / "x").mkdir(parents=True)
    run_plan(plan)
    assert not orphan.exists()
    assert not (job.table / "_featuretap" / "uploads").exists()
    (difference,) = verify_table(str(job.table))
    assert difference.startswith(f"data/{others[0].name} is not in the manifest")
    run_plan(job.plan(limit=10), overwrite=True)
    assert [other.read_text() for other in others] == ["somebody else's"] * 3


def test_a_table_can_lie_in_any_filesystem(job: Job) -> None:
    job.run()
    uri = "memory://tables/t"
    run_plan(job.plan(table={"path": uri}))
    assert verify_table(uri) == []
    there, here = Table(uri), Table(str(job.table))
    assert there.part_names() == here.part_names()


def test_a_model_that_comes_out_differently_on_a_worker_is_refused(job: Job) -> None:
    from transforms.models import load as model
    from transforms.worker import _workers

    plan = job.plan(
        model={"build": "toolbox:unseeded_model"}, taps=[{"path": "", "column": "y"}]
    )
    prepare_table(plan)
    model._models.clear()
    _workers.clear()
    with pytest.raises(RuntimeError, match="must load the planned model\n  planned: "):
        worker_of(job.table)


def test_bad_rows_are_set_apart_and_the_rest_kept(job: Job) -> None:
    table = job.run(
        source={"preprocess": ["toolbox:refuse_thirteen"]},
        errors={"max_fraction": 0.01},
    )
    assert set(table["example_id"].to_pylist()) == set(range(ROWS)) - {13}
    (error,) = job.errors()
    assert error["example_id"] == "13"
    assert (error["stage"], error["row"], error["shard"]) == ("preprocess", 13, 0)
    assert error["exception"] == "InvalidArgumentError"
    assert error["message"] == "thirteen"
    good = Job(job.directory / "good", job.source).run()
    kept = [i for i in range(ROWS) if i != 13]
    np.testing.assert_array_equal(
        stacked(table["hidden"]), stacked(good["hidden"])[kept]
    )
    assert verify_table(str(job.table)) == []


def test_a_row_that_the_model_cannot_compute_is_found_by_halving(
    tmp_path: Path,
) -> None:
    values = vectors()
    values[[5, 6, 40], 0] = -1
    from conftest import write_parquet

    write_parquet(tmp_path / "v.parquet", range(ROWS), values, 50)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    table = job.run(
        model={"build": "toolbox:picky_model"},
        taps=[{"path": "head"}],
        errors={"max_fraction": 0.03},
    )
    assert set(table["example_id"].to_pylist()) == set(range(ROWS)) - {5, 6, 40}
    assert [(e["row"], e["stage"]) for e in job.errors()] == [
        (5, "infer"),
        (6, "infer"),
        (40, "infer"),
    ]


def test_too_many_bad_rows_fail_the_run_and_a_higher_limit_finishes_at_once(
    job: Job,
) -> None:
    bad = {"preprocess": ["toolbox:refuse_thirteen"]}
    with pytest.raises(RuntimeError, match=r"1 of 100 are \(1.0000%\)"):
        job.run(source=bad)
    assert not (job.table / "_SUCCESS").exists()
    status = table_status(str(job.table))
    assert (status.committed, status.quarantined) == (status.shards, 1)
    before = contents(job.table)
    del before["_featuretap/first_bad_row.json"]  # of a run that is not finished
    job.run(source=bad, errors={"max_fraction": 0.01})
    with pytest.raises(RuntimeError, match="1 of 100 are"):
        job.run(source=bad)
    after = contents(job.table)
    assert before.items() <= after.items()
    made = {"manifest.parquet", "statistics/table.parquet", "gates.json"}
    new = {"_SUCCESS", *(f"_featuretap/{name}" for name in made)}
    assert after.keys() - before.keys() == new


def test_a_first_batch_that_fails_alike_stops_the_run(job: Job) -> None:
    with pytest.raises(
        RuntimeError, match="wrong config or model rather than bad rows"
    ):
        job.run(
            source={"preprocess": ["toolbox:refuse_all"]}, errors={"max_fraction": 1.0}
        )
    assert not (job.table / "_SUCCESS").exists()
    assert table_status(str(job.table)).rows == 0


def test_a_bad_shard_is_no_wrong_config_where_others_work(tmp_path: Path) -> None:
    from conftest import write_parquet

    values = vectors()
    values[20:40, 0] = -1
    for start in (0, 20, 40):
        ids = range(start, start + 20)
        write_parquet(tmp_path / f"{start}.parquet", ids, values, 20)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    sections: dict[str, Any] = {
        "model": {"build": "toolbox:picky_model"},
        "taps": [{"path": "head"}],
        "errors": {"max_fraction": 0.4},
    }
    plan = job.plan(**sections)
    prepare_table(plan)
    worker = worker_of(job.table)
    assert extract_shard(worker, plan.shards[1]).quarantined == 20
    assert job.run(**sections).num_rows == 40


def test_what_is_left_of_a_batch_does_not_hold_the_batch_in_memory(
    tmp_path: Path,
) -> None:
    from conftest import write_parquet

    from transforms.taps.infer import infer

    values = vectors()
    values[::2, 0] = -1
    write_parquet(tmp_path / "v.parquet", range(ROWS), values, 50)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    plan = job.plan(
        model={"build": "toolbox:picky_model", "batch_rows": 64},
        taps=[{"path": "head"}],
        table={"rows_per_part": ROWS},
    )
    prepare_table(plan)
    worker = worker_of(job.table)
    failures: list[Any] = []
    kept = [
        columns["head"]
        for batch in worker.pipeline.batches(plan.shards[0].pieces, failures.append)
        for _, columns in infer(worker.compiled, batch, failures.append)
    ]
    assert sum(len(array) for array in kept) == len(failures) == ROWS // 2
    owners = [array if array.base is None else array.base for array in kept]
    assert sum(owner.nbytes for owner in owners) == ROWS // 2 * 2 * 4


def test_a_losing_attempt_leaves_nothing_behind(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = job.plan(source={"preprocess": ["toolbox:refuse_thirteen"]})
    prepare_table(plan)
    worker = worker_of(job.table)
    first = extract_shard(worker, plan.shards[0])
    before = contents(job.table)
    # A zombie that looked before the commit, and whose bytes came out differently.
    monkeypatch.setattr("transforms.table.parquet_writer._COMPRESSION_LEVEL", 9)
    answers = iter([None])
    read = Table.read_commit
    monkeypatch.setattr(
        Table,
        "read_commit",
        lambda self, shard, **kw: next(answers, read(self, shard, **kw)),
    )
    assert extract_shard(worker, plan.shards[0]) == first
    assert contents(job.table) == before


def test_a_table_whose_committed_part_is_gone_is_not_finished(job: Job) -> None:
    run_plan(job.plan())
    (job.table / "_SUCCESS").unlink()
    gone = sorted((job.table / "data").glob("part-*"))[2]
    gone.unlink()
    with pytest.raises(RuntimeError, match=rf"1 are gone \(first: data/{gone.name}\)"):
        run_plan(job.plan())
    (job.table / "_featuretap" / "commits" / "00002.json").unlink()
    run_plan(job.plan())
    assert gone.exists()
    assert verify_table(str(job.table)) == []


def test_kept_features_get_column_names_in_snake_case(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2],
            "vec": pa.FixedSizeListArray.from_arrays(pa.array([0.5] * 12), 6),
            "Petal Width (cm)": [1.5, 2.5],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    result = job.run(source={"keep": ["Petal Width (cm)"]})
    assert result["petal_width_cm"].to_pylist() == [1.5, 2.5]


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    from conftest import write_tfrecord

    write_tfrecord(
        tmp_path / "t.tfrecord",
        range(30),
        vectors(),
        text=lambda i: b"\xff\xfe" if i == 9 else b"fine",
    )
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": str(tmp_path / "*.*")})
    table = job.run(source={"keep": ["text"]}, errors={"max_fraction": 0.1})
    assert table.num_rows == 29
    assert [(e["row"], e["stage"]) for e in job.errors()] == [(9, "encode")]


def test_the_transforms_serve_in_another_pipeline_and_count_what_they_do(
    job: Job,
) -> None:
    bad = {"preprocess": ["toolbox:refuse_thirteen"]}
    plan = job.plan(source=bad)
    prepare_table(plan)
    pipeline = beam.Pipeline(runner="FnApiRunner")
    table = str(job.table)
    summaries = pipeline | ExtractShards(table) | CommitTable(table, max_fraction=0.5)
    _ = summaries | beam.Map(lambda summary: _check_summary(summary))
    result = pipeline.run()
    result.wait_until_finish()
    query = beam.metrics.MetricsFilter().with_namespace("featuretap")
    counters = {
        counter.key.metric.name: counter.committed
        for counter in result.metrics().query(query)["counters"]
    }
    parts = sum(path.stat().st_size for path in (job.table / "data").glob("part-*"))
    assert counters == {
        "shards": len(plan.shards),
        "rows": 99,
        "quarantined_rows": 1,
        "part_bytes": parts,
    }


def _check_summary(summary: dict[str, Any]) -> None:
    assert (summary["rows"], summary["quarantined"]) == (99, 1)


def test_an_exception_from_a_worker_names_shard_and_file(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = job.plan()
    prepare_table(plan)
    monkeypatch.setattr(
        "transforms.extract.check_part",
        lambda *_: (_ for _ in ()).throw(OSError("disk")),
    )
    with pytest.raises(
        Exception,
        match=r"shard \d+ \(\d+ rows from row \d+ of .*\) failed: OSError: disk",
    ):
        run_plan(plan)
