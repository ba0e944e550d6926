"""Runs that are to end soon: short shards are finished, long ones left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from toolbox import wait_until

from pipeline import make_plan, run_plan, verify_table
from pipeline.config_file import parse_config
from transforms import progress
from transforms.stop import StoppedError, leave_if_long, stopping
from transforms.table.directory import Table

ROWS = 200


@pytest.fixture(autouse=True)
def going() -> Iterator[None]:
    yield
    stopping.clear()


@pytest.mark.parametrize(
    ("seconds", "done", "rows", "leaves"),
    [
        (2.0, 10, 30, False),  # 4 seconds are left
        (2.0, 10, 36, True),  # 5.2
        (60.0, 100, 100, False),  # nothing but to commit
        (0.1, 8, 100_000, True),
    ],
)
def test_a_shard_is_left_if_it_would_take_long(
    seconds: float, done: int, rows: int, leaves: bool
) -> None:
    leave_if_long(seconds, done, rows)  # nobody wants to stop
    stopping.set()
    if leaves:
        with pytest.raises(StoppedError):
            leave_if_long(seconds, done, rows)
    else:
        leave_if_long(seconds, done, rows)


def test_a_shard_of_unknown_rows_is_left_when_it_has_not_ended_in_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stopping.set()
    leave_if_long(1.0, 8, None)
    now = 104.9
    stopping.set()  # again, which does not count
    leave_if_long(1.0, 8, None)
    now = 105.1
    with pytest.raises(StoppedError):
        leave_if_long(1.0, 8, None)


def slow_job(directory: Path) -> dict[str, Any]:
    """One shard that takes 17 seconds, until the file `go` is there."""
    return {
        "source": {
            "reader": "toolbox:SlowReader",
            "sizes": [ROWS],
            "go": str(directory / "go"),
            "seconds": 0.7,
            "key": "id",
        },
        "model": {"build": "toolbox:dict_model", "batch_rows": 8},
        "taps": [{"path": "head"}],
        "table": {"path": str(directory / "table")},
    }


@pytest.mark.parametrize("workers", [None, 1])
def test_a_long_shard_is_left_after_a_batch_and_begun_anew_by_the_next_run(
    workers: int | None, tmp_path: Path
) -> None:
    plan = make_plan(parse_config(slow_job(tmp_path)))
    seen: list[dict[int, progress.Progress]] = []

    def interrupt() -> None:
        wait_until(progress.at_work)  # which workers tell as well
        seen.append(progress.at_work())
        stopping.set()

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        if workers:
            assert run_plan(plan, workers=workers) == {}
        else:
            with pytest.raises(RuntimeError):  # as `run_attended` expects
                run_plan(plan)
    finally:
        interrupting.join()
    assert list(seen[0]) == [0]
    assert 0 < seen[0][0].rows < ROWS
    table = Table(str(tmp_path / "table"))
    assert table.committed() == []
    assert table.attempts() == []
    assert progress.at_work() == {}
    assert [*(tmp_path / "table").rglob("*.parquet")] == [
        tmp_path / "table" / "_featuretap" / "plan.parquet"
    ]
    stopping.clear()
    (tmp_path / "go").touch()
    assert run_plan(plan)["rows"] == ROWS
    assert verify_table(table.uri) == []
    ids = pq.read_table(tmp_path / "table")["example_id"].to_pylist()
    assert ids == list(range(ROWS))
