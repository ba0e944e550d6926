"""The real Embedding Atlas, in an environment of its own, opens what was published.

A heavy test; ATLAS names its program. With REQUIRE_HAND_OFF set it fails where it would
be skipped.
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

from pipeline import publish_table
from transforms.column_names import KEY

pytestmark = pytest.mark.heavy
ATLAS = os.environ.get("ATLAS", "")
DOCS = Path(__file__).parents[2] / "docs" / "stores.md"


def test_embedding_atlas_opens_the_file_as_documented(job: Job, tmp_path: Path) -> None:
    if not ATLAS and not os.environ.get("REQUIRE_HAND_OFF"):
        pytest.skip("ATLAS must name Embedding Atlas' program")
    job.run(source={"keep": ["text"]}, taps=[{"path": "head", "column": "texture"}])
    place = tmp_path / "out" / "features-atlas.parquet"
    publish_table(str(job.table), "atlas", {"path": str(place)})
    (command,) = re.findall(r"^\$ embedding-atlas (.*)$", DOCS.read_text(), re.M)
    export = ["--export-application", "application"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run(
        [ATLAS, *shlex.split(command), *export],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
    )
    data = tmp_path / "application" / "data"
    shown = json.loads((data / "metadata.json").read_text())["props"]["data"]
    assert shown["projection"] == {"x": "x", "y": "y"}
    assert shown["neighbors"] == "neighbors"
    found = pq.read_table(data / "dataset.parquet")
    sent = pq.read_table(place)
    assert found[KEY].to_pylist() == sent[KEY].to_pylist()
    assert found[shown["id"]].to_pylist() == list(range(100))  # what neighbours name
    assert found["neighbors"].to_pylist() == sent["neighbors"].to_pylist()
