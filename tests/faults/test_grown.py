"""kill -9 at every step of a run that takes rows over from earlier tables."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import vectors, write_parquet
from jobs import outcome
from zygote import Zygote

HIDDEN = {"path": "features:activation_1", "column": "hidden"}
HEAD = {"path": "head"}
STEM = {"path": "stem"}
BEFORE = {"a": [HIDDEN, HEAD], "b": [HEAD], "c": [HIDDEN, HEAD, STEM]}
"""Tables that there are, by the file that each is made of; file d is new."""
CHANGES = {"after link", "after replace", "after unlink"}
"""Steps after which files have other names."""


@dataclass(frozen=True)
class History:
    """A source, and earlier tables of some of its files.

    Attributes:
      zygote: starts the processes to kill.
      directory: with everything.
    """

    zygote: Zygote
    directory: Path

    def make(self, table: Path, **faults: Any) -> int:
        """Make a table from the earlier ones; give the exit code."""
        earlier = [str(self.directory / name) for name in BEFORE]
        document = self.document(table, self.directory / "data", [HIDDEN, HEAD])
        return self.zygote.run(
            "run", self.log, config=document, earlier=earlier, **faults
        )

    def document(self, table: Path, path: Path, taps: list[Any]) -> dict[str, Any]:
        """A job over a file or all of them."""
        return {
            "source": {"reader": "parquet", "path": str(path), "key": "id"},
            "model": {"build": "toolbox:dict_model", "batch_rows": 8},
            "taps": taps,
            "table": {"path": str(table), "rows_per_part": 16},
        }

    def earlier_files(self) -> dict[str, tuple[int, bytes]]:
        """Inodes and bytes of the earlier tables and of the source."""
        files = [
            file
            for name in (*BEFORE, "data")
            for file in (self.directory / name).rglob("*")
            if file.is_file()
        ]
        return {str(file): (file.stat().st_ino, file.read_bytes()) for file in files}

    @property
    def log(self) -> Path:
        """What the processes say."""
        return self.directory / "log"


@pytest.fixture(scope="module")
def history(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> History:
    made = History(zygote, tmp_path_factory.mktemp("history"))
    data = made.directory / "data"
    data.mkdir()
    for index, name in enumerate("abcd"):
        ids = range(12 * index, 12 * index + 12)
        write_parquet(data / f"{name}.parquet", ids, vectors(), 4)
    for name, taps in BEFORE.items():
        file, table = data / f"{name}.parquet", made.directory / name
        config = made.document(table, file, taps)
        assert zygote.run("run", made.log, config=config) == 0, made.log.read_text()
    return made


def grown(history: History, table: Path) -> dict[str, bytes]:
    """Make a table, or go on with it; give what it holds, and nothing else it may."""
    assert history.make(table) == 0, history.log.read_text()
    found = outcome(table)
    assert {file.name for file in (table / "data").iterdir()} == found.keys() - {"m"}
    return found


@pytest.mark.parametrize(
    "step", ["before publish", "before create_commit", "before _tidy"]
)
def test_a_grown_table_killed_at_a_step_goes_on_to_the_same_table(
    step: str, history: History, tmp_path: Path
) -> None:
    assert history.make(tmp_path / "table", die_at=step) == -signal.SIGKILL
    whole = grown(history, tmp_path / "whole")
    assert grown(history, tmp_path / "table") == whole


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_a_grown_table_killed_after_any_deed_goes_on_to_the_same_table(
    history: History, tmp_path: Path
) -> None:
    """After each that gives a file a name, or takes it."""
    earlier = history.earlier_files()
    whole, names = tmp_path / "whole", tmp_path / "steps"
    assert history.make(whole, count=str(names)) == 0, history.log.read_text()
    expected = grown(history, whole)
    made = json.loads((whole / "_SUCCESS").read_text())["made"]
    assert set(made) == {"carried", "extended", "projected", "computed"}
    deeds = [
        (number, step)
        for number, step in enumerate(names.read_text().splitlines(), start=1)
        if step in CHANGES
    ]
    assert {step for _, step in deeds} == CHANGES
    for number, step in deeds:
        table = tmp_path / f"{number}"
        assert history.make(table, die_at=number) == -signal.SIGKILL, step
        assert grown(history, table) == expected, step
        shutil.rmtree(table)
    assert history.earlier_files() == earlier
