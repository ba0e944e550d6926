"""Damaged tables, changed plans, signals and clocks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import pytest
from conftest import Job, worker_of
from jobs import job_document, outcome
from zygote import Zygote

from pipeline import make_plan, prepare_table, repair_table, run_plan, verify_table
from pipeline.config_file import parse_config
from transforms import storage
from transforms.extract import extract_shard
from transforms.lookup import ConfigError
from transforms.table.commit import commit_table
from transforms.table.directory import Table


@pytest.fixture
def finished(zygote: Zygote, tmp_path: Path) -> Path:
    """A table that is finished."""
    table = tmp_path / "table"
    assert zygote.run("run", config=job_document(table)) == 0
    return table


def part(table: Path, index: int = 1) -> Path:
    return sorted((table / "data").glob("part-*"))[index]


def internal(table: Path, name: str) -> Path:
    return table / "_featuretap" / name


def flip_a_bit(table: Path) -> None:
    data = bytearray(part(table).read_bytes())
    data[len(data) // 3] ^= 1
    part(table).write_bytes(data)


def cut_a_part(table: Path) -> None:
    part(table).write_bytes(part(table).read_bytes()[:-20])


def record_misnames(table: Path) -> None:
    record = internal(table, "commits/00001.json")
    document = json.loads(record.read_text())
    document["part"]["path"] = "../../victim"
    record.write_text(json.dumps(document))


def record_of_another_plan(table: Path) -> None:
    record = internal(table, "commits/00001.json")
    document = json.loads(record.read_text())
    record.write_text(json.dumps({**document, "fingerprint": "0" * 64}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], set[int]]] = {
    "a flipped bit": (flip_a_bit, {1}),
    "a deleted part": (lambda t: part(t).unlink(), {1}),
    "a truncated part": (cut_a_part, {1}),
    "an extra part": (
        lambda t: (t / "data" / "part-00000-00000000.parquet").write_text("?"),
        set(),
    ),
    "a lost record": (lambda t: internal(t, "commits/00001.json").unlink(), {1}),
    "a broken record": (
        lambda t: internal(t, "commits/00001.json").write_text("{"),
        {1},
    ),
    "a record that names other files": (record_misnames, {1}),
    "a record of another plan": (record_of_another_plan, {1}),
    "a lost manifest": (lambda t: internal(t, "manifest.parquet").unlink(), set()),
    "a broken _SUCCESS": (lambda t: (t / "_SUCCESS").write_text("{"), set()),
    "a broken plan": (lambda t: internal(t, "plan.parquet").write_text("?"), set()),
    "a lost schema": (lambda t: internal(t, "schema.json").unlink(), set()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_repair_computes_just_what_is_damaged(
    name: str, finished: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    damage, shards = DAMAGES[name]
    victim = tmp_path.parent / "victim"
    victim.write_text("outside of the table")
    records = {p: p.stat().st_mtime_ns for p in internal(finished, "commits").iterdir()}
    damage(finished)
    plan = make_plan(parse_config(job_document(finished)))
    prepare_table(plan)
    said = repair_table(plan)
    assert bool(said) == (name not in ("a broken plan", "a lost schema"))
    run_plan(plan)
    assert outcome(finished) == whole
    assert victim.read_text() == "outside of the table"
    again = {p: p.stat().st_mtime_ns for p in internal(finished, "commits").iterdir()}
    assert {int(p.stem) for p in records if records[p] != again[p]} == shards
    assert repair_table(plan) == []


@pytest.mark.parametrize("name", ["a flipped bit", "a broken record"])
def test_a_repair_that_is_killed_anywhere_goes_on(
    name: str,
    finished: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove = storage.remove
    for cut in itertools.count():
        DAMAGES[name][0](finished)
        plan = make_plan(parse_config(job_document(finished)))
        prepare_table(plan)
        left = itertools.count(-cut)

        def cut_off(uri: str, left: itertools.count[int] = left) -> None:
            if next(left) == 0:
                raise KeyboardInterrupt
            remove(uri)

        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(storage, "remove", cut_off)
            repair_table(plan)
        assert verify_table(str(finished)) != []
        repair_table(plan)
        run_plan(plan)
        assert outcome(finished) == whole
        if next(left) <= 0:  # it came to its end
            break
    assert cut >= 2


def test_repair_of_errors_computes_their_shard(job: Job) -> None:
    plan = job.plan(
        source={"preprocess": ["toolbox:refuse_thirteen"]},
        errors={"max_fraction": 0.5},
    )
    run_plan(plan)
    (errors,) = (job.table / "_featuretap" / "errors").iterdir()
    before = errors.read_bytes()
    errors.write_bytes(b"damaged")
    assert len(repair_table(plan)) == 1
    run_plan(plan)
    assert errors.read_bytes() == before
    assert verify_table(str(job.table)) == []


def test_repair_leaves_a_table_on_its_way_alone(job: Job) -> None:
    plan = job.plan()
    prepare_table(plan)
    extract_shard(worker_of(job.table), plan.shards[0])
    assert repair_table(plan) == []
    assert Table(str(job.table)).committed() == [0]


def saved(job: Job, tmp_path: Path, units: int) -> Any:
    vec = keras.Input((6,), name="vec")
    keras.utils.set_random_seed(units)
    model = keras.Model(vec, keras.layers.Dense(2, name="head")(vec))
    model.save(tmp_path / "model.keras")
    return job.plan(
        model={"build": None, "path": str(tmp_path / "model.keras")},
        taps=[{"path": "head"}],
    )


def test_a_model_that_changes_during_a_run_is_refused_with_both_digests(
    job: Job, tmp_path: Path
) -> None:
    from transforms.models import load
    from transforms.worker import _workers

    plan = saved(job, tmp_path, 1)
    prepare_table(plan)
    other = saved(job, tmp_path, 2)
    load._models.clear()  # a worker that starts now
    _workers.clear()
    with pytest.raises(RuntimeError) as caught:
        worker_of(job.table)
    assert f"planned: {plan.model_digest}" in str(caught.value)
    assert f"here:    {other.model_digest}" in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        run_plan(other)
    assert f"there: {plan.model_digest}" in str(refused.value)
    assert f"here:  {other.model_digest}" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "there", "here"),
    [
        ({"model": {"batch_rows": 8}}, "16", "8"),
        ({"table": {"rows_per_part": 30}}, "20", "30"),
        ({"taps": [{"path": "head"}]}, '"features:activation_1"', '"head"'),
        ({"errors": {"non_finite": "quarantine"}}, '"warn"', '"quarantine"'),
        ({"limit": 3}, "nothing", "3"),
    ],
)
def test_a_changed_plan_is_refused_with_both_values(
    change: dict[str, Any], there: str, here: str, job: Job
) -> None:
    prepare_table(job.plan())
    with pytest.raises(ConfigError) as caught:
        prepare_table(job.plan(**change))
    assert f"    there: {there}\n    here:  {here}" in str(caught.value)


def test_another_version_of_a_library_is_refused_with_both(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transforms.table import plan_file
    from transforms.worker import _workers

    prepare_table(job.plan())
    keras_version = keras.__version__
    later = {**plan_file.versions(), "keras": "99.0"}
    _workers.clear()
    monkeypatch.setattr("transforms.worker.versions", lambda: later)
    with pytest.raises(RuntimeError) as worker:
        worker_of(job.table)
    assert f"planned: keras {keras_version}\n  here:    keras 99.0" in str(worker.value)
    for module in ("pipeline.plan", "pipeline.fingerprint"):
        monkeypatch.setattr(f"{module}.versions", lambda: later)
    with pytest.raises(ConfigError) as launcher:
        prepare_table(job.plan())
    both = f'  version of keras\n    there: "{keras_version}"\n    here:  "99.0"'
    assert both in str(launcher.value)


def test_a_clock_that_jumps_changes_nothing(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run()
    real, jumps = time.time, iter(range(1 << 60))

    def jumping() -> float:
        return real() + (-1) ** next(jumps) * 400 * 24 * 3600

    monkeypatch.setattr(time, "time", jumping)
    plan = job.plan(table={"path": str(tmp_path / "jumped")})
    prepare_table(plan)
    table = Table(plan.config.table.path)
    for shard in plan.shards:
        extract_shard(worker_of(table.uri), shard)
    commit_table(table, 0.0)
    assert outcome(tmp_path / "jumped") == outcome(job.table)


def signalled(
    zygote: Zygote, directory: Path, numbers: Sequence[signal.Signals]
) -> tuple[int, str]:
    """Send signals to a run that is at its second shard; exit code and what it said."""
    log, ready, go = (directory / name for name in ("log", "ready", "go"))
    config = directory / "job.toml"
    config.write_text(TOML.format(table=directory / "table"))
    pid = zygote.start("command", log, config=str(config), ready=str(ready), go=str(go))
    while not ready.exists():
        time.sleep(0.01)
    for number in numbers:
        os.kill(pid, number)
        while "ending after the batch at hand; once more" not in log.read_text():
            time.sleep(0.01)
    if len(numbers) == 1:
        go.touch()
    return zygote.wait(pid), log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_finishes_the_shard_and_begins_no_other(
    number: signal.Signals, zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    table = tmp_path / "table"
    code, said = signalled(zygote, tmp_path, [number])
    assert code == 128 + number
    assert "interrupted; 2 of 3 shards are committed" in said
    assert Table(str(table)).committed() == [0, 1]
    assert Table(str(table)).attempts() == []
    assert zygote.run("run", config=job_document(table)) == 0
    assert outcome(table) == whole


def test_two_signals_stop_at_once(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    table = tmp_path / "table"
    code, said = signalled(zygote, tmp_path, [signal.SIGTERM, signal.SIGTERM])
    assert code == 128 + signal.SIGTERM
    assert "interrupted; 1 of 3 shards are committed" in said
    assert Table(str(table)).attempts() == []
    assert zygote.run("run", config=job_document(table)) == 0
    assert outcome(table) == whole


TOML = """
[source]
reader = "toolbox:CountingReader"
sizes = [30, 10]
key = "id"
[model]
build = "toolbox:dict_model"
batch_rows = 8
[[taps]]
path = "features:activation_1"
column = "hidden"
[table]
path = "{table}"
rows_per_part = 16
"""
