"""A shard in processes that die: with scripts in their place, and with real ones."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transforms import child_process
from transforms.batch import Extracted
from transforms.child_process import Child, exit_text
from transforms.errors import isolate
from transforms.errors.failure import Failure
from transforms.errors.isolate import AtRow, Finished, Made, Request, isolated_rows
from transforms.shard import Piece, Shard

SHARD = Shard(3, (Piece("s3://far/a", "a", 0, 40),))
NEAR = (Piece("/near/a", "a", 0, 40),)
REQUEST = Request("/table", "seal", SHARD, NEAR, {"s3://far/model": "/near/model"})


def made(rows: Iterable[int], following: int, bad: Iterable[int] = ()) -> Made:
    """What a process sends of some rows."""
    positions = np.array([*rows], np.int64)
    batch = pa.record_batch({"example_id": positions})
    failures = tuple(Failure(at, "infer", "E", "") for at in bad)
    return Made((Extracted(batch, positions, {}),), failures, following)


@dataclass
class Scripted:
    """Stands for a process that sends some messages, and dies."""

    messages: Iterator[Any]
    end: str
    closed: bool = False

    def receive(self) -> Any:
        assert not self.closed
        for message in self.messages:
            return message
        raise EOFError

    def death(self) -> str:
        return self.end

    def close(self) -> None:
        self.closed = True


@dataclass
class Run:
    """What came of a shard, in order."""

    requests: list[Request] = field(default_factory=list)
    events: list[tuple[str, int]] = field(default_factory=list)
    deaths: list[Failure] = field(default_factory=list)
    started: list[Scripted] = field(default_factory=list)

    def rows(self) -> Iterator[Extracted]:
        """Compute the shard."""

        def failed(failure: Failure) -> None:
            assert not failure.rest_lost
            died = failure.stage == "crash"
            self.events.append(("died" if died else "bad", failure.position))
            if died:
                self.deaths.append(failure)

        for rows in isolated_rows(REQUEST, failed):
            self.events += [("row", int(at)) for at in rows.positions]
            yield rows

    def all(self) -> list[tuple[str, int]]:
        """Compute all of the shard."""
        for rows in self.rows():
            assert rows.rows["example_id"].to_pylist() == rows.positions.tolist()
        return self.events

    @property
    def asked(self) -> list[tuple[int, bool]]:
        return [(request.start, request.careful) for request in self.requests]


Program = Callable[[Request], Iterable[Any]]


def played(patch: pytest.MonkeyPatch, program: Program, end: str = "fell") -> Run:
    """Let a script do what processes would."""
    run = Run()

    def start(name: str, request: Request) -> Scripted:
        assert name == "transforms.programs.isolated_rows"
        assert all(child.closed for child in run.started)
        run.requests.append(request)
        run.started.append(Scripted(iter(program(request)), end))
        return run.started[-1]

    patch.setattr(child_process, "start", start)
    return run


def scripts(patch: pytest.MonkeyPatch, *messages: list[Any]) -> Run:
    """Let each process send what stands in one list."""
    remaining = iter(messages)
    return played(patch, lambda _: next(remaining))


def test_a_process_that_lives_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = [made([0, 1], 3, bad=[2]), made([3], 4), made([], 6, bad=[4, 5]), Finished()]
    run = scripts(monkeypatch, [*sent, AtRow(9)])
    kinds = ["bad", "row", "row", "row", "bad", "bad"]
    assert run.all() == list(zip(kinds, [2, 0, 1, 3, 4, 5], strict=True))
    assert run.requests == [REQUEST]
    assert run.started[0].closed
    assert next(run.started[0].messages) == AtRow(9)


def test_a_row_at_which_a_process_dies_is_set_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = scripts(
        monkeypatch,
        [made([0, 1], 2)],
        [AtRow(2), made([2], 3), AtRow(3)],
        [AtRow(4), made([4], 5), made([5, 6], 7), Finished()],
    )
    rows = [("row", 0), ("row", 1), ("row", 2), ("died", 3)]
    assert run.all() == [*rows, ("row", 4), ("row", 5), ("row", 6)]
    assert run.asked == [(0, False), (2, True), (4, True)]
    (error,) = run.deaths
    assert error.exception == "ProcessDiedError"
    assert error.message == "a worker process fell at this row"
    assert all(child.closed for child in run.started)


def test_a_row_that_was_made_is_not_what_a_process_died_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = scripts(
        monkeypatch,
        [],
        [AtRow(0), made([0], 1), AtRow(1), made([], 2, bad=[1])],
        [AtRow(2), made([2], 3), Finished()],
    )
    assert run.all() == [("row", 0), ("bad", 1), ("row", 2)]
    assert run.asked == [(0, False), (0, True), (2, True)]


@pytest.mark.parametrize("progress", [0, 5])
def test_a_process_that_dies_before_its_first_row_does_so_twice_at_most(
    progress: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [made(range(progress), progress)] if progress else []
    run = scripts(monkeypatch, first, [], [Finished()])
    message = (
        "the worker process for shard 3 fell before its first row, so no row is to"
        " blame; its output is above"
    )
    with pytest.raises(RuntimeError, match=message):
        run.all()
    assert run.asked == [(0, False), (progress, True)]
    assert run.events == [("row", at) for at in range(progress)]
    assert all(child.closed for child in run.started)


def test_a_row_is_not_what_the_process_after_it_died_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = scripts(monkeypatch, [made([0], 1)], [AtRow(1)], [])
    with pytest.raises(RuntimeError, match="shard 3 fell before its first row"):
        run.all()
    assert run.events == [("row", 0), ("died", 1)]
    assert run.asked == [(0, False), (1, True), (2, True)]


@pytest.mark.parametrize("careful_deaths", [18, 19])
def test_at_most_20_processes_die_at_a_shard(
    careful_deaths: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = [[AtRow(2 * at)] for at in range(careful_deaths)]
    run = scripts(monkeypatch, [], *named, [Finished()])
    deaths = [("died", 2 * at) for at in range(careful_deaths)]
    if careful_deaths == 18:
        assert run.all() == deaths
        return
    with pytest.raises(
        RuntimeError,
        match=r"20 processes died at shard 3 \(the last fell\), which is the most",
    ):
        run.all()
    assert run.events == deaths
    assert len(run.started) == 20


def test_deaths_at_no_row_in_particular_end_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = played(monkeypatch, lambda asked: [made([asked.start], asked.start + 1)])
    with pytest.raises(RuntimeError, match="20 processes died at shard 3"):
        run.all()
    assert run.events == [("row", at) for at in range(20)]


def test_what_a_process_failed_of_is_told_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = scripts(monkeypatch, [made([0], 1), AtRow(1), Finished("OSError: busy")])
    with pytest.raises(RuntimeError, match=r"^OSError: busy$"):
        run.all()
    assert (run.events, run.asked) == ([("row", 0)], [(0, False)])
    assert run.started[0].closed


def test_whoever_wants_no_more_rows_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = scripts(monkeypatch, [made([0], 1), made([1], 2), Finished()])
    rows = run.rows()
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert run.started[0].closed
    assert run.events == [("row", 0)]


@dataclass(frozen=True)
class Rows:
    """Rows, and a program over them that does as the true one."""

    count: int
    batch_rows: int
    deadly: frozenset[int]
    bad: frozenset[int]

    def sent(self, rows: range) -> Made:
        sound = [row for row in rows if row not in self.bad]
        return made(sound, rows.stop, sorted(self.bad & {*rows}))

    def program(self, request: Request) -> Iterator[Any]:
        at = request.start
        if request.careful:
            for row in range(at, min(at + self.batch_rows, self.count)):
                yield AtRow(row)
                if row in self.deadly:
                    return
                yield self.sent(range(row, row + 1))
                at = row + 1
        for first in range(at, self.count, self.batch_rows):
            rows = range(first, min(first + self.batch_rows, self.count))
            if self.deadly & {*rows}:
                return
            yield self.sent(rows)
        yield made([], self.count)
        yield Finished()


some = st.frozensets(st.integers(0, 29), max_size=9)


@given(st.builds(Rows, st.integers(0, 30), st.integers(1, 8), some, some))
@example(Rows(6, 3, frozenset({0, 1, 5}), frozenset({2, 3})))
@example(Rows(3, 8, frozenset({0, 1, 2}), frozenset()))
def test_each_row_comes_once_and_in_order_whichever_kill(rows: Rows) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run = played(patch, rows.program)
        run.all()
    numbers = range(rows.count)
    for kind, expected in {
        "row": [row for row in numbers if row not in rows.deadly | rows.bad],
        "bad": [row for row in numbers if row in rows.bad - rows.deadly],
        "died": [row for row in numbers if row in rows.deadly],
    }.items():
        assert [at for event, at in run.events if event == kind] == expected
    # by which a row that kills costs two processes
    assert len(run.started) <= 1 + 2 * len([*filter(rows.deadly.__contains__, numbers)])


PROGRAM = """
import os
import signal

