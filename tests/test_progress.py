"""What a user sees while a run goes on: within shards, on terminals and elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import Job, worker_of
from samples import commit, planned, table_plan
from toolbox import wait_until

from pipeline import follow, prepare_table
from pipeline.diverted import DivertedStderr
from pipeline.follow import Follower, Reached
from pipeline.progress import Bar, Lines, shown_progress
from transforms import progress, storage
from transforms.extract import extract_shard
from transforms.progress import Progress
from transforms.table.directory import Table
from transforms.table.plan_file import claim_table, read_claim, write_plan

EARLY = Reached(288, 600, 3, 1, 5, 48.4, 6.4)
MANY = 10**9
LONGEST = Reached(MANY, MANY, 10**7, 10**6, 10**6, 1234567.0, 359_999.0)


@pytest.mark.parametrize(
    ("reached", "text"),
    [
        (EARLY, "48%: 288 of 600 rows, 48/s, 0:06 left, 3 bad"),
        (Reached(0, 600, 0, 0, 5, None, None), "0%: 0 of 600 rows"),
        (Reached(6, 6, 0, 5, 5, 2.25, 0.0), "100%: 6 of 6 rows, 2.2/s, 0:00 left"),
        (Reached(9, None, 0, 1, 5, 3.0, 12), "9 rows, 1 of 5 shards, 3.0/s, 0:12 left"),
        (Reached(9, None, 1, 0, 5, None, None), "9 rows, 0 of 5 shards, 1 bad"),
    ],
)  # fmt: skip
def test_how_far_a_run_is_is_one_line(reached: Reached, text: str) -> None:
    assert reached.text() == text


def test_the_longest_line_leaves_room_for_a_bar_in_80_columns() -> None:
    assert len(LONGEST.text()) <= 76


@pytest.fixture
def table() -> Iterator[Table]:
    """A planned table of three shards, 4 rows each, without a worker."""
    table = Table("memory://direct/followed")
    storage.remove_tree(table.uri)
    yield table
    for shard in progress.at_work():
        progress.forget(shard)


def plan_into(table: Table, rows: int | None) -> None:
    plan = table_plan(rows=rows)
    claim_table(table, plan)
    write_plan(table, plan, planned().shards, read_claim(table))


def test_rows_at_work_count_until_their_shard_is_committed(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_into(table, 30)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    follower = Follower(table.uri)
    assert follower.look() == Reached(0, 30, 0, 0, 3, None, None)
    progress.report(0, Progress(6, 1))
    progress.report(2, Progress(4, 0))
    now += 2
    assert follower.look() == Reached(10, 30, 1, 0, 3, 5.0, 4.0)
    table.create_commit(commit(0, 2))  # and not yet forgotten
    now += 2
    assert follower.look() == Reached(14, 30, 2, 1, 3, 3.5, 16 / 3.5)
    progress.forget(0)
    progress.forget(2)  # a worker died
    assert follower.look() == Reached(10, 30, 2, 1, 3, 2.5, 8.0)


def test_rows_that_only_reading_tells_are_estimated_from_shards_that_are_done(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_into(table, None)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    follower = Follower(table.uri)
    follower.look()
    progress.report(1, Progress(2, 0))
    now += 1
    assert follower.look() == Reached(2, None, 0, 0, 3, 2.0, None)
    table.create_commit(commit(0))
    now += 3
    assert follower.look() == Reached(12, None, 0, 1, 3, 3.0, (30 - 12) / 3)


def test_speed_is_that_of_the_last_half_minute(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_into(table, 10_000)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    follower = Follower(table.uri)
    for rows in [0] * 60 + list(range(10, 610, 10)):
        now += 1
        progress.report(0, Progress(rows, 0))
        speed = follower.look().per_second
    assert speed == 10
    assert len(follower._looks) <= follow._SPEED_SECONDS + 2


def test_a_shard_says_after_each_batch_how_far_it_is(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[int, Progress]] = []
    report = progress.report

    def spy(shard: int, reached: Progress) -> None:
        said.append((shard, reached))
        report(shard, reached)
        assert progress.at_work() == {shard: reached}

    monkeypatch.setattr(progress, "report", spy)
    plan = job.plan(
        source={"preprocess": ["toolbox:refuse_thirteen"]},
        model={"batch_rows": 8},
        table={"rows_per_part": 40},
    )
    prepare_table(plan)
    commit = extract_shard(worker_of(job.table), plan.shards[0])
    assert {shard for shard, _ in said} == {0}
    rows = [reached.rows for _, reached in said]
    assert rows == sorted(rows)
    assert len(rows) >= 4
    assert said[-1][1] == Progress(commit.planned_rows, commit.quarantined)
    assert commit.quarantined == 1
    assert progress.at_work() == {}


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines = Lines()
    for moment, rows in ((10, 1), (30, 2), (40, 3), (60, 2), (90, 4)):
        now = float(moment)
        lines.show(Reached(rows, 8, 0, 0, 1, None, None))
    said = ["featuretap: 25%: 2 of 8 rows", "featuretap: 50%: 4 of 8 rows"]
    assert capsys.readouterr().err.splitlines() == said


def test_a_short_run_without_a_terminal_says_nothing(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_into(table, 30)
    with shown_progress(table.uri):
        progress.report(0, Progress(6, 1))
    assert capsys.readouterr().err == ""


END = b"<no more>"


class Terminal:
    """A terminal of 80 columns, which stderr is for the length of a block.

    Not a fixture: pytest puts its own file in place before each test.

    Attributes:
      said: what was written to it so far.
    """

    def __enter__(self) -> Terminal:
        self._master, self._slave = pty.openpty()
        size = struct.pack("HHHH", 24, 80, 0, 0)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, size)
        self.said = ""
        self._saved = os.dup(2), sys.stderr
        os.dup2(self._slave, 2)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        saved, sys.stderr = self._saved
        os.dup2(saved, 2)
        os.write(self._slave, END)
        self._reader.join()
        for descriptor in (saved, self._slave, self._master):
            os.close(descriptor)

    def _read(self) -> None:
        said = b""
        while not said.endswith(END):
            said += os.read(self._master, 4096)
            self.said = said.removesuffix(END).decode(errors="replace")

    def is_back(self) -> bool:
        return os.ttyname(2) == os.ttyname(self._slave)


@pytest.fixture(autouse=True)
def capable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FEATURETAP_DEBUG", raising=False)


def rows_of(said: str) -> list[str]:
    """What stood in the rows of the terminal, one after the other."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", row) for row in said.split("\r\n")]


