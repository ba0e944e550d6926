"""Notes of workers at shards, and what they tell of deaths."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from samples import ROOTS, root_of

from transforms import storage
from transforms.errors import attempts
from transforms.errors.attempts import attempt, count_deaths, forget_attempts


@pytest.fixture(params=ROOTS)
def root(request: Any, tmp_path: Path) -> str:
    return root_of(request.param, tmp_path)


def noted(root: str) -> list[str]:
    return [storage.join(root, name) for name in storage.list_names(root)]


def left(root: str, **changes: Any) -> str:
    """A note, by default of this process."""
    document = {"shard": 1, "host": socket.gethostname(), "pid": os.getpid()}
    note = storage.join(root, f"00001-{len(noted(root)):08x}.json")
    storage.replace(note, json.dumps({**document, **changes}).encode())
    return note


def test_a_note_is_there_for_the_length_of_an_attempt(root: str) -> None:
    with attempt(root, 12):
        (note,) = noted(root)
        assert re.search(r"/00012-[0-9a-f]{8}\.json$", note)
        assert json.loads(storage.read(note)) == {
            "shard": 12,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
    assert noted(root) == []


def test_an_attempt_that_fails_leaves_no_note_and_its_own_error(root: str) -> None:
    with pytest.raises(ValueError, match="bad row"), attempt(root, 0):
        raise ValueError("bad row")
    assert (noted(root), attempts._own_notes) == ([], set())


def test_attempts_at_one_shard_have_notes_of_their_own(root: str) -> None:
    with attempt(root, 3), attempt(root, 3):
        assert len(set(noted(root))) == 2
    assert noted(root) == []


def test_a_note_that_cannot_be_removed_hides_no_error(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uri: str) -> None:
        raise PermissionError(uri)

    monkeypatch.setattr(storage, "remove", refuse)
    with pytest.raises(ValueError, match="the row"), attempt(root, 0):
        raise ValueError("the row")
    with attempt(root, 1):
        pass


def test_a_process_that_ends_itself_takes_its_own_notes_along(root: str) -> None:
    other = left(root, pid=1)
    with attempt(root, 0), attempt(root, 1):
        assert len(noted(root)) == 3
        forget_attempts()
        assert noted(root) == [other]


def test_a_living_process_of_this_machine_is_no_death(root: str) -> None:
    assert count_deaths([left(root, pid=os.getppid())]) == 0


def test_a_process_of_somebody_else_is_alive(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, signal: int) -> None:
        assert signal == 0
        raise PermissionError(pid)

    monkeypatch.setattr(os, "kill", refuse)
    assert count_deaths([left(root, pid=12345)]) == 0


def test_processes_that_ended_are_deaths(root: str) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    child.wait()
    notes = [left(root, pid=child.pid) for _ in range(3)]
    assert count_deaths([*notes, left(root, pid=os.getppid())]) == 3


def test_what_cannot_be_asked_is_taken_for_dead(root: str) -> None:
    """Another machine's process; one of this number that ended before this began."""
    assert count_deaths([left(root, host="elsewhere", pid=os.getppid())]) == 1
    assert count_deaths([left(root)]) == 1


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b"[]", b"null", b"3", b"{}", b'{"host": "x"}'],
)
def test_a_damaged_note_is_a_death(root: str, data: bytes) -> None:
    note = storage.join(root, "00001-00000000.json")
    storage.replace(note, data)
    assert count_deaths([note]) == 1


@pytest.mark.parametrize("pid", ["x", None, [], {}])
def test_a_note_without_a_number_of_a_process_is_a_death(root: str, pid: Any) -> None:
    assert count_deaths([left(root, pid=pid)]) == 1


def test_a_number_that_no_process_can_have_is_a_death(root: str) -> None:
    assert count_deaths([left(root, pid=2**70)]) == 1


def test_a_note_that_goes_away_meanwhile_is_no_death(root: str) -> None:
    gone = storage.join(root, "00009-ffffffff.json")
    assert count_deaths([gone, left(root, pid=os.getppid())]) == 0
    assert count_deaths([]) == 0
