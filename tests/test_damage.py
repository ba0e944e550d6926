"""Damaged tables and how commands end on them: a sentence, an exit code, no abort."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROWS, Job
from typer.testing import CliRunner

from pipeline import read_features, verify_table
from pipeline.cli import app
from transforms.lookup import TableError

_THREADS = """
import os, sys

import fsspec
import pyarrow.parquet

from pipeline.parity.draw import draw_rows
from pipeline.verify import verify_table
from transforms.table.directory import Table
from transforms.table.keys import repeated_keys
from transforms.table.read import read_features


def threads():
    return len(os.listdir("/proc/self/task"))


local, remote = sys.argv[1], "memory://table"
table, store = Table(local), fsspec.filesystem("memory")
store.put(local, "/table", recursive=True)
parts = [(name, 20) for name in table.part_names()]
before = threads()
assert verify_table(local) == []
assert repeated_keys(table, ["example_id"], parts) == {}
assert len(list(draw_rows(table, 7, 0))) > 0
assert len(read_features(remote, "hidden").keys) == 100
print(threads() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_what_is_read_last_leaves_no_thread_that_could_abort_the_exit(job: Job) -> None:
    """A thread of Arrow that frees Python's memory while Python ends aborts it."""
    job.run()
    done = subprocess.run(
        [sys.executable, "-c", _THREADS, str(job.table)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


def _other_keys(data: bytes) -> bytes:
    if data[:1] != b"{":
        sink = io.BytesIO()
        pq.write_table(pa.table({"other": [1]}), sink)
        return sink.getvalue()
    kept = {k: v for k, v in json.loads(data).items() if k == "format_version"}
    return json.dumps(kept).encode()


def _other_types(data: bytes) -> bytes:
    if data[:1] != b"{":
        sink = io.BytesIO()
        found = pq.read_table(io.BytesIO(data))
        nulls = [pa.nulls(len(found), column.type) for column in found.columns]
        pq.write_table(pa.table(nulls, found.schema), sink)
        return sink.getvalue()
    document = json.loads(data)
    changed = {k: [k] for k in document if k not in ("format_version", "shard")}
    return json.dumps(document | changed).encode()


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda data: None,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "text": lambda data: b"no such thing",
    "list": lambda data: b"[1]",
    "deep": lambda data: b"[" * 10**5,
    "other keys": _other_keys,
    "other types": _other_types,
}
FILES = (
    "_SUCCESS",
    "_featuretap/config.json",
    "_featuretap/schema.json",
    "_featuretap/plan.parquet",
    "_featuretap/manifest.parquet",
    "_featuretap/commits/00001.json",
)
UNREAD = ("_featuretap/plan.parquet", "_featuretap/commits/00001.json")
"""By those who only read features."""
CONFIG = """
[source]
reader = "parquet"
path = "{source}"
key = "id"
[model]
build = "toolbox:dict_model"
batch_rows = 16
[[taps]]
path = "features:activation_1"
column = "hidden"
[table]
path = "{table}"
rows_per_part = 20
"""


@pytest.fixture(scope="session")
def whole_table(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A config, and its finished table beside it."""
    root = tmp_path_factory.mktemp("whole_table")
    source, table = data / "parquet" / "*.parquet", root / "table"
    (root / "job.toml").write_text(CONFIG.format(source=source, table=table))
    result = CliRunner().invoke(app, ["run", str(root / "job.toml")])
    assert result.exit_code == 0, result.output
    return root


def put(root: Path, table: Path, name: str, damage: str) -> Path:
    """Damage a file of a copy of the table; give a config of that copy."""
    shutil.copytree(root / "table", table)
    changed = DAMAGES[damage]((table / name).read_bytes())
    (table / name).unlink()
    if changed is not None:
        (table / name).write_bytes(changed)
    config = table.with_name("job.toml")
    text = (root / "job.toml").read_text()
    config.write_text(text.replace(str(root / "table"), str(table)))
    return config


def said(*arguments: str) -> tuple[int, str]:
    """The exit code of a command and what it said; it ended in no other exception."""
    result = CliRunner().invoke(app, [*arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "FEATURETAP_DEBUG" not in result.stderr, result.stderr
    return result.exit_code, result.output


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_with_its_cure_by_every_command_that_reads(
    name: str, damage: str, whole_table: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    put(whole_table, table, name, damage)
    code, text = said("verify", str(table))
    assert code in (1, 2)
    base = Path(name).name
    assert base in text or "shard 1" in text
    code, text = said("status", str(table))
    assert code in (0, 1, 2)
    if code:
        assert base in text or "shard 1" in text
        assert len(text.splitlines()) == 1
        assert "again" in text or "afresh" in text or "start the table" in text
    if name in UNREAD:
        assert len(read_features(str(table), "hidden").keys) == ROWS
        return
    with pytest.raises((TableError, FileNotFoundError), match=base):
        read_features(str(table), "hidden")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_what_is_damaged_is_mended_by_what_the_message_says(
    name: str, damage: str, whole_table: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    config = str(put(whole_table, table, name, damage))
    code, text = said("run", config)
    if name.endswith("config.json") and damage == "missing":
        assert code == 2  # nothing says that the parts are ours
        assert "must not hold parts without a plan" in text
        return
    if code:
        assert Path(name).name in text
    if name.endswith("config.json"):
        assert code
        assert "start afresh with --overwrite" in text
        assert said("run", config, "--overwrite")[0] == 0
    else:
        assert said("run", config, "--repair")[0] == 0
    assert verify_table(str(table)) == []


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_a_damaged_part_is_named_when_it_is_read(
    damage: str, whole_table: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    name = min(path.name for path in (whole_table / "table" / "data").iterdir())
    put(whole_table, table, f"data/{name}", damage)
    with pytest.raises((TableError, FileNotFoundError), match=rf"{name} must be"):
        read_features(str(table), "hidden")
