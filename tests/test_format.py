"""Table format 2: nulls, versions, strangers, and what stands where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROWS, Job, parity_of, vectors, worker_of
from typer.testing import CliRunner

from pipeline import (
    iter_features,
    make_plan,
    repair_table,
    run_plan,
    table_status,
    verify_table,
)
from pipeline.cli import app
from transforms.lookup import ConfigError
from transforms.table.commit import commit_table
from transforms.table.directory import Table
from transforms.table.plan_file import pending_shards

COUNT = 40
KEPT: dict[str, pa.Array] = {
    "whole": pa.array([None if i % 3 == 0 else i for i in range(COUNT)], pa.int16()),
    "real": pa.array([None if i % 4 == 1 else i / 2 for i in range(COUNT)]),
    "flag": pa.array([None if i % 5 == 2 else i % 2 == 0 for i in range(COUNT)]),
    "text": pa.array([None if i % 6 == 3 else f"ü{i}" for i in range(COUNT)]),
    "data": pa.array([None if i == 9 else bytes([i, 0]) for i in range(COUNT)]),
    "many": pa.array([None if i % 7 == 4 else [i] * (i % 3) for i in range(COUNT)]),
    "pair": pa.array([None if i == 8 else [i, -i] for i in range(COUNT)]),
    "when": pa.array(
        [None if i == 7 else i * 10**9 for i in range(COUNT)], pa.timestamp("us", "UTC")
    ),
}


def table_of(**others: Any) -> pa.Table:
    vec = pa.FixedSizeListArray.from_arrays(pa.array(vectors(COUNT).reshape(-1)), 6)
    return pa.table({"id": pa.array(range(COUNT)), "vec": vec, **KEPT, **others})


def job_of(tmp_path: Path, table: pa.Table) -> Job:
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=16)
    return Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})


def test_nulls_of_kept_features_of_every_type_are_kept(tmp_path: Path) -> None:
    job = job_of(tmp_path, table_of())
    found = job.run(source={"keep": [*KEPT]}, table={"rows_per_part": 16})
    assert found.num_rows == COUNT
    for name, column in KEPT.items():
        assert found.schema.field(name).nullable, name
        assert found[name].to_pylist() == column.to_pylist(), name
    for name in ("example_id", "hidden", "head"):
        assert not found.schema.field(name).nullable
        assert found[name].null_count == 0
    assert verify_table(str(job.table)) == []
    parity = parity_of(str(job.table), COUNT)
    assert parity.passed
    assert all(parity.columns[n].mismatched == 0 for n in KEPT if n != "when")


def test_a_column_that_may_not_be_null_is_required_in_the_table(tmp_path: Path) -> None:
    table = table_of()
    fields = [field.with_nullable(field.name != "text") for field in table.schema]
    sound = table["text"].fill_null("none")
    table = table.set_column(table.schema.get_field_index("text"), "text", sound)
    job = job_of(tmp_path, table.cast(pa.schema(fields)))
    found = job.run(source={"keep": ["text", "whole"]})
    assert not found.schema.field("text").nullable
    assert found.schema.field("whole").nullable


@pytest.mark.parametrize(
    "sections",
    [
        {"source": {"key": "whole", "keep": []}},
        {"source": {"keep": ["text"], "preprocess": ["toolbox:refuse_thirteen"]}},
        {
            "source": {
                "keep": ["real"],
                "preprocess": [{"step": "rescale", "feature": "real", "scale": 2.0}],
            }
        },
        {
            "source": {"keep": ["whole"]},
            "table": {"event_timestamp": "whole", "timestamp_unit": "s"},
        },
    ],
    ids=["key", "a user's step", "a step", "timestamp"],
)
def test_a_null_that_something_may_look_at_is_a_bad_row(
    sections: dict[str, Any], tmp_path: Path
) -> None:
    job = job_of(tmp_path, table_of())
    found = job.run(**sections, errors={"max_fraction": 0.8})
    assert not any(field.nullable for field in found.schema)
    assert 0 < len(job.errors()) == COUNT - found.num_rows
    assert any("is null" in error["message"] for error in job.errors())


def test_a_null_inside_of_a_list_is_a_bad_row(tmp_path: Path) -> None:
    inner = pa.array([[1, None] if i == 3 else [1, i] for i in range(COUNT)])
    job = job_of(tmp_path, table_of(inner=inner))
    found = job.run(source={"keep": ["inner"]}, errors={"max_fraction": 0.1})
    assert found["example_id"].to_pylist() == [i for i in range(COUNT) if i != 3]
    assert found["inner"].null_count == 0


def test_nulls_of_csv_and_json_lines_are_kept(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(6)]
    rows = [
        {
            "id": i,
            **dict(zip(names, map(float, vec), strict=True)),
            "count": None if i % 3 else i,
            "note": None if i % 2 else f"n{i}",
        }
        for i, vec in enumerate(vectors(20))
    ]
    (tmp_path / "csv").mkdir()
    (tmp_path / "jsonl").mkdir()
    head = list(rows[0])
    lines = [",".join("" if r[n] is None else str(r[n]) for n in head) for r in rows]
    (tmp_path / "csv" / "a.csv").write_text("\n".join([",".join(head), *lines]))
    text = "\n".join(
        json.dumps({n: v for n, v in row.items() if v is not None}) for row in rows
    )
    (tmp_path / "jsonl" / "a.jsonl").write_text(text)
    stack = {"step": "stack", "feature": "vec", "of": names}
    for reader in ("csv", "jsonl"):
        source = {"reader": reader, "path": str(tmp_path / reader)}
        job = Job(tmp_path / f"{reader}-out", source)
        found = job.run(source={"preprocess": [stack], "keep": ["count", "note"]})
        assert found["count"].to_pylist() == [row["count"] for row in rows]
        assert found.schema.field("count").nullable
        # an empty field of a CSV file is empty text
        empty = "" if reader == "csv" else None
        assert found["note"].to_pylist() == [row["note"] or empty for row in rows]
        assert found.schema.field("note").nullable == (reader == "jsonl")


def test_nulls_survive_bad_rows_and_batches_of_one(tmp_path: Path) -> None:
    values = vectors(COUNT)
    values[5:30:5, 0] = -1
    vec = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6)
    table = table_of()
    job = job_of(tmp_path, table.set_column(1, "vec", vec))
    found = job.run(
        source={"keep": [*KEPT]},
        model={"build": "toolbox:picky_model"},
        taps=[{"path": "head"}],
        errors={"max_fraction": 0.2},
    )
    sound = found["example_id"].to_pylist()
    assert sound == [i for i in range(COUNT) if values[i, 0] > 0]
    for name, column in KEPT.items():
        assert found[name].to_pylist() == column.take(pa.array(sound)).to_pylist()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A finished table of the job that tests get."""
    root = tmp_path_factory.mktemp("made")
    source = {"reader": "parquet", "path": str(data / "parquet" / "*.parquet")}
    Job(root, source).run()
    return root / "table"


