"""kill -9 and losses of power at every step; and proof that these tests can fail."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from jobs import job_document, outcome
from zygote import Zygote

NAMED = [
    f"{when} {step}"
    for step in ("batches", "write", "publish", "create_commit", "_tidy", "link")
    for when in ("before", "after")
]
RANDOM_KILLS = 200


def resumed(zygote: Zygote, table: Path) -> dict[str, bytes]:
    log = table.parent / "resumed.log"
    code = zygote.run("run", log, config=job_document(table))
    assert code == 0, log.read_text()
    return outcome(table)


def fault_of(zygote: Zygote, table: Path, whole: dict[str, bytes]) -> str:
    """Say how resuming did not give the same table; nothing if it did."""
    try:
        return "" if resumed(zygote, table) == whole else "another table"
    except AssertionError as error:
        return str(error) or "a check failed"


@pytest.mark.parametrize("step", NAMED)
def test_a_run_killed_at_a_step_goes_on_to_the_same_table(
    step: str, zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    table = tmp_path / "table"
    code = zygote.run("run", config=job_document(table), die_at=step)
    assert code == -signal.SIGKILL
    assert not (table / "_SUCCESS").exists() or step == "after _tidy"
    assert resumed(zygote, table) == whole


def steps_of(zygote: Zygote, directory: Path, plant: str = "") -> list[str]:
    names = directory / "steps"
    table = directory / "counted"
    config = job_document(table)
    assert zygote.run("run", config=config, count=str(names), plant=plant) == 0
    return names.read_text().splitlines()


def faults_of_kills(
    zygote: Zygote, whole: dict[str, bytes], directory: Path, plant: str = ""
) -> list[str]:
    """Kill runs at each of their steps in turn; say where resuming did not help."""
    faults = []
    for number, name in enumerate(steps_of(zygote, directory, plant), start=1):
        table = directory / f"t{number}"
        config = job_document(table)
        code = zygote.run("run", config=config, die_at=number, plant=plant)
        assert code == -signal.SIGKILL
        if fault := fault_of(zygote, table, whole):
            faults.append(f"{number} {name}: {fault}")
        shutil.rmtree(table, ignore_errors=True)
    return faults


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_a_run_killed_at_any_of_its_steps_goes_on_to_the_same_table(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert faults_of_kills(zygote, whole, tmp_path) == []


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_committing_before_the_upload_is_caught(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    faults = faults_of_kills(zygote, whole, tmp_path, "commit before upload")
    assert any("every committed file must be there" in fault for fault in faults)


def faults_of_power(
    zygote: Zygote,
    whole: dict[str, bytes],
    directory: Path,
    plant: str = "",
    every: int = 1,
) -> list[str]:
    """Lose power at each step of a run; say where resuming did not help."""
    table, disk = directory / "table", directory / "disk"
    disk.mkdir()
    config = job_document(table)
    log = directory / "log"
    code = zygote.run("run", log, config=config, disk=str(disk), plant=plant)
    assert code == 0, log.read_text()
    left = sorted(disk.iterdir(), key=lambda path: int(path.name.split("-")[0]))
    assert len(left) > 20
    faults, seen = [], set()
    if not (disk / left[-1].name.replace("bytes", "all") / "_SUCCESS").exists():
        faults.append("a table that was finished is lost")
    for state in left[::every]:
        content = {
            str(path.relative_to(state)): path.read_bytes()
            for path in state.rglob("*")
            if path.is_file()
        }
        if (key := repr(sorted(content.items()))) in seen:
            continue
        seen.add(key)
        shutil.rmtree(table, ignore_errors=True)
        shutil.copytree(state, table)
        if fault := fault_of(zygote, table, whole):
            faults.append(f"{state.name}: {fault}")
    return faults


def test_a_loss_of_power_loses_nothing_that_is_committed(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert faults_of_power(zygote, whole, tmp_path, every=17) == []


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_a_loss_of_power_at_any_step_loses_nothing_that_is_committed(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert faults_of_power(zygote, whole, tmp_path) == []


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        ("skip fsync of files", "assert 1 == 0"),
        ("skip fsync of directories", "a table that was finished is lost"),
        ("skip fsync of the part's directory", "every committed file must be there"),
    ],
)
def test_a_skipped_fsync_is_caught(
    plant: str, fault: str, zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert fault in "\n".join(faults_of_power(zygote, whole, tmp_path, plant))


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_runs_killed_at_random_times_go_on_to_the_same_table(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    table, ready = tmp_path / "table", tmp_path / "ready"
    seed = int(os.environ.get("FAULTS_SEED", random.randrange(1 << 32)))
    print(f"FAULTS_SEED={seed}")
    draw = random.Random(seed)
    kills, longest = 0, 1.0
    while kills < RANDOM_KILLS:
        ready.unlink(missing_ok=True)
        pid = zygote.start("run", config=job_document(table), ready=str(ready))
        while not ready.exists():
            time.sleep(0.005)
        time.sleep(draw.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        code = zygote.wait(pid)
        kills += code == -signal.SIGKILL
        longest *= 1.05  # rows in isolation, after many deaths, need seconds
        if (table / "_SUCCESS").exists():
            longest *= 0.7
            assert outcome(table) == whole, f"FAULTS_SEED={seed}"
            shutil.rmtree(table)
    assert resumed(zygote, table) == whole, f"FAULTS_SEED={seed}"
