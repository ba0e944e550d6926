"""Copies of what TensorFlow cannot open: bounded, and cleaned up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import fsspec
import pytest
from conftest import Job
from readers import write_tfrecords

from transforms import scratch
from transforms.config import SourceSpec
from transforms.shard import Piece
from transforms.sources.readers import make_source
from transforms.sources.staging import readable


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    scratch._own.cache_clear()
    yield tmp_path / "tmp"
    scratch._own.cache_clear()


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """TFRecord files where TensorFlow cannot open them."""
    (tmp_path / "data").mkdir()
    write_tfrecords(tmp_path / "data")
    target = f"memory://staging/{tmp_path.name}"
    fs, path = fsspec.core.url_to_fs(target)
    fs.put(str(tmp_path / "data"), path, recursive=True)
    return target


def files_in(root: Path) -> list[Path]:
    found = [path for path in root.glob("featuretap-*/**/*") if path.is_file()]
    return [path for path in found if "lock" not in path.name]


def test_copies_are_there_for_a_shard_only(root: Path, remote: str) -> None:
    source = make_source(SourceSpec(reader="tfrecord", path=remote))
    pieces = [Piece(file.uri, file.name) for file in source.files()]
    with readable(source, pieces[:2]) as local:
        copies = files_in(root)
        assert sorted(str(copy) for copy in copies) == sorted(p.file for p in local)
        assert [p.name for p in local] == [p.name for p in pieces[:2]]
    assert files_in(root) == []


def test_nothing_is_left_behind_by_a_run(
    root: Path, remote: str, tmp_path: Path
) -> None:
    job = Job(tmp_path / "out", {"reader": "tfrecord", "path": remote})
    assert len(job.run()) == 100
    assert files_in(root) == []


def test_what_a_killed_process_left_is_removed_by_the_next(root: Path) -> None:
    code = (
        "import os, signal, tempfile; tempfile.tempdir = os.environ['ROOT']\n"
        "from transforms import scratch\n"
        "with scratch.directory() as path:\n"
        "    (path / 'copy').write_text('x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"ROOT": str(root)}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in files_in(root)] == ["copy"]
    with scratch.directory() as mine:
        assert files_in(root) == []
        (mine / "mine").touch()
        code = code.replace("os.kill", "0 and os.kill")
        subprocess.run(
            [sys.executable, "-c", code], env={"ROOT": str(root)}, check=True
        )
        assert [path.name for path in files_in(root)] == ["mine"]
    assert files_in(root) == []


def test_a_directory_of_somebody_else_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (tmp_path / "theirs").mkdir()
    (root / f"featuretap-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with (
        pytest.raises(OSError, match="this user's own"),
        scratch.directory(),
    ):
        pass


def test_a_disk_without_room_is_named_before_copying(
    root: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    source = make_source(SourceSpec(reader="tfrecord", path=remote))
    pieces = [Piece(file.uri, file.name) for file in source.files()]
    with (
        pytest.raises(OSError, match=r"must have room for memory://.*\.tfrecord"),
        readable(source, pieces),
    ):
        pass


def test_of_an_indexed_file_only_the_bytes_of_the_rows_are_copied(
    root: Path, remote: str, tmp_path: Path
) -> None:
    index = str(tmp_path / "index")
    source = make_source(SourceSpec(reader="tfrecord", path=remote, index=index))
    file = source.files()[1]
    assert file.blocks == (45,)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()}
    assert len(made) == 3
    piece = Piece(file.uri, file.name, 10, 9, version=file.identity)
    with readable(source, [piece]) as (local,):
        assert Path(local.file).stat().st_size == file.bytes * 9 // 45
    again = make_source(SourceSpec(reader="tfrecord", path=remote, index=index))
    again.files()
    assert made == {p: p.stat().st_mtime_ns for p in (tmp_path / "index").iterdir()}