@pytest.fixture
def finished(job: Job, made: Path) -> Job:
    """A job whose table is finished; where that lies is not in its fingerprint."""
    shutil.copytree(made, job.table)
    return job


def change_version(table: Path, version: Any) -> None:
    path = table / "_featuretap" / "config.json"
    document = json.loads(path.read_text())
    document["format_version"] = version
    path.write_text(json.dumps(document))


CALLS: dict[str, Callable[[Job], Any]] = {
    "commit": lambda job: commit_table(Table(str(job.table)), 0.0),
    "pending": lambda job: list(pending_shards(str(job.table))),
    "read": lambda job: iter_features(str(job.table), "hidden"),
    "run": lambda job: run_plan(job.plan()),
    "run --overwrite": lambda job: run_plan(job.plan(), overwrite=True),
    "repair": lambda job: repair_table(job.plan()),
    "status": lambda job: table_status(str(job.table)),
    "verify": lambda job: verify_table(str(job.table)),
    "parity": lambda job: parity_of(str(job.table), 3),
}


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (1, "make the table again at another path"),
        (3, "use a newer featuretap"),
        (None, "make the table again at another path"),
    ],
)
def test_a_table_of_another_format_is_refused_by_name_and_left_alone(
    version: Any, remedy: str, finished: Job
) -> None:
    change_version(finished.table, version)
    before = {p: p.read_bytes() for p in finished.table.rglob("*") if p.is_file()}
    expected = (
        rf"works on tables of format 2, the one in '.*table' has format {version};"
        f" {remedy}"
    )
    for name, call in CALLS.items():
        with pytest.raises(ConfigError, match=expected):
            call(finished)
        after = {p: p.read_bytes() for p in finished.table.rglob("*") if p.is_file()}
        assert after == before, name


