"""Files on any filesystem: written once or whole, listed, removed."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from samples import ROOTS, root_of

from transforms import scratch, storage


@pytest.fixture(params=ROOTS)
def root(request: Any, tmp_path: Path) -> str:
    (tmp_path / "root").mkdir()
    if request.param == "local":
        return str(tmp_path / "root")
    return root_of("memory", tmp_path)


def put(root: str, *names: str) -> None:
    for name in names:
        storage.replace(storage.join(root, name), name.encode())


def test_segments_are_joined_by_one_slash() -> None:
    assert storage.join("s3://b/t/", "a", "b.c") == "s3://b/t/a/b.c"
    assert storage.join("/", "a") == "/a"
    assert storage.join("t") == "t"


def test_a_filesystem_itself_can_be_joined() -> None:
    assert storage.join("memory://", "a") == "memory://a"


def test_local_paths_are_told_from_others(tmp_path: Path) -> None:
    assert storage.local_path(str(tmp_path)) == tmp_path
    assert storage.local_path(f"file://{tmp_path}/x") == tmp_path / "x"
    assert storage.local_path("relative") == Path.cwd() / "relative"
    assert storage.local_path("memory://x") is None


def test_sizes_are_told_and_missing_files_named(root: str) -> None:
    put(root, "abc", "empty/x")
    storage.replace(storage.join(root, "none"), b"")
    assert storage.size(storage.join(root, "abc")) == 3
    assert storage.size(storage.join(root, "none")) == 0
    for look in (storage.size, storage.read):
        with pytest.raises(FileNotFoundError):
            look(storage.join(root, "missing"))


def test_listings_tell_files_from_directories_and_are_sorted(root: str) -> None:
    put(root, "b", "a", "B", "z/1", "y/2/3", ".hidden")
    assert storage.list_names(root) == [".hidden", "B", "a", "b"]
    assert storage.list_directories(root) == ["y", "z"]
    assert storage.list_names(storage.join(root, "y")) == []
    assert storage.list_directories(storage.join(root, "nowhere")) == []
    assert storage.list_names(f"{root}/z/") == ["1"]


def test_listings_show_at_once_what_others_write(root: str) -> None:
    put(root, "a")
    assert storage.list_names(root) == ["a"]
    put(root, "b")
    assert storage.list_names(root) == ["a", "b"]
    storage.remove(storage.join(root, "a"))
    assert storage.list_names(root) == ["b"]
    assert not storage.filesystem(root)[0].dircache.use_listings_cache


def test_removing_takes_one_file_or_the_whole_tree(root: str) -> None:
    put(root, "a", "t/1", "t/u/2", "tt/3")
    storage.remove(storage.join(root, "a"))
    storage.remove_tree(storage.join(root, "t"))
    storage.remove_tree(storage.join(root, "t"))
    assert storage.list_names(root) == []
    assert storage.list_directories(root) == ["tt"]
    assert storage.read(storage.join(root, "tt", "3")) == b"tt/3"


def test_only_empty_directories_are_removed(tmp_path: Path) -> None:
    put(str(tmp_path), "full/a")
    (tmp_path / "empty").mkdir()
    for name in ("full", "empty", "missing", "full/a"):
        storage.remove_empty(str(tmp_path / name))
    assert storage.list_directories(str(tmp_path)) == ["full"]
    assert storage.list_names(str(tmp_path / "full")) == ["a"]


def test_object_stores_have_no_empty_directories_to_remove() -> None:
    put("memory://direct/kept", "a/b")
    storage.remove_empty("memory://direct/kept/a")
    assert storage.read("memory://direct/kept/a/b") == b"a/b"


@pytest.mark.parametrize("write", [storage.create, storage.replace])
def test_what_cannot_be_written_leaves_nothing_behind(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    storage.replace(str(tmp_path / "old"), b"old")
    monkeypatch.setattr(storage, "_sync", full)
    for name in ("old", "new"):
        with pytest.raises(OSError, match="no space left"):
            write(str(tmp_path / name), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_name_shows_its_file_only_when_the_content_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, seen = storage._sync, []

    def watched(stream: Any) -> None:
        sync(stream)
        seen.append((os.fstat(stream.fileno()).st_size, (tmp_path / "a").exists()))

    monkeypatch.setattr(storage, "_sync", watched)
    assert storage.create(str(tmp_path / "a"), b"123")
    (tmp_path / "a").unlink()
    storage.replace(str(tmp_path / "a"), b"1234")
    assert seen == [(3, False), (4, False)]


def test_a_file_from_another_disk_is_copied_and_then_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.replace

    def within_a_disk(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "another disk")
        rename(source, target)

    monkeypatch.setattr(os, "replace", within_a_disk)
    (tmp_path / "made").write_bytes(b"x" * 100_000)
    storage.publish(tmp_path / "made", str(tmp_path / "out" / "part"))
    assert (tmp_path / "out" / "part").read_bytes() == b"x" * 100_000
    assert not (tmp_path / "made").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part"]


def test_a_file_that_cannot_be_published_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(b"x")
    (tmp_path / "out" / "part").mkdir(parents=True)
    with pytest.raises(OSError, match="part"):
        storage.publish(tmp_path / "made", str(tmp_path / "out" / "part"))
    assert (tmp_path / "made").read_bytes() == b"x"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["part"]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept, without sleeping."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


@pytest.mark.parametrize("look", [storage.read, storage.size])
def test_what_is_known_to_be_written_is_waited_for(
    look: Any, naps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = "memory://direct/late"
    storage.remove(uri)

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            storage.replace(uri, b"12")

    monkeypatch.setattr(time, "sleep", sleep)
    assert look(uri, written=True) in (b"12", 2)
    assert naps == [0.05, 0.1, 0.2]


def test_patience_ends_and_is_only_for_what_was_written_elsewhere(
    naps: list[float], tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("memory://direct/never")
    with pytest.raises(FileNotFoundError):
        storage.read(str(tmp_path / "never"), written=True)
    assert naps == []
    with pytest.raises(FileNotFoundError):
        storage.read("memory://direct/never", written=True)
    assert 5 < sum(naps) < 10


@pytest.fixture
def own_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scratch._own.cache_clear()
    yield tmp_path
    scratch._own.cache_clear()


def test_a_lock_is_held_by_one_until_it_is_given_back(own_temporary: Path) -> None:
    first = scratch.hold("gpu")
    assert first is not None
    assert scratch.hold("gpu") is None
    other = scratch.hold("another")
    assert other is not None
    os.close(first)
    again = scratch.hold("gpu")
    assert again is not None
    for descriptor in (again, other):
        os.close(descriptor)


def test_of_many_threads_one_gets_the_lock(own_temporary: Path) -> None:
    got: list[int | None] = []
    threads = [
        threading.Thread(target=lambda: got.append(scratch.hold("x"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [one for one in got if one is not None]
    assert (len(got), len(held)) == (8, 1)
    os.close(held[0])


def test_a_failed_lock_leaves_no_file_open(own_temporary: Path) -> None:
    held = scratch.hold("gpu")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert scratch.hold("gpu") is None
    assert len(os.listdir("/proc/self/fd")) == before
    assert held is not None
    os.close(held)


def test_directories_are_empty_private_and_removed(own_temporary: Path) -> None:
    with scratch.directory() as one, scratch.directory() as other:
        assert one != other
        assert list(one.iterdir()) == list(other.iterdir()) == []
        (one / "a" / "b").mkdir(parents=True)
        (root,) = own_temporary.iterdir()
        assert root.stat().st_mode & 0o777 == 0o700
    assert not one.exists()
    assert not other.exists()


def test_a_directory_goes_away_with_the_error_of_its_user(own_temporary: Path) -> None:
    with pytest.raises(ValueError, match="mine"), scratch.directory() as path:
        raise ValueError("mine")
    assert not path.exists()