def drawn(said: str) -> list[str]:
    """Everything that was drawn, however it was overwritten."""
    return [one for row in rows_of(said) for one in row.split("\r")]


def test_nothing_that_is_written_to_stderr_breaks_the_bar() -> None:
    long = "W tensorflow/core: " + "x" * 100
    with Terminal() as terminal:
        bar = Bar()
        bar.show(EARLY)
        print("from Python", file=sys.stderr)
        os.write(2, f"{long}\nhalf a ".encode())
        os.write(2, b"line\n")
        subprocess.run(["sh", "-c", "echo from a child >&2"], check=True)
        wait_until(lambda: EARLY.text() in terminal.said)
        bar.show(LONGEST)
        os.write(2, b"password=hunter2hunter2 \xff no end")
        bar.close()
        bar.close()  # as when a signal comes at the end
        assert terminal.is_back()
        os.write(2, b"afterwards\n")
    lines = [row.rpartition("\r")[2] for row in rows_of(terminal.said)]
    for line in ("from Python", long, "half a line", "from a child", "afterwards"):
        assert line in lines  # whole, and alone in its row
    assert any("\\xff no end" in line for line in lines)
    assert "hunter2hunter2" not in terminal.said
    bars = [one for one in drawn(terminal.said) if "rows" in one]
    assert EARLY.text() in bars[0]
    assert LONGEST.text() in bars[-1]
    assert {len(one) for one in bars} == {80}


def test_on_a_terminal_a_run_ends_with_a_whole_bar(table: Table) -> None:
    plan_into(table, 30)
    with Terminal() as terminal:
        with shown_progress(table.uri):
            for shard in range(3):
                table.create_commit(commit(shard))
        assert terminal.is_back()
    bars = [one for one in drawn(terminal.said) if "rows" in one]
    assert bars[-1].rstrip().endswith("━ 100%: 30 of 30 rows")


@pytest.mark.parametrize(
    ("name", "value"), [("FEATURETAP_DEBUG", "1"), ("TERM", "dumb")]
)
def test_a_bar_is_not_for_debugging_nor_for_terminals_that_cannot_draw(
    table: Table, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    plan_into(table, 30)
    with Terminal() as terminal, shown_progress(table.uri):
        assert terminal.is_back()
    assert terminal.said == ""


def test_a_process_that_outlives_the_run_does_not_hold_it_up() -> None:
    lines: list[str] = []
    with Terminal() as terminal:
        diverted = DivertedStderr(lines.append)
        child = subprocess.Popen(["sleep", "600"])
        os.write(2, b"one\ntwo")
        diverted.end()
        diverted.terminal.close()
        assert child.poll() is None
    child.kill()
    child.wait()
    assert lines == ["one", "two"]
    assert terminal.said == ""