@pytest.mark.parametrize("command", ["status", "verify"])
def test_another_format_is_misuse(command: str, finished: Job) -> None:
    change_version(finished.table, 7)
    result = CliRunner().invoke(app, [command, str(finished.table)])
    assert result.exit_code == 2
    assert "format 7; use a newer featuretap" in result.stderr


def test_a_worker_refuses_a_table_that_has_become_one_of_another_format(
    job: Job,
) -> None:
    from pipeline import prepare_table
    from transforms.extract import extract_shard

    plan = job.plan()
    prepare_table(plan)
    worker = worker_of(job.table)
    change_version(job.table, 3)
    with pytest.raises(ConfigError, match="format 3"):
        extract_shard(worker, plan.shards[0])
    assert not (job.table / "_featuretap" / "commits").exists()


def part(table: Path) -> Path:
    return min((table / "data").iterdir())


STRANGERS: dict[str, Callable[[Path], str]] = {
    "a copy of a part": lambda t: shutil.copy(part(t), t / "data" / "copy.parquet"),
    "a part of another run": lambda t: shutil.copy(
        part(t), t / "data" / "part-00009-00000000.parquet"
    ),
    "a part beside data": lambda t: shutil.copy(part(t), t / "part-1.parquet"),
    "any other file": lambda t: (t / "data" / "notes.txt").write_text("x"),
    "a hidden file in data": lambda t: (t / "data" / ".part.crc").write_text("x"),
    "a folder in data": lambda t: (t / "data" / "day=1").mkdir(),
    "a folder beside data": lambda t: (t / "more").mkdir(),
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_verify_names_whatever_readers_may_take_for_a_part(
    kind: str, finished: Job
) -> None:
    before = {*finished.table.rglob("*")}
    STRANGERS[kind](finished.table)
    (new,) = {*finished.table.rglob("*")} - before
    (difference,) = verify_table(str(finished.table))
    name = new.relative_to(finished.table).as_posix()
    assert difference.startswith(f"{name}{'/' if new.is_dir() else ''} is not in the")


@pytest.mark.parametrize("kind", STRANGERS)
def test_repair_leaves_strangers_and_the_table_alone(kind: str, finished: Job) -> None:
    is_ours = kind == "a part of another run"  # named as ours are: an orphan
    success = (finished.table / "_SUCCESS").stat().st_mtime_ns
    before = {*finished.table.rglob("*")}
    STRANGERS[kind](finished.table)
    (new,) = {*finished.table.rglob("*")} - before
    repaired = repair_table(finished.plan())
    assert len(repaired) == is_ours
    assert (finished.table / "_SUCCESS").exists() != is_ours
    run_plan(finished.plan())
    assert new.exists() != is_ours
    assert is_ours or (finished.table / "_SUCCESS").stat().st_mtime_ns == success


@pytest.mark.parametrize(
    "place", ["data/old.parquet", "part-00000-of-00001-aaaaaaaa.parquet", "_SUCCESS"]
)
def test_no_table_begins_where_other_parts_lie(place: str, job: Job) -> None:
    (job.table / "data").mkdir(parents=True)
    (job.table / place).write_text("x")
    with pytest.raises(ConfigError, match=rf"parts without a plan, .* \({place}\)"):
        run_plan(job.plan())
    assert not (job.table / "_featuretap").exists()


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("claim", "other"),
        ("versions", {"numpy": "0"}),
        ("fingerprint", "other"),
        ("format_version", 9),
    ],
)
def test_verify_compares_what_a_table_says_it_was_made_by(
    name: str, other: Any, finished: Job
) -> None:
    path = finished.table / "_SUCCESS"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, name: other}))
    (difference,) = verify_table(str(finished.table))
    assert difference.startswith(f"_SUCCESS has {name} {other}, the plan ")


@pytest.mark.parametrize("name", ["claim", "versions"])
def test_verify_compares_what_a_record_was_made_by(name: str, finished: Job) -> None:
    path = finished.table / "_featuretap" / "commits" / "00001.json"
    record = json.loads(path.read_text())
    other = {"keras": "1"} if name == "versions" else "other"
    path.write_text(json.dumps({**record, name: other}))
    (difference,) = verify_table(str(finished.table))
    assert difference.startswith("the record of shard 1 ")
    assert len(repair_table(finished.plan())) == 1
    finished.run()
    assert verify_table(str(finished.table)) == []


