"""The same plan gives the same table on every engine, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import toolbox
from conftest import vectors, write_parquet
from engines import (
    ENGINES,
    ENVIRONMENT,
    HERE,
    Engine,
    flink,
    make_digits,
    need_java,
    prism,
)
from jobs import outcome
from toolbox import wait_until

from pipeline import make_plan, run_plan, table_status
from pipeline.config_file import parse_config
from pipeline.run import prepare_table
from pipeline.runners import make_pipeline, pipeline_options
from transforms.beam import CommitTable, ExtractShards
from transforms.table.directory import Table

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # those of the engines' own clients
]
DOCS = HERE.parents[1] / "docs" / "engines.md"
WITHOUT_METRICS = {"--workers", "Dask"}
started: list[subprocess.Popen[bytes]] = []
STEPS = {"sound": [], "bad": ["toolbox:refuse_thirteen"]}
HIDDEN = {"path": "features:activation_1", "column": "hidden"}
HEAD = {"path": "head"}
EARLIER = {"a": [HIDDEN, HEAD], "b": [HEAD]}  # tables by the file they are made of


@pytest.fixture(autouse=True)
def _launchers() -> Iterator[None]:
    """Leave no launcher behind, nor a Prism that one has started."""
    yield
    while started:
        launcher = started.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stored model: builders draw from generators that an engine may share."""
    path = tmp_path_factory.mktemp("model") / "model.keras"
    toolbox.dict_model().save(path)
    return str(path)


@pytest.fixture(
    scope="module",
    # one process starts an engine, and runs all its tests
    params=[pytest.param(one, marks=pytest.mark.xdist_group(one)) for one in ENGINES],
)
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    name = re.sub(r"\W+", "-", request.param)
    with ENGINES[request.param](tmp_path_factory.mktemp(name) / "engine") as started:
        started.metrics = request.param not in WITHOUT_METRICS
        yield started


@pytest.fixture(scope="module")
def expected(
    model: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, bytes]]:
    """What FnApiRunner makes, by preprocessing."""
    made = {}
    for name, steps in STEPS.items():
        table = tmp_path_factory.mktemp("expected") / name
        run(Engine(), job(table, model, preprocess=steps, max_fraction=0.1))
        made[name] = outcome(table)
    return made