from transforms import child_process
from transforms.errors.isolate import AtRow, Finished, Made


def main():
    pipe, request = child_process.parent()
    if not request.careful:  # all that it has sent counts
        for row in range(100):
            pipe.send(Made((), (), row))
        os.kill(os.getpid(), signal.SIGKILL)
    pipe.send(AtRow(request.start))
    if request.start == 99:
        os.kill(os.getpid(), signal.SIGSEGV)
    if request.start == 100:  # what it has forked holds the pipe
        if os.fork():
            os._exit(5)
        signal.pause()
    if request.start == 101:  # it lives on, deaf and dumb
        pipe.close()
        signal.pause()
    pipe.send(Made((), (), request.start))
    pipe.send(Finished(f"{request.table} from {request.start}"))
    signal.pause()
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """Real processes of a small program in the place of the true one."""
    (tmp_path / "small_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(isolate, "_PROGRAM", "small_program")
    monkeypatch.setattr(child_process, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(child_process, "_ENDING_SECONDS", 2)
    real, processes = child_process.start, []

    def start(program: str, request: Request) -> Child:
        processes.append(real(program, request))
        return processes[-1]

    monkeypatch.setattr(child_process, "start", start)
    return processes


def test_real_processes_tell_how_they_die(started: list[Child]) -> None:
    run = Run()
    with pytest.raises(RuntimeError, match=r"^/table from 102$"):
        run.all()
    assert run.events == [("died", 99), ("died", 100), ("died", 101)]
    said = [failure.message.removeprefix("a worker process ") for failure in run.deaths]
    assert said == [
        "died of SIGSEGV at this row",
        "ended with exit code 5 at this row",
        "died of SIGKILL at this row",
    ]
    codes = [child.process.returncode for child in started]
    assert codes[:3] == [-signal.SIGKILL, -signal.SIGSEGV, 5]
    assert codes[3:] == [-signal.SIGKILL] * 2
    assert all(child.pipe.closed for child in started)


def test_all_that_a_dead_process_has_sent_is_received(started: list[Child]) -> None:
    request = REQUEST
    child = child_process.start("small_program", request)
    child.process.wait()
    assert [child.receive().next for _ in range(100)] == [*range(100)]
    with pytest.raises(EOFError):
        child.receive()
    assert child.death() == "died of SIGKILL"
    child.close()


def test_a_process_that_cannot_take_its_request_has_died(started: list[Child]) -> None:
    child = child_process.start("no_such_program", None)
    with pytest.raises(EOFError):
        child.receive()
    assert child.death() == "ended with exit code 1"
    child.close()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "ended with exit code 0"),
        (137, "ended with exit code 137"),
        (-signal.SIGKILL, "died of SIGKILL"),
        (-signal.SIGBUS, "died of SIGBUS"),
    ],
)
def test_the_end_of_a_process_is_told_by_name(code: int, text: str) -> None:
    assert exit_text(code) == text


def test_the_end_of_a_process_is_told_whatever_the_signal() -> None:
    assert str(signal.SIGRTMIN + 1) in exit_text(-(signal.SIGRTMIN + 1))