def test_verify_names_a_manifest_and_a_record_of_something_else(finished: Job) -> None:
    internal = finished.table / "_featuretap"
    manifest = pq.read_table(internal / "manifest.parquet")
    pq.write_table(
        manifest.replace_schema_metadata(None), internal / "manifest.parquet"
    )
    shutil.copy(
        internal / "commits" / "00000.json", internal / "commits" / "00099.json"
    )
    assert verify_table(str(finished.table)) == [
        "_featuretap/manifest.parquet was made by another plan",
        "_featuretap/commits/00099.json is of no shard of the plan",
    ]


def test_a_plan_is_not_written_over_a_table_that_came_between(job: Job) -> None:
    from transforms.table.plan_file import claim_table, read_claim, write_plan

    plan, table = job.plan(), Table(str(job.table))
    claim_table(table, plan)
    seen = read_claim(table)
    claim_table(table, job.plan(model={"batch_rows": 8}), replace=True)
    with pytest.raises(RuntimeError, match="has been replaced while this run began"):
        write_plan(table, plan, plan.shards, seen)


def test_a_null_in_the_readers_own_key_is_a_bad_row(tmp_path: Path) -> None:
    ids = pa.array([None if i == 5 else i for i in range(COUNT)])
    table = table_of()
    pq.write_table(table.set_column(0, "id", ids), tmp_path / "rows.parquet")
    source = {"reader": "toolbox:KeyedParquet", "path": str(tmp_path / "*.*")}
    job = Job(tmp_path / "out", source)
    found = job.run(source={"key": None}, errors={"max_fraction": 0.1})
    assert found["example_id"].to_pylist() == [i for i in range(COUNT) if i != 5]


def test_a_reader_that_forgets_the_flags_of_nulls_is_told(tmp_path: Path) -> None:
    job = job_of(tmp_path, table_of())
    source = {**job.source, "reader": "toolbox:ForgetfulParquet", "keep": ["whole"]}
    with pytest.raises(RuntimeError, match="'whole' or the flag of its nulls"):
        job.run(source=source)


def test_a_key_that_no_json_line_has_is_a_typing_error(tmp_path: Path) -> None:
    rows = [{"id": i, "vec": v.tolist(), "label": 1} for i, v in enumerate(vectors(5))]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    job = Job(tmp_path / "out", {"reader": "jsonl", "path": str(tmp_path / "a.jsonl")})
    features = {
        "id": "int64",
        "vec": {"dtype": "float32", "shape": [6]},
        "lable": "int64",
    }
    with pytest.raises(ConfigError, match=r"got 'lable', .* nearest is 'label'"):
        job.run(source={"features": features, "keep": ["lable"]})


def test_what_readers_pass_over_is_nobody_s_business(finished: Job) -> None:
    (finished.table / ".hidden").write_text("x")
    (finished.table / "_delta_log").mkdir()
    assert verify_table(str(finished.table)) == []
    assert pq.read_table(finished.table).num_rows == ROWS


def test_overwriting_leaves_strangers_alone_and_removes_every_part(
    finished: Job,
) -> None:
    (finished.table / "data" / "mine.parquet").write_text("mine")
    run_plan(finished.plan(limit=10), overwrite=True)
    names = {path.name for path in (finished.table / "data").iterdir()}
    assert "mine.parquet" in names
    assert len(names) == 2
    assert table_status(str(finished.table)).rows == 10


def test_records_manifest_and_success_say_what_the_table_was_made_by(job: Job) -> None:
    plan = job.plan()
    run_plan(plan)
    internal = job.table / "_featuretap"
    claim = json.loads((internal / "config.json").read_text())["claim"]
    success = json.loads((job.table / "_SUCCESS").read_text())
    record = json.loads((internal / "commits" / "00001.json").read_text())
    metadata = pq.read_schema(internal / "manifest.parquet").metadata
    manifest = json.loads(metadata[b"featuretap"])
    for document in (success, record, manifest):
        assert document["fingerprint"] == plan.fingerprint
        assert document["versions"] == dict(plan.versions)
    assert success["claim"] == record["claim"] == claim
    assert success["format_version"] == manifest["format_version"] == 2


def test_parts_of_two_tables_with_one_model_can_be_the_same_file(
    finished: Job, tmp_path: Path
) -> None:
    """Nothing in a part names its table's plan, so that another may carry it."""
    elsewhere = {"path": str(tmp_path / "longer")}
    other = make_plan(
        finished.config(table=elsewhere, errors={"attempts": 5}, limit=50)
    )
    run_plan(other)
    names = {path.name for path in (finished.table / "data").iterdir()}
    assert len(names & {p.name for p in (tmp_path / "longer" / "data").iterdir()}) >= 2
