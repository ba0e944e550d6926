"""The commands of docs/growing.md, one after the other."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import vectors, write_parquet
from typer.testing import CliRunner

from pipeline.cli import app

DOCS = Path(__file__).parent.parent / "docs" / "growing.md"
JOB = """
[source]
reader = "parquet"
path = "data"
key = "id"
[model]
build = "toolbox:dict_model"
[[taps]]
path = "head"
[table]
path = "out"
"""


def commands() -> list[list[str]]:
    """What the document tells people to type, in its order."""
    blocks = re.findall(r"```console\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = "".join(blocks).splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines]


def test_the_commands_of_the_story_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("data", "incoming"):
        (tmp_path / name).mkdir()
    for index, name in enumerate(
        ("data/monday", "incoming/tuesday", "incoming/thursday")
    ):
        ids = range(10 * index, 10 * index + 10)
        write_parquet(tmp_path / f"{name}.parquet", ids, vectors(30), 5)
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "more-taps.toml").write_text(f'{JOB}[[taps]]\npath = "stem"\n')
    (tmp_path / "customers.csv").write_text("id,since\n7,2024\n25,2025\n")
    said = {}
    for program, *arguments in commands():
        if program == "cp":
            shutil.copy(*arguments)
            continue
        assert program == "featuretap"
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, (arguments, result.output)
        said[arguments[0]] = result.output
    made = {
        str(path.parent): json.loads(path.read_text())["made"]
        for path in Path("out").rglob("_SUCCESS")
    }
    assert made["out/tuesday"].keys() == {"carried", "computed"}
    assert made["out/wednesday"].keys() == {"extended"}
    assert made["out/days/2026-03-02"].keys() == {"computed"}
    assert made["out/days/2026-03-03"].keys() == {"carried", "computed"}
    assert made["out/days/2026-03-03-less"].keys() == {"projected"}
    assert "rows of these keys may lie still in" in said["forget"]
    assert said["current"].strip() == "out/days/2026-03-03-less"
    ids = pq.read_table("out/days/2026-03-03-less/data")["example_id"].to_pylist()
    assert sorted(ids) == [i for i in range(30) if i not in (7, 25)]
