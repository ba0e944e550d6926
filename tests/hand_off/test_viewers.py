"""TensorBoard and Embedding Atlas open what the documented commands publish.

A heavy test; ATLAS names the program, which has an environment of its own. With
REQUIRE_HAND_OFF set it fails where it would be skipped.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import Job
from places import tensorboard
from typer.testing import CliRunner

from pipeline.cli import app
from transforms.column_names import KEY

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of TensorBoard
]
ATLAS = os.environ.get("ATLAS", "")
DOCS = Path(__file__).parents[2] / "docs" / "stores.md"


def test_what_is_documented_shows_the_sample(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ATLAS and not os.environ.get("REQUIRE_HAND_OFF"):
        pytest.skip("ATLAS must name Embedding Atlas' program")
    monkeypatch.chdir(job.directory)
    taps = [{"path": "head", "column": "texture"}]
    job.run(source={"keep": ["text"]}, taps=taps, table={"path": "out/features"})
    section = DOCS.read_text().partition("\n## A sample to look at\n")[2]
    commands = re.findall(r"^\$ (.*)$", section.partition("\n## ")[0], re.M)
    projector, board, atlas, viewer = map(shlex.split, commands)
    for _, *arguments in (projector, atlas):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert tensorboard(Path(board[-1]))("runs").json == ["."]
    export = ["--export-application", "application"]
    subprocess.run(
        [ATLAS, *viewer[1:], *export],
        env={"PATH": os.environ["PATH"], "HOME": str(job.directory)},
        check=True,
        capture_output=True,
    )
    data = job.directory / "application" / "data"
    shown = json.loads((data / "metadata.json").read_text())["props"]["data"]
    assert shown["projection"] == {"x": "x", "y": "y"}
    assert shown["neighbors"] == "neighbors"
    found = pq.read_table(data / "dataset.parquet")
    sent = pq.read_table(viewer[1])
    assert found[KEY].to_pylist() == sent[KEY].to_pylist()
    assert found[shown["id"]].to_pylist() == list(range(100))  # what neighbours name
    assert found["neighbors"].to_pylist() == sent["neighbors"].to_pylist()
