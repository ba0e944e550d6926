"""Rows that kill, NaN, devices and machines without enough memory."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import toolbox
from conftest import Job, stacked, worker_of
from jobs import job_document
from zygote import Zygote

from pipeline import run_plan, table_status, verify_table
from transforms.extract import extract_shard
from transforms.table.directory import Table
from transforms.taps.device_memory import FittingTaps

CRASHES = {
    "preprocessing": {"source": {"preprocess": ["toolbox:die_of_thirteen"]}},
    "model": {
        "model": {"build": "toolbox:deadly_model"},
        "taps": [{"path": "head", "column": "hidden"}],
    },
}


def with_crash(table: Path, where: str, **errors: Any) -> dict[str, Any]:
    document = job_document(table)
    for name, section in CRASHES[where].items():
        if isinstance(section, dict):
            document[name] = {**document[name], **section}
        else:
            document[name] = section
    return {**document, "errors": errors}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", CRASHES)
def test_a_row_that_kills_its_worker_is_set_apart_after_two_attempts(
    where: str, zygote: Zygote, tmp_path: Path
) -> None:
    table, log = tmp_path / "table", tmp_path / "log"
    config = with_crash(table, where, max_fraction=0.1)
    for _ in range(2):
        assert zygote.run("run", log, config=config) == -signal.SIGSEGV
    assert zygote.run("run", log, config=config) == 0, log.read_text()
    ids = pq.read_table(table)["example_id"].to_pylist()
    assert ids == [i for i in range(40) if i != 13]
    (bad,) = pq.read_table(table / "_featuretap" / "errors").to_pylist()
    assert (bad["row"], bad["stage"], bad["exception"]) == (
        13,
        "crash",
        "ProcessDiedError",
    )
    assert bad["message"] == "a worker process died of SIGSEGV at this row"
    assert verify_table(str(table)) == []
    assert Table(str(table)).attempts() == []


def test_the_rows_of_a_deadly_shard_can_be_given_up(
    zygote: Zygote, tmp_path: Path
) -> None:
    table, log = tmp_path / "table", tmp_path / "log"
    config = with_crash(
        table, "preprocessing", max_fraction=0.5, crash="quarantine", attempts=1
    )
    assert zygote.run("run", log, config=config) == -signal.SIGSEGV
    assert zygote.run("run", log, config=config) == 0, log.read_text()
    assert pq.read_table(table)["example_id"].to_pylist() == list(range(16, 40))
    bad = pq.read_table(table / "_featuretap" / "errors").to_pylist()
    assert [row["row"] for row in bad] == list(range(16))
    assert {row["stage"] for row in bad} == {"crash"}


def test_a_deadly_shard_can_fail_the_run(zygote: Zygote, tmp_path: Path) -> None:
    table, log = tmp_path / "table", tmp_path / "log"
    config = with_crash(table, "preprocessing", crash="fail", attempts=1)
    assert zygote.run("run", log, config=config) == -signal.SIGSEGV
    assert zygote.run("run", log, config=config) == 1
    assert (
        "1 workers died at this shard, which is as many as errors.attempts"
        in log.read_text()
    )


def test_the_budget_counts_rows_that_kill(zygote: Zygote, tmp_path: Path) -> None:
    table, log = tmp_path / "table", tmp_path / "log"
    config = with_crash(table, "preprocessing", crash="quarantine", attempts=1)
    assert zygote.run("run", log, config=config) == -signal.SIGSEGV
    assert zygote.run("run", log, config=config) == 1
    assert "16 of 40 are (40.0000%)" in log.read_text()
    assert not (table / "_SUCCESS").exists()


@pytest.fixture
def counting(tmp_path: Path) -> Job:
    return Job(tmp_path, {"reader": "toolbox:CountingReader", "sizes": [20]})


def nan_job(counting: Job, policy: str) -> Any:
    return counting.plan(
        model={"build": "toolbox:plain_model"},
        taps=[{"path": "head", "reduce": "toolbox:root_from_five", "column": "root"}],
        errors={"non_finite": policy, "max_fraction": 0.99},
        table={"path": str(counting.directory / policy)},
    )


def test_rows_with_nan_are_allowed_counted_or_set_apart(counting: Job) -> None:
    found = {}
    for policy in ("allow", "warn", "quarantine"):
        plan = nan_job(counting, policy)
        summary = run_plan(plan)
        table = pq.read_table(plan.config.table.path)
        root = stacked(table["root"])
        found[policy] = (len(table), int(np.isnan(root).sum()), summary)
        assert verify_table(plan.config.table.path) == []
    rows, bad, summary = found["allow"]
    assert (rows, bad) == (20, 5)
    assert summary["non_finite"] == {}
    assert found["warn"][:2] == (20, bad)
    assert found["warn"][2]["non_finite"] == {"root": bad}
    assert found["quarantine"][:2] == (20 - bad, 0)
    assert found["quarantine"][2]["quarantined"] == bad
    errors = counting.directory / "quarantine" / "_featuretap" / "errors"
    messages = {row["message"] for row in pq.read_table(errors).to_pylist()}
    assert messages == {
        "activations must be finite, column root has NaN or infinite values"
    }


def test_setting_nan_apart_is_another_table(counting: Job) -> None:
    fingerprints = [nan_job(counting, p).fingerprint for p in ("allow", "warn")]
    assert fingerprints[0] == fingerprints[1]
    assert nan_job(counting, "quarantine").fingerprint != fingerprints[0]


@pytest.mark.heavy
def test_a_device_without_memory_gets_smaller_batches_and_the_same_values(
    counting: Job, caplog: pytest.LogCaptureFixture
) -> None:
    taps = [{"path": "head", "column": "head"}]
    hungry = {"build": "toolbox:hungry_model", "batch_rows": 16}
    sated = {"build": "toolbox:sated_model", "batch_rows": 16}
    toolbox.HUNGRY_ROWS.clear()
    plan = counting.plan(model=hungry, taps=taps, table={"rows_per_part": 8})
    run_plan(plan, beam_args=["--direct_num_workers=1"])
    table = pq.read_table(counting.table)
    other = counting.run(
        model=sated, taps=taps, table={"path": str(counting.directory / "sated")}
    )
    np.testing.assert_allclose(
        stacked(table["head"]), stacked(other["head"]), rtol=1e-6
    )
    assert re.findall(
        r"with (\d+) rows at a time, going on with (\d+)", caplog.text
    ) == [
        ("16", "8"),
        ("8", "4"),
    ]
    # once too large, once too large again, and never again in any shard
    tried = [rows for rows in toolbox.HUNGRY_ROWS if rows > 4]
    assert tried == [16, 8]
    commits = Table(str(counting.table)).read_commits(range(len(plan.shards)))
    assert {commit.device_rows for commit in commits} == {4}
    assert table_status(str(counting.table)).quarantined == 0


@pytest.mark.heavy
def test_a_device_without_memory_for_one_row_fails_the_run(counting: Job) -> None:
    plan = counting.plan(
        model={"build": "toolbox:starved_model", "batch_rows": 2},
        taps=[{"path": "head", "column": "head"}],
    )
    with pytest.raises(
        RuntimeError, match="ran out of memory, even with one row at a time"
    ):
        run_plan(plan)
    assert Table(str(counting.table)).committed() == []


@pytest.mark.heavy
def test_a_fixed_batch_cannot_be_halved(counting: Job) -> None:
    from pipeline import prepare_table

    plan = counting.plan(
        model={"build": "toolbox:hungry_model", "batch_rows": 16},
        taps=[{"path": "head", "column": "head"}],
    )
    prepare_table(plan)
    worker = worker_of(counting.table)
    fixed = FittingTaps(worker.compiled._compiled, None)
    with pytest.raises(RuntimeError, match="the model's fixed batch of 16 rows"):
        fixed({"vec": np.ones((16, 6), np.float32)})
    extract_shard(worker, plan.shards[0])


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_memory_does_not_grow_with_the_dataset(zygote: Zygote, tmp_path: Path) -> None:
    """3 GB go through a process that may take 700 MB more than it has at its start."""
    source = tmp_path / "vec.npy"
    shape = (750_000, 1024)
    written = np.lib.format.open_memmap(source, "w+", np.float32, shape)
    written[::1000] = np.arange(750, dtype=np.float32)[:, None]
    del written  # the zeros between take no room on the disk
    document = {
        "source": {"reader": "numpy", "path": str(source), "feature": "vec"},
        "model": {"build": "toolbox:wide_model", "batch_rows": 512},
        "taps": [{"path": "head", "column": "head"}],
        "table": {"path": str(tmp_path / "table"), "rows_per_part": 200_000},
    }
    log = tmp_path / "log"
    assert zygote.run("run", log, config=document, room=700 << 20) == 0, log.read_text()
    assert (
        pq.read_table(tmp_path / "table", columns=["example_id"]).num_rows == shape[0]
    )
    # the limit is one: what held the dataset would not fit
    assert zygote.run("take", log, room=700 << 20, size=1 << 30) == 1
    assert "MemoryError" in log.read_text()
