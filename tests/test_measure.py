"""Measure works in threads, and look at the machine."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from toolbox import wait_until

from pipeline.tune import machine
from pipeline.tune import measure as module
from pipeline.tune.machine import Load, available_bytes
from pipeline.tune.measure import Work, measure


class Clock:
    """Counts what works do, and that they are closed."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.closed = 0
        self.threads: set[int] = set()

    def work(self, rows: int = 1, seconds: float = 0.0, pieces: int = 1 << 30) -> Work:
        try:
            for piece in range(pieces):
                self.threads.add(threading.get_ident())
                time.sleep(seconds)
                self.done.append(f"{piece}")
                yield rows
        finally:
            self.closed += 1


def test_each_work_has_a_thread_and_is_closed() -> None:
    clock = Clock()
    found = measure([clock.work(seconds=0.01) for _ in range(3)], 0.1, cores=3)
    assert clock.closed == 3
    assert threading.get_ident() not in clock.threads
    assert len(clock.threads) >= 2
    assert found.rows == len(clock.done) - 3


def test_what_warms_up_does_not_count() -> None:
    clock = Clock()
    found = measure([clock.work(rows=10, pieces=3)], 0.0, cores=1)
    assert found.rows == 10
    assert clock.done == ["0", "1"]


def test_at_least_one_piece_counts_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_queued_seconds", dict)
    found = measure([Clock().work(rows=7, seconds=0.05)], 0.001, cores=1)
    assert found.rows == 7
    assert found.seconds >= 0.04


def test_rates_of_threads_add_up() -> None:
    """A thread that ends late does not make the others slower."""
    quick, slow = Clock().work(5, 0.01), Clock().work(1, 2.0)
    found = measure([quick, slow], 0.05, cores=2)
    assert found.rate is not None
    assert found.rate > found.rows / 2.0
    assert found.cpu_seconds < found.seconds


def test_work_that_ends_by_itself_has_been_measured() -> None:
    clock = Clock()
    assert measure([clock.work(pieces=4)], 10.0, cores=1).rows == 3
    assert measure([clock.work(pieces=0)], 10.0, cores=1).rate is None


def test_an_exception_ends_all_works() -> None:
    clock = Clock()

    def failing() -> Work:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        measure([clock.work(seconds=0.01), failing()], 60.0, cores=2)
    assert clock.closed == 1


def test_an_exception_while_warming_up_ends_all_works() -> None:
    clock = Clock()

    def failing() -> Work:
        raise ValueError("not even one")
        yield 1

    with pytest.raises(ValueError, match="not even"):
        measure([clock.work(), failing()], 60.0, cores=2)
    assert (clock.done, clock.closed) == (["0"], 1)


def test_ctrl_c_ends_all_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised in the thread that waits for them, at the piece at hand."""
    clock = Clock()

    class Pool(module.ThreadPoolExecutor):
        calls = 0

        def map(self, *arguments: Any, **options: Any) -> Any:
            made = super().map(*arguments, **options)
            Pool.calls += 1
            if Pool.calls == 2:
                wait_until(lambda: len(clock.done) > 3)
                raise KeyboardInterrupt
            return made

    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        measure([clock.work(seconds=0.01)], 60.0, cores=1)
    assert clock.closed == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("tune")]


def test_waiting_for_a_core_that_others_have_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that works was ready for all of the time that it was not asleep."""
    queued = iter([{"1": 5.0}, {"1": 5.06, "2": 0.02}])
    monkeypatch.setattr(module, "_queued_seconds", lambda: next(queued))
    found = measure([Clock().work(seconds=0.05) for _ in range(2)], 0.09, cores=2)
    assert 0.04 < found.seconds < 0.5
    monkeypatch.setattr(module, "_queued_seconds", dict)
    again = measure([Clock().work(seconds=0.05) for _ in range(2)], 0.09, cores=2)
    assert again.seconds >= 0.099


def test_no_stage_is_faster_than_its_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads wait for each other too, where there are more of them than cores."""

    def busy() -> Work:
        while True:
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            yield 1

    queued = iter([{}, {"1": 1e6}])
    monkeypatch.setattr(module, "_queued_seconds", lambda: next(queued))
    found = measure([busy()], 0.05, cores=2)
    assert found.seconds == pytest.approx(found.cpu_seconds / 2)


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the system does not count this"
)
def test_the_system_is_asked_how_long_threads_were_ready() -> None:
    found = module._queued_seconds()
    assert str(threading.get_native_id()) in found
    assert all(seconds >= 0 for seconds in found.values())


def test_there_is_memory_to_spare() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes() <= total


def test_a_container_may_have_less_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = available_bytes()
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500\nfile 9\n")
    assert available_bytes() == 3500
    (tmp_path / "memory.current").write_text("20000\n")
    assert available_bytes() == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() > whole // 2


class Stat:
    """What the system says of its cores."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cores: int = 2) -> None:
        self.busy, self.own, self.now = 10.0, 1.0, 0.0
        monkeypatch.setattr(machine, "_busy_seconds", lambda: self.busy)
        monkeypatch.setattr(machine.time, "process_time", lambda: self.own)
        monkeypatch.setattr(machine.time, "monotonic", lambda: self.now)


def test_what_others_do_is_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Stat(monkeypatch)
    load = Load()
    stat.busy, stat.own, stat.now = 25.0, 6.0, 10.0
    assert load.of_others() == pytest.approx(1.0)
    stat.own = 30.0  # ticks are coarse
    assert load.of_others() == 0.0


def test_what_others_do_may_not_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = Stat(monkeypatch)
    load = Load()
    stat.busy = None  # type: ignore[assignment]
    assert load.of_others() is None


def test_the_system_counts_busy_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "cpu_count", lambda: len(os.sched_getaffinity(0)))
    before = machine._busy_seconds()
    if before is None:
        pytest.skip("there is no /proc/stat")
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    after = machine._busy_seconds()
    assert after is not None
    assert after > before > 0


def test_of_some_of_the_cores_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 10_000)
    assert machine._busy_seconds() is None
    assert Load().of_others() is None
