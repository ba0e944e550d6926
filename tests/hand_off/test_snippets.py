"""Lines of docs/stores.md for stores that need no code, against the real packages.

Heavy tests; SNIPPETS names a directory of the packages for mypy to read, FEAST Feast's
program, whose environment has Milvus Lite. With REQUIRE_HAND_OFF set they fail where
they would be skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Job
from test_statements import PYTHON, fitted

pytestmark = pytest.mark.heavy
MISTAKES = {
    "Vertex": {
        "entity_id_columns": "entity_columns",
        "create_tree_ah_index": "create_index",
    },
    "Databricks": {"embedding_dimension": "dimension"},
    "Hopsworks": {"event_time=": "time=", "add_embedding": "add_vector"},
    "Pinecone": {"error_mode": "on_error", "describe_import": "describe"},
}
"""By the beginning of a snippet: names that it has, and wrong ones."""
SEARCH = """
vector = next(iter(batch.to_pylist()))
(found,) = client.search("features", data=[vector["texture"]], anns_field="texture")
count = client.query("features", output_fields=["count(*)"])[0]["count(*)"]
print(count, vector["example_id"] in [hit["example_id"] for hit in found])
"""


def needed(name: str) -> str:
    """What a variable of the environment holds; the test is skipped without."""
    if not os.environ.get(name) and not os.environ.get("REQUIRE_HAND_OFF"):
        pytest.skip(f"{name} must be set, as by make test-hand-off")
    return os.environ[name]


def mypy(snippets: dict[str, str], directory: Path) -> str:
    """Check snippets by the types of the packages; give what is said of them."""
    directory.mkdir()
    for name, text in snippets.items():
        (directory / f"{name}.py").write_text(text)
    options = ["--follow-untyped-imports", "--ignore-missing-imports"]
    options += ["--follow-imports=silent", "--explicit-package-bases"]
    options += ["--no-incremental"]  # a cache of Hopsworks hides errors
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "."],
        cwd=directory,
        env={**os.environ, "MYPYPATH": needed("SNIPPETS")},
        capture_output=True,
        text=True,
    )
    assert not done.stderr, done.stderr
    return done.stdout


def test_snippets_fit_the_packages(tmp_path: Path) -> None:
    texts = {name: snippet(name) for name in MISTAKES}
    assert "Success: no issues found in 4 source files" in mypy(texts, tmp_path / "a")
    for name, mistakes in MISTAKES.items():
        for right, wrong in mistakes.items():
            assert texts[name].count(right) == 1
            texts[name] = texts[name].replace(right, wrong)
    said = mypy(texts, tmp_path / "b")
    for name, mistakes in MISTAKES.items():
        for wrong in mistakes.values():
            assert re.search(rf'{name}\.py:\d+: error: .*"{wrong.strip("=")}"', said), (
                said
            )


def snippet(name: str) -> str:
    """The snippet whose first line begins so."""
    (text,) = (text for first, text in PYTHON.items() if first.startswith(name))
    return text


def test_milvus_takes_each_row(job: Job, tmp_path: Path) -> None:
    python = Path(needed("FEAST")).parent / "python"
    taps = [{"path": "head", "column": "texture"}]
    job.run(taps=taps, table={"path": str(tmp_path / "out" / "features")})
    done = subprocess.run(
        [python, "-c", fitted("Milvus") + SEARCH],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "100 True"
