"""What is checked before a run begins, and what decides how it ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, vectors, worker_of, write_parquet, write_tfrecord
from typer.testing import CliRunner

from pipeline import make_plan, prepare_table, run_plan, table_status
from pipeline.cli import app
from pipeline.config_file import parse_config
from transforms import scratch
from transforms.errors.attempts import attempt, count_deaths
from transforms.extract import extract_shard
from transforms.lookup import ConfigError

WRONG: dict[str, tuple[list[str], str]] = {
    "a runner that does not exist": (
        ["--runner=NoSuchRunner"],
        "Beam refuses the arguments after --",
    ),
    "no job server": (
        ["--runner=PortableRunner", "--job_endpoint=127.0.0.1:9"],
        "a job server must answer at --job_endpoint=127.0.0.1:9",
    ),
}


def contents(table: Path) -> dict[str, bytes]:
    files = [path for path in table.rglob("*") if path.is_file()]
    return {path.relative_to(table).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_replaced_before_all_that_can_be_refused_is_accepted(
    case: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runners._ANSWER_SECONDS", 0.2)
    arguments, message = WRONG[case]
    job.run()
    before = contents(job.table)
    with pytest.raises((ConfigError, RuntimeError), match=message):
        run_plan(job.plan(limit=10), overwrite=True, beam_args=arguments)
    assert contents(job.table) == before


def test_the_command_line_replaces_nothing_before_a_job_server_has_answered(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runners._ANSWER_SECONDS", 0.2)
    job.run()
    before = contents(job.table)
    lines = [
        "[source]",
        'reader = "parquet"',
        f'path = "{job.source["path"]}"',
        'key = "id"',
        '[model]\nbuild = "toolbox:dict_model"',
        '[[taps]]\npath = "head"',
        f'[table]\npath = "{job.table}"',
    ]
    (tmp_path / "job.toml").write_text("\n".join(lines))
    arguments, _ = WRONG["no job server"]
    command = ["run", str(tmp_path / "job.toml"), "--overwrite", "--", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert "a job server must answer" in result.stderr
    assert contents(job.table) == before


def test_the_verdict_on_a_first_batch_does_not_depend_on_other_shards(
    tmp_path: Path,
) -> None:
    values = vectors()
    values[:20, 0] = -1
    for start in (0, 20, 40):
        ids = range(start, start + 20)
        write_parquet(tmp_path / f"{start:02d}.parquet", ids, values, 20)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    plan = job.plan(
        model={"build": "toolbox:picky_model"},
        taps=[{"path": "head"}],
        errors={"max_fraction": 1.0},
    )
    prepare_table(plan)
    worker = worker_of(job.table)
    verdict = "which means a wrong config or model rather than bad rows"
    with pytest.raises(RuntimeError, match=verdict):
        extract_shard(worker, plan.shards[0])
    assert extract_shard(worker, plan.shards[1]).part.rows == 20
    with pytest.raises(RuntimeError, match=verdict):  # others work, and still
        extract_shard(worker, plan.shards[0])


SENTENCE = "the rest of the file cannot be read"


def test_a_cell_that_holds_a_control_signal_costs_no_other_row(tmp_path: Path) -> None:
    rows = [[i, *vec] for i, vec in enumerate(vectors(30).tolist())]
    rows[4][3] = SENTENCE
    names = ["id", *(f"v{i}" for i in range(6))]
    lines = [",".join(map(str, row)) for row in [names, *rows]]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    source = {
        "reader": "csv",
        "path": str(tmp_path / "a.csv"),
        "features": {"id": "int64"} | dict.fromkeys(names[1:], "float32"),
    }
    job = Job(tmp_path / "out", source)
    stack = {"step": "stack", "feature": "vec", "of": names[1:]}
    found = job.run(source={"preprocess": [stack]}, errors={"max_fraction": 1.0})
    assert found["example_id"].to_pylist() == [i for i in range(30) if i != 4]
    (error,) = job.errors()
    assert SENTENCE in error["message"]


def test_a_model_error_that_holds_a_control_signal_costs_no_other_row(
    tmp_path: Path,
) -> None:
    texts = [f"row {i}" for i in range(20)]
    texts[5] = SENTENCE
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors(20).reshape(-1)), 6)
    table = pa.table({"id": [*range(20)], "vec": flat, "text": texts})
    pq.write_table(table, tmp_path / "rows.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    found = job.run(
        source={"preprocess": [{"step": "toolbox:refuse_text", "text": SENTENCE}]},
        errors={"max_fraction": 1.0},
    )
    assert found["example_id"].to_pylist() == [i for i in range(20) if i != 5]


def test_what_breaks_off_still_loses_its_rest(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "a.tfrecord", range(30), vectors())
    data = (tmp_path / "a.tfrecord").read_bytes()
    (tmp_path / "a.tfrecord").write_bytes(data[: len(data) // 2])
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": str(tmp_path / "*.*")})
    with pytest.raises(RuntimeError, match="ended in the middle of a record") as error:
        job.run(errors={"max_fraction": 0.5})
    assert "How many rows are lost is unknown" in str(error.value)
    assert len(job.errors()) == 1


@pytest.fixture
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    scratch._own.cache_clear()
    yield tmp_path / "tmp"
    scratch._own.cache_clear()


def test_a_remote_model_is_copied_to_where_killed_workers_leave_nothing(
    job: Job, own_scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec
    import toolbox

    from transforms.models import forms, load

    toolbox.dict_model().save(own_scratch.parent / "m.keras")
    data = (own_scratch.parent / "m.keras").read_bytes()
    fsspec.filesystem("memory").pipe_file("/models/m.keras", data)
    seen: list[Path] = []
    original = forms.load_form

    def spy(spec: Any, path: Path) -> Any:
        seen.append(path)
        return original(spec, path)

    monkeypatch.setattr(load, "load_form", spy)
    job.plan(model={"build": None, "path": "memory://models/m.keras"})
    (path,) = seen
    assert path.is_relative_to(scratch._own(os.getpid()))
    assert not path.exists()


def test_attempts_of_other_threads_are_no_deaths(tmp_path: Path) -> None:
    directory = str(tmp_path / "attempts")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(attempt(directory, 4))
        notes = [str(path) for path in (tmp_path / "attempts").iterdir()]
        assert len(notes) == 3
        assert count_deaths(notes) == 0


def test_a_device_without_memory_says_nothing_of_one_engine() -> None:
    from transforms.taps.device_memory import FittingTaps

    class Full:
        batch_rows = 1
        computes_in_16_bits = False

        def __call__(self, inputs: Any) -> Any:
            raise tf.errors.ResourceExhaustedError(None, None, "")

    taps = FittingTaps(Full(), None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="ran out of memory, even with one row") as e:
        taps({"x": tf.zeros([1, 2])})
    assert "direct_num_workers" not in str(e.value)


def test_files_of_several_compressions_are_read_in_one_shard(tmp_path: Path) -> None:
    values = vectors()
    for name, ids, kind in (
        ("a.tfrecord", range(10), ""),
        ("b.tfrecord.gz", range(10, 25), "GZIP"),
        ("c.tfrecord", range(25, 40), ""),
    ):
        write_tfrecord(tmp_path / name, ids, values, compression=kind)
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": str(tmp_path / "*.*")})
    found = job.run()
    assert table_status(str(job.table)).shards == 1
    assert found["example_id"].to_pylist() == list(range(40))


def test_a_limit_passes_over_empty_files_without_gaps(tmp_path: Path) -> None:
    names = ["id", *(f"v{i}" for i in range(6))]
    head = ",".join(names)
    big = 40 << 20
    for index in range(4):
        rows = [",".join(map(str, [index, *vectors(1)[0].tolist()]))]
        lines = [head, *([] if index == 1 else rows)]
        (tmp_path / f"{index}.csv").write_text("\n".join([*lines, ""]))
    source = {"reader": "csv", "path": str(tmp_path / "*.csv"), "max_line_bytes": big}
    document = {
        "source": {
            **source,
            "key": "id",
            "preprocess": [{"step": "stack", "feature": "vec", "of": names[1:]}],
        },
        "model": {"build": "toolbox:dict_model", "batch_rows": 4},
        "taps": [{"path": "head"}],
        "table": {"path": str(tmp_path / "out")},
        "limit": 3,
    }
    plan = make_plan(parse_config(document))
    assert [shard.index for shard in plan.shards] == list(range(len(plan.shards)))
    assert run_plan(plan)["rows"] == 3