@pytest.fixture(scope="module")
def plain(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the same rows, by FnApiRunner and nothing in its way."""
    table = tmp_path_factory.mktemp("plain") / "table"
    run(Engine(), job(table, model))
    return table


@pytest.fixture(scope="module")
def history(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files a, b and c, tables of the first two, and what FnApiRunner makes of all."""
    directory = tmp_path_factory.mktemp("history")
    (directory / "data").mkdir()
    for index, name in enumerate("abc"):
        ids = range(32 * index, 32 * index + 32)
        write_parquet(directory / "data" / f"{name}.parquet", ids, vectors(), 16)
    for name, taps in EARLIER.items():
        file = directory / "data" / f"{name}.parquet"
        run(Engine(), over_files(directory / name, model, file, taps))
    grow(Engine(), directory, directory / "grown", model)
    return directory


def grow(engine: Engine, history: Path, table: Path, model: str) -> dict[str, Any]:
    """Make a table of all files from the earlier ones; say how its shards were made."""
    document = over_files(table, model, history / "data", [HIDDEN, HEAD])
    summary = run(engine, document, [str(history / name) for name in EARLIER])
    return {how: some["shards"] for how, some in summary["made"].items()}


def over_files(table: Path, model: str, path: Path, taps: list[Any]) -> dict[str, Any]:
    document = job(table, model)
    source = {"reader": "parquet", "path": str(path), "key": "id"}
    return {**document, "source": source, "taps": taps}


def content(table: Path) -> dict[str, Any]:
    """Keys and values, whatever reader they came by."""
    return pq.read_table(table).sort_by("example_id").to_pydict()


def job(
    path: Path, model: str, *, max_fraction: float = 0.0, **source: Any
) -> dict[str, Any]:
    return {
        "source": {
            "reader": "toolbox:CountingReader",
            "sizes": [16] * 8,
            "key": "id",
            **source,
        },
        "model": {"path": model, "imports": ["toolbox"], "batch_rows": 8},
        "taps": [HIDDEN],
        "table": {"path": str(path), "rows_per_part": 16},
        "errors": {"max_fraction": max_fraction},
    }


def run(
    engine: Engine, document: dict[str, Any], earlier: Sequence[str] = ()
) -> dict[str, Any]:
    plan = make_plan(parse_config(document), earlier)
    return run_plan(plan, beam_args=engine.arguments, workers=engine.workers)


def start(engine: Engine, document: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Run a job from a launcher of its own, and as the command line does."""
    table = Path(document["table"]["path"])
    config, log = table.parent / "job.json", table.parent / "launcher.log"
    config.write_text(json.dumps(document))
    with log.open("ab") as output:
        launcher = subprocess.Popen(
            [
                *(sys.executable, HERE / "launch.py", config, str(engine.workers or 0)),
                *engine.arguments,
            ],
            stdout=output,
            stderr=output,
            env={**ENVIRONMENT, "TMPDIR": tempfile.gettempdir()},
            start_new_session=True,
        )
    started.append(launcher)
    return launcher


def committed(table: Path) -> int:
    return len([*table.glob("_featuretap/commits/*.json")])


def test_the_same_table(
    engine: Engine, model: str, expected: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    assert run(engine, job(tmp_path / "table", model))["rows"] == 128
    assert outcome(tmp_path / "table") == expected["sound"]


def test_a_table_that_grows(
    engine: Engine, model: str, history: Path, tmp_path: Path
) -> None:
    made = grow(engine, history, tmp_path / "table", model)
    assert made == {"carried": 2, "extended": 2, "computed": 2}
    assert outcome(tmp_path / "table") == outcome(history / "grown")


def test_bad_rows_and_the_error_budget(
    engine: Engine, model: str, expected: dict[str, dict[str, bytes]], tmp_path: Path
) -> None:
    table = tmp_path / "table"
    strict = job(table, model, preprocess=STEPS["bad"])
    with pytest.raises(Exception, match=r"1 of 128 are|failed|FAILED"):
        run(engine, strict)
    assert not (table / "_SUCCESS").exists()
    assert committed(table) == 8
    assert run(engine, {**strict, "errors": {"max_fraction": 0.1}})["quarantined"] == 1
    assert outcome(table) == expected["bad"]
    (bad,) = pq.read_table(table / "_featuretap" / "errors").to_pylist()
    assert (bad["row"], bad["stage"]) == (13, "preprocess")


def test_resuming_after_the_launcher_was_killed(
    engine: Engine,
    model: str,
    expected: dict[str, dict[str, bytes]],
    plain: Path,
    tmp_path: Path,
) -> None:
    table, gate = tmp_path / "table", tmp_path / "gate"
    document = gated(table, model, gate)
    launcher = start(engine, document)
    wait_until(lambda: committed(table) >= 2, log(tmp_path), 180)
    launcher.kill()
    launcher.wait()
    assert table_status(str(table)).committed < 8
    gate.touch()
    if engine.one_job:
        wait_until((table / "_SUCCESS").exists, log(tmp_path), 180)
        time.sleep(5)
    assert run(engine, document)["rows"] == 128
    assert len(outcome(table)) == len(expected["sound"])
    assert content(table) == content(plain)


def test_shards_are_computed_at_the_same_time(
    engine: Engine, model: str, tmp_path: Path
) -> None:
    """On a busy machine Prism may ask a worker to split too early, and only then."""
    prism = any("prism" in word for word in engine.arguments)
    for index in range(4 if prism else 1):
        table, gate = tmp_path / f"table{index}", tmp_path / f"gate{index}"
        launcher = start(engine, gated(table, model, gate, free=0))
        together = two_at_once(table, tmp_path, 20 if prism else 180)
        gate.touch()
        assert launcher.wait(180) == 0, log(tmp_path)()
        if together:
            return
    raise AssertionError(log(tmp_path)())


def two_at_once(table: Path, directory: Path, seconds: float) -> bool:
    """Whether a second shard begins some time after the first, which waits."""
    notes = table / "_featuretap" / "attempts"
    wait_until(lambda: [*notes.glob("*.json")], log(directory), 180)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if len([*notes.glob("*.json")]) >= 2:
            return True
        time.sleep(0.1)
    return False


def test_metrics(engine: Engine, model: str, tmp_path: Path) -> None:
    if not engine.metrics:
        pytest.skip("no metrics there: docs/engines.md says why")
    table = tmp_path / "table"
    prepare_table(make_plan(parse_config(job(table, model))))
    pipeline = make_pipeline(pipeline_options(engine.arguments))
    _ = pipeline | ExtractShards(str(table)) | CommitTable(str(table))
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query()["counters"]
    counters = {c.key.metric.name: c.result for c in found}
    assert counters["rows"] == 128
    assert counters["shards"] == 8


def gated(table: Path, model: str, gate: Path, free: int = 2) -> dict[str, Any]:
    """A job that waits for a file when the first few shards are committed."""
    reader = {"reader": "toolbox:GatedReader", "gate": str(gate), "table": str(table)}
    return job(table, model, free=free, **reader)


def committed_parts(table: Path) -> dict[str, int]:
    """When the part of each committed shard was written, by its path.

    A part lies in `data` before its shard is committed, and is then written again.
    """
    known = Table(str(table))
    parts = [commit.part.path for commit in known.read_commits(known.committed())]
    return {part: (table / part).stat().st_mtime_ns for part in parts}


def worker(table: Path) -> int:
    """The process that has begun a shard, which may take a moment.

    A shard's note goes when it is committed, and the next one's comes later.
    """
    pids: list[int] = []

    def found() -> bool:
        for note in table.glob("_featuretap/attempts/*.json"):
            with contextlib.suppress(FileNotFoundError):
                pids.append(json.loads(note.read_text())["pid"])
        return bool(pids)

    wait_until(found)
    return pids[0]


def log(directory: Path) -> Callable[[], str]:
    return lambda: (directory / "launcher.log").read_text()[-3000:]


@pytest.mark.parametrize("victim", ["taskmanager", "worker", "launcher"])
def test_flink_loses_a_process_half_way(
    victim: str, model: str, plain: Path, tmp_path: Path
) -> None:
    """It costs nothing but time: what was committed stays, the rest is done again.

    Without its launcher the job goes on, and its last step finishes the table.
    """
    table, gate = tmp_path / "table", tmp_path / "gate"
    document = gated(table, model, gate)
    with flink(tmp_path / "engine") as engine:
        launcher = start(engine, document)
        wait_until(lambda: committed(table) >= 2, log(tmp_path), 180)
        before = committed_parts(table)
        if victim == "taskmanager":
            os.kill(engine.processes["taskmanager-1"].pid, signal.SIGKILL)
        elif victim == "launcher":
            launcher.kill()
        else:
            os.kill(worker(table), signal.SIGKILL)
        time.sleep(2)
        gate.touch()
        if victim == "launcher":
            launcher.wait()
            wait_until((table / "_SUCCESS").exists, log(tmp_path), 180)
        else:
            assert launcher.wait(400) == 0, log(tmp_path)()
    after = committed_parts(table)
    assert before.items() <= after.items()
    assert len(after) == 8
    assert len(outcome(table)) == 9
    assert content(table) == content(plain)


def test_flink_runs_the_digits_example_and_a_larger_job(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty shards of two thousand rows for the larger one."""
    example = make_digits(tmp_path / "digits")
    monkeypatch.chdir(example)
    monkeypatch.syspath_prepend(str(example))
    path = f"{example}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", path)
    larger = job(Path(), model, sizes=[2000] * 60)
    larger["table"]["rows_per_part"] = 2000
    documents = {
        "digits": tomllib.loads(Path("digits.toml").read_text()),
        "larger": larger,
    }
    rows = {"digits": 1797, "larger": 120_000}
    documents["digits"]["source"]["data_dir"] = str(example / "data")
    documents["digits"]["model"]["path"] = str(example / "digits.keras")
    with flink(tmp_path / "engine") as engine:
        for name, document in documents.items():
            tables = [tmp_path / name / one for one in ("flink", "memory")]
            for table, runner in zip(tables, [engine, Engine()], strict=True):
                document["table"]["path"] = str(table)
                assert run(runner, document)["rows"] == rows[name]
            flinks, memorys = map(outcome, tables)
            assert flinks == memorys


def test_a_job_may_take_longer_than_the_job_server_waits(
    model: str, tmp_path: Path
) -> None:
    """With seconds instead of Beam's five minutes."""
    gate = tmp_path / "gate"
    gate.touch()
    with prism(tmp_path / "engine") as engine:
        document = gated(tmp_path / "short", model, gate)
        document["source"]["seconds"] = 2.0
        engine.arguments.append("--job_server_timeout=5")
        with pytest.raises(Exception, match="Deadline Exceeded"):
            run(engine, document)
        engine.arguments.pop()
        document["table"]["path"] = str(tmp_path / "long")
        assert run(engine, document)["rows"] == 128


def test_the_table_of_engines_in_the_docs_is_that_of_these_tests() -> None:
    head, _, *rows = re.findall(r"^\|(.*)\|$", DOCS.read_text(), re.MULTILINE)
    names = [cell.strip() for cell in head.split("|")]
    cells = [map(str.strip, row.split("|")) for row in rows[: len(ENGINES)]]
    table = [dict(zip(names, row, strict=True)) for row in cells]
    assert [row["engine"].strip("`") for row in table] == list(ENGINES)
    for row in table:
        name = row["engine"].strip("`")
        for tested in (
            "same table",
            "grown table",
            "bad rows, budget",
            "killed launcher, resumed",
        ):
            assert row[tested] == "yes"
        assert row["shards at the same time"] == "yes"
        assert row["metrics"].startswith("no: " if name in WITHOUT_METRICS else "yes")


@pytest.mark.parametrize(
    ("engine_name", "jar"),
    [("Flink", "flink-runtime-{}.jar"), ("Spark", "spark-core_2.12-{}.jar")],
)
def test_the_docs_name_the_versions_that_these_tests_run(
    engine_name: str, jar: str
) -> None:
    jars = need_java(engine_name.lower())
    named = set(re.findall(rf"{engine_name} (\d+\.\d+\.\d+)", DOCS.read_text()))
    assert len(named) == 1
    assert (jars / jar.format(*named)).exists()
    servers = set(re.findall(r"job server (\d+\.\d+)", DOCS.read_text()))
    assert len(servers) == 1
    assert [*jars.glob(f"beam-runners-{engine_name.lower()}-*-{servers.pop()}.*.jar")]
