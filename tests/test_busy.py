"""Does a run say how close it came to its machine's ceiling, and what held it up?"""

from __future__ import annotations

import threading
import time

import pytest
from conftest import Job

from pipeline import run_plan, table_status
from pipeline.busy import how_busy
from transforms import device, usage
from transforms.table.directory import Table
from transforms.usage import Usage, at_work

PHASES = {"read": 1.0, "compute": 2.0, "describe": 0.5, "write": 1.0}


@pytest.mark.parametrize(
    ("changes", "share", "advice"),
    [
        ({"cores": 9.0}, 0.9, "that is all they have"),
        ({"cores": 12.0}, 1.0, "that is all they have"),
        ({"cores": 5.0, "read": 4.0}, 0.5, "its storage may be slow, or a step"),
        ({"cores": 5.0, "describe": 6.0}, 0.5, "statistics of the columns"),
        ({"cores": 5.0, "write": 4.0}, 0.5, "storage of the table"),
        ({"cores": 5.0, "compute": 5.0}, 0.5, "did not fill them"),
        ({"cores": 5.0}, 0.5, "table.rows_per_part"),
        ({"gpu": 9.5}, 0.95, "get more out of it"),
        ({"gpu": 5.0, "read": 5.0}, 0.5, "more cores, or cheaper steps"),
        ({"gpu": 5.0, "write": 5.0}, 0.5, "storage of the table"),
        ({"gpu": 5.0, "compute": 5.0}, 0.5, "did not fill it"),
    ],
)
def test_what_took_most_of_the_time_decides_what_would_be_faster(
    changes: dict[str, float], share: float, advice: str
) -> None:
    found = how_busy({**PHASES, "total": 10.0, **changes})
    assert found is not None
    assert found.share == pytest.approx(share)
    assert found.device == ("gpu" if "gpu" in changes else "cores")
    assert advice in found.advice
    assert found.sentence().endswith(f" {share:.0%} of the time; {found.advice}")


@pytest.mark.parametrize(
    "seconds",
    [{}, {"total": 4.9, "cores": 4.0}, {"total": 10.0}, {"total": 10.0, "cores": 0.0}],
)
def test_little_work_or_none_that_was_counted_tells_nothing(
    seconds: dict[str, float],
) -> None:
    assert how_busy({**PHASES, **seconds}) is None


def test_cores_are_in_use_as_far_as_the_process_uses_all_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent = 7.0
    monkeypatch.setattr(usage.time, "process_time", lambda: spent)
    monkeypatch.setattr(device, "cores", lambda: 4)
    counted = Usage()
    assert counted.seconds() == {"cores": 0.0}
    spent = 9.0
    assert counted.seconds() == {"cores": 0.5}


def test_a_gpu_is_in_use_while_at_least_one_batch_is_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(usage.time, "perf_counter", lambda: now)
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    counted = Usage()
    with at_work():
        now = 101.0
        with at_work():
            now = 103.0
            assert counted.seconds() == {"gpu": 3.0}
        now = 104.0
    now = 109.0
    assert counted.seconds() == {"gpu": 4.0}
    with pytest.raises(ZeroDivisionError), at_work():
        _ = 1 / 0
    assert counted.seconds() == {"gpu": 4.0}


def test_batches_of_several_threads_are_not_counted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    counted, began = Usage(), time.perf_counter()

    def work() -> None:
        with at_work():
            time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed = time.perf_counter() - began
    assert 0.05 <= counted.seconds()["gpu"] + 0.001 <= passed + 0.002


def test_records_and_summary_of_a_run_say_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run_plan(job.plan(table={"rows_per_part": 10}))
    seconds = [c.seconds for c in Table(str(job.table)).read_commits([0, 1])]
    for one in seconds:
        assert one.keys() == {*PHASES, "cores", "total"}
        assert one["cores"] > 0
    total = {name: sum(one[name] for one in seconds) for name in seconds[0]}
    for name in ("compute", "cores", "total"):
        assert summary["phases"][name] >= total[name] - 0.01
    found = table_status(str(job.table))
    assert found.seconds == summary["phases"]
    assert found.busy == how_busy(found.seconds)
    monkeypatch.setattr("pipeline.busy._LEAST_SECONDS", 0)
    found = table_status(str(job.table))
    assert found.busy is not None
    assert found.to_json()["busy"]["device"] == "cores"
