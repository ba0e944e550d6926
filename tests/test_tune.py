"""`featuretap tune`: planted bottlenecks are named, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from conftest import ROWS, Job
from test_ceiling import BUSY
from test_cli import CONFIG, invoke
from toolbox import Sluggish

from pipeline import make_plan, run_plan, tune_config
from pipeline.config_file import parse_config
from pipeline.tune import bench as bench_module
from pipeline.tune.batch_sizes import Trial
from pipeline.tune.bench import Bench
from pipeline.tune.measure import Measure
from pipeline.tune.tune import Tuning
from transforms import device
from transforms.config import Config
from transforms.lookup import ConfigError
from transforms.models.model import Model
from transforms.taps.compile import CompiledTaps

SECONDS = 0.6


@pytest.fixture
def job(tmp_path: Path, sources: dict[str, dict[str, Any]]) -> Job:
    return Job(tmp_path, sources["parquet"])


@pytest.fixture
def large(tmp_path: Path, sources: dict[str, dict[str, Any]]) -> Job:
    """Shards of many rows, so that beginning one costs a row little."""
    job = Job(tmp_path, {**sources["user"], "sizes": [4000]})
    job.source["preprocess"] = [{"step": "toolbox:double", "batched": True}]
    return job


LARGE = {"rows_per_part": 2000}


@pytest.fixture
def config(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config in the working directory, of a table in directories to be made."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.toml"
    text = CONFIG.format(data=data).replace('"table"', '"out/deep/table"')
    path.write_text(text)
    return path


def files(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*"))


def tuned(job: Job, **sections: Any) -> Tuning:
    before = files(job.directory)
    found = tune_config(job.config(**sections), seconds=SECONDS)
    assert files(job.directory) == before
    return found


def test_a_step_that_sleeps_is_the_bottleneck(job: Job) -> None:
    step = {"step": "toolbox:sleep", "seconds": 0.2}
    found = tuned(job, source={"preprocess": [step]})
    assert (found.ceiling.bottleneck, found.ceiling.bound) == (
        "preprocessing",
        "waiting",
    )
    assert "a step sleeps" in found.ceiling.sentence


@pytest.mark.parametrize("reader", ["parquet", "tfrecord"])
def test_storage_that_is_slow_to_read_is_the_bottleneck(
    tmp_path: Path, sources: dict[str, dict[str, Any]], reader: str
) -> None:
    """Whether files are read where they are, or copied first."""
    source = sources[reader]
    path = f"sluggish://{source['path']}"
    found = tuned(Job(tmp_path, {**source, "path": path}))
    assert (found.ceiling.bottleneck, found.ceiling.bound) == ("reading", "waiting")
    assert "it waits for its storage" in found.ceiling.sentence


def test_a_store_that_is_slow_to_write_is_the_bottleneck(
    large: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sluggish, "seconds", 1.0)
    Sluggish.puts.clear()
    path = f"sluggish://{large.directory}/table"
    found = tuned(large, table={"path": path, **LARGE})
    assert (found.ceiling.bottleneck, found.ceiling.bound) == ("writing", "waiting")
    assert "it waits for the table's store" in found.ceiling.sentence
    assert any(name.startswith("part-") for name in Sluggish.puts)


def test_a_heavy_model_is_the_bottleneck(large: Job) -> None:
    heavy: dict[str, Any] = {"build": "toolbox:heavy_model", "batch_rows": 64}
    found = tuned(large, model=heavy, taps=[{"path": "head"}], table=LARGE)
    assert found.ceiling.bottleneck == "computing"
    shares = found.ceiling.shares
    assert max(shares, key=lambda name: shares[name]) == "computing"


def test_what_is_measured_is_what_is_said(job: Job) -> None:
    """The document has all of it, with units in the names."""
    told: list[str] = []
    config = job.config()
    found = tune_config(config, SECONDS, 0.5, 3, told.append)
    assert told[:2] == ["planning", "reading some rows"]
    assert "measuring computing, batches of 16 rows" in told
    assert told[-1] == "measuring writing"
    document = json.loads(json.dumps(found.to_json()))
    assert document["rows"] == ROWS
    assert list(document["stages"]) == [
        *("reading", "preprocessing", "computing", "writing")
    ]
    for stage in ("reading", "computing", "writing"):
        assert document["stages"][stage]["rows_per_second"] > 0
        assert document["stages"][stage]["cpu_us_per_row"] > 0
        assert document["stages"][stage]["rows"] > 0
    shares = [one["cpu_share"] for one in document["stages"].values()]
    assert sum(shares) == pytest.approx(1)
    assert document["batch_sizes"][0]["batch_rows"] == 16
    assert document["rows_per_second"] == found.ceiling.rows_per_second
    assert document["run_seconds_at_least"] > ROWS / document["rows_per_second"]
    assert document["cost_likely"] == pytest.approx(
        0.5 * document["run_seconds_likely"] / 3600
    )
    assert document["cores_per_worker"] == device.cores()
    assert document["shards_in_flight_per_worker"] == device.shards_in_flight()
    assert (document["workers"], document["gpu"]) == (3, False)


def made_up(
    monkeypatch: pytest.MonkeyPatch, rate: Callable[[int, bool], float]
) -> None:
    """Give each size of batches, with XLA or without, a rate; measure nothing."""

    def attempt(self: Bench, model: Model, rows: int) -> Trial:
        measured = Measure(10**6, 1 / rate(rows, model.jit), 1.0)
        return Trial(rows, model.jit, measured)

    monkeypatch.setattr(Bench, "_attempt", attempt)
    monkeypatch.setattr(Bench, "stages", lambda *_: BUSY)


def test_settings_make_another_table(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, lambda rows, jit: min(rows, 64) * (2 if jit else 1))
    config = job.config()
    found = tune_config(config, SECONDS)
    assert found.settings == {"batch_rows": 64, "jit": True}
    document = config.model_dump(exclude_unset=True)
    document["model"] |= tomllib.loads(found.fragment)["model"]
    plan = make_plan(parse_config(document))
    assert (plan.config.model.batch_rows, plan.config.model.jit) == (64, True)
    assert plan.fingerprint != make_plan(config).fingerprint
    assert run_plan(plan)["rows"] == ROWS
    assert tuned_again(plan.config) == {}


def tuned_again(config: Config) -> dict[str, int | bool]:
    """Give what is to be changed in a config that has been changed already."""
    return tune_config(config, SECONDS).settings


@pytest.mark.parametrize(
    ("given", "gain", "settings"),
    [
        (False, 1.04, {}),
        (False, 1.06, {"jit": True}),
        (True, 0.9, {"jit": False}),
        (True, 1.04, {}),
    ],
)
def test_xla_must_be_worth_it(
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    given: bool,
    gain: float,
    settings: dict[str, bool],
) -> None:
    made_up(monkeypatch, lambda rows, jit: 10 * (gain if jit else 1))
    found = tune_config(job.config(model={"jit": given}), SECONDS)
    assert found.settings == settings
    assert [one.jit for one in found.trials][-2:] == [given, not given]


def test_a_model_that_xla_cannot_compile_is_measured_without(
    tmp_path: Path, job: Job
) -> None:
    found = tuned(
        job,
        source={"preprocess": [], "key": "id"},
        model={"build": "architectures:unusual", "batch_rows": 16},
        taps=[{"path": "", "column": "all"}],
    )
    assert found.xla is not None
    assert "model.jit must be false" in found.xla
    assert not any(trial.jit for trial in found.trials)


def test_a_device_without_room_is_no_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = CompiledTaps.__call__

    def full(self: CompiledTaps, inputs: Any) -> Any:
        if self.batch_rows > 32:
            raise tf.errors.ResourceExhaustedError(None, None, "no room")
        return original(self, inputs)

    monkeypatch.setattr(CompiledTaps, "__call__", full)
    found = tuned(job)
    assert found.stop == "memory"
    assert [one.batch_rows for one in found.trials if not one.jit] == [16, 32]


def test_memory_that_would_not_suffice_is_not_tried(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "available_bytes", lambda: 1)
    found = tuned(job)
    assert found.stop == "memory"
    assert [one.batch_rows for one in found.trials if not one.jit] == [16]


def test_a_device_too_small_for_any_batch_is_an_error(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "_attempt", lambda *_: None)
    with pytest.raises(RuntimeError, match="ran out of memory with the smallest"):
        tune_config(job.config(), SECONDS)
    assert files(job.directory) == []


def test_a_model_of_fixed_size_has_one(tmp_path: Path, job: Job) -> None:
    import keras

    vec = keras.Input((6,), batch_size=5, name="vec")
    path = str(tmp_path / "fixed.keras")
    keras.Model(vec, keras.layers.Dense(2, name="head")(vec)).save(path)
    fixed = {"build": None, "path": path, "batch_rows": 5}
    found = tuned(job, model=fixed, taps=[{"path": "head"}])
    assert {one.batch_rows for one in found.trials} == {5}
    assert found.stop == "fixed"


def test_the_command_prints_tables_and_sentences(config: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    arguments = ["tune", config, "--seconds", 1, "--price", 3, "--limit", 40]
    stdout, stderr = invoke(*arguments, "--set", "model.batch_rows=24")
    assert files(tmp_path) == before
    assert stderr == ""
    lines = stdout.splitlines()
    assert lines[0].split("  ")[0] == "stage"
    assert [line.split()[0] for line in lines[1:5]] == [
        *("reading", "preprocessing", "computing", "writing")
    ]
    assert lines[6].split() == ["batch", "rows/s", "XLA"]
    assert "is the bottleneck" in stdout
    assert "the ceiling is" in stdout
    assert "\n40 rows take" in stdout
    assert "and cost" in stdout
    assert "\n24  " in stdout
    assert "--set model.batch_rows=" in stdout or "reaches it as it is" in stdout


@pytest.mark.parametrize(
    "override",
    [
        "taps.0.path=heads",
        "model.bach_rows=1",
        "source.path=none",
        "model.build=toolbox:nothing",
        "table.path=memory://bucket/table",
    ],
)
def test_a_wrong_config_is_refused_as_by_run(config: Path, override: str) -> None:
    _, of_run = invoke("run", config, "--set", override, code=2)
    assert invoke("tune", config, "--set", override, code=2)[1] == of_run


def test_a_place_that_cannot_be_written_is_refused(config: Path) -> None:
    Path("file").touch()
    override = ("--set", "table.path=file/table")
    _, of_run = invoke("run", config, *override, code=2)
    assert invoke("tune", config, *override, code=2)[1] == of_run
    assert "table.path must be a directory that can be written" in of_run


def test_a_failure_is_said_in_few_words(config: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    refuse = "source.preprocess=['toolbox:refuse_all']"
    _, stderr = invoke("tune", config, "--set", refuse, code=1)
    assert "must have rows to measure with" in stderr
    assert "Traceback" not in stderr
    assert files(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before, written = files(tmp_path), []
    original, once = bench_module.stages.write, threading.Lock()

    def interrupted(*arguments: Any) -> Any:
        for rows in original(*arguments):
            if once.acquire(blocking=False):  # a second would hit whoever tidies up
                written.extend(files(tmp_path))
                os.kill(os.getpid(), number)
            yield rows

    monkeypatch.setattr(bench_module.stages, "write", interrupted)
    # where the tests run in the background, Ctrl-C is ignored
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        handler = signal.getsignal(number)
        invoke("tune", config, "--seconds", 1, code=128 + number)
        assert signal.getsignal(number) == handler
    finally:
        signal.signal(signal.SIGINT, found)
    assert files(tmp_path) == before
    assert any(".tune-" in name and "part-" in name for name in written)


def test_a_price_must_not_be_negative(config: Path) -> None:
    assert "--price" in invoke("tune", config, "--price", -1, code=2)[1]
    assert "--seconds" in invoke("tune", config, "--seconds", 0, code=2)[1]


def test_a_table_that_ends_with_this_process_is_refused(job: Job) -> None:
    with pytest.raises(ConfigError, match="where other processes find it"):
        tune_config(job.config(table={"path": "memory://bucket/table"}))
