"""Files that patterns name, and local copies of what lies elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import ROOTS, root_of

from transforms import scratch, storage
from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources import staging
from transforms.sources.files import (
    check_unchanged,
    find_file,
    identity_of,
    list_files,
)
from transforms.sources.left_out import LeftOut
from transforms.sources.readers import make_source
from transforms.sources.staging import copy_range, local_copies, use_copies

TREE = (
    "a.bin",
    "b.bin",
    "b.txt",
    "c1.BIN",
    "_d.bin",
    "_SUCCESS",
    "_metadata",
    "_common_metadata",
    "_committed_123",
    ".hidden.bin",
    "sub/a.bin",
    "sub/deep/x.bin",
    "sub/_tmp/y.bin",
    "_sub/z.bin",
    ".sub/z.bin",
)

ALL = ["_d.bin", "a.bin", "b.bin", "b.txt", "c1.BIN", "sub/a.bin", "sub/deep/x.bin"]


@pytest.fixture(params=ROOTS)
def root(request: Any, tmp_path: Path) -> str:
    (tmp_path / "in").mkdir()
    root = str(tmp_path / "in") if request.param == "local" else root_of("m", tmp_path)
    for name in TREE:
        storage.replace(storage.join(root, name), name.encode())
    return root


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ALL),
        ("/", ALL),
        ("/sub", ["a.bin", "deep/x.bin"]),
        ("/*.bin", ["_d.bin", "a.bin", "b.bin"]),
        ("/_*", ["_d.bin"]),
        ("/?.*", ["a.bin", "b.bin", "b.txt"]),
        ("/[ac]*", ["a.bin", "c1.BIN"]),
        ("/[!a].bin", ["b.bin"]),
        ("/.hidden.bin", [".hidden.bin"]),
        ("/_SUCCESS", ["_SUCCESS"]),
        ("/*/*.bin", ["sub/a.bin"]),
        ("/sub/*/*.bin", ["deep/x.bin"]),
        ("/s*/deep/x.bin", ["sub/deep/x.bin"]),
        ("/**/*.bin", ["_d.bin", "a.bin", "b.bin", "sub/a.bin", "sub/deep/x.bin"]),
        ("/sub/**", ["a.bin", "deep/x.bin"]),
        ("/a.bin", ["a.bin"]),
        ("/sub/deep/x.bin", ["x.bin"]),
    ],
)
def test_patterns_name_files_below_their_fixed_part(
    root: str, pattern: str, names: list[str]
) -> None:
    files = list_files(root + pattern)
    assert [file.name for file in files] == names
    assert all(storage.read(file.uri).decode().endswith(file.name) for file in files)
    assert [file.bytes for file in files] == [storage.size(f.uri) for f in files]


def test_a_pattern_looks_no_deeper_than_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "x").touch()
    looked, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looked.append(path) or scan(path))
    list_files(f"{tmp_path}/*/x")
    assert [Path(path) for path in looked] == [tmp_path, tmp_path / "a"]
    list_files(f"{tmp_path}/**/x")
    assert len(looked) == 2 + 4


def test_uris_open_where_they_were_found(root: str) -> None:
    for file in list_files(f"{root}/**/*.bin"):
        assert ("memory://" in file.uri) == ("memory://" in root)
        assert find_file(file.uri).identity == file.identity != ""


def test_suffixes_choose_among_matches_in_any_case(root: str) -> None:
    found = [file.name for file in list_files(f"{root}/*", suffixes=(".bin",))]
    assert found == ["_d.bin", "a.bin", "b.bin", "c1.BIN"]
    assert [f.name for f in list_files(f"{root}/b.txt", suffixes=(".bin",))] == [
        "b.txt"
    ]


def test_several_patterns_keep_their_order(root: str) -> None:
    found = list_files([f"{root}/b.*", f"{root}/sub/deep", f"{root}/a.bin"])
    assert [file.name for file in found] == ["b.bin", "b.txt", "x.bin", "a.bin"]


@pytest.mark.parametrize("pattern", ["/*.none", "/none", "/_S*", "/.h*", "/*/none/*"])
def test_a_pattern_that_matches_nothing_is_named(root: str, pattern: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list_files(root + pattern, "source.index")
    assert "source.index must match at least one file, got" in str(caught.value)
    assert f"{root}{pattern}" in str(caught.value)


@pytest.mark.parametrize("pattern", ["/_sub", "/_sub/", "/_sub/*"])
def test_who_names_a_hidden_directory_gets_it(root: str, pattern: str) -> None:
    assert [file.name for file in list_files(root + pattern)] == ["z.bin"]


def test_what_suffixes_leave_nothing_of_is_named_with_them(root: str) -> None:
    with pytest.raises(ConfigError, match=r"one file ending in \.csv, \.tsv, got") as e:
        list_files(root, suffixes=(".csv", ".tsv"))
    assert "which holds 6 .bin, 1 .txt" in str(e.value)


def test_what_is_left_out_is_counted_by_its_reason(root: str) -> None:
    found = list_files(root, suffixes=(".TXT",)).left_out
    assert (found.suffixes, +found.folders, found.dotted) == ({".bin": 6}, {}, 0)
    found = list_files(root, suffixes=(".bin",)).left_out
    assert (found.suffixes, found.dotted) == ({".txt": 1}, 1)
    assert +found.folders == {"_sub": 1, "_tmp": 1}
    found = list_files(f"{root}/*.bin", suffixes=(".bin",)).left_out
    assert (found.suffixes, +found.folders, found.dotted) == ({}, {}, 1)
    assert list_files(f"{root}/sub/deep").left_out == LeftOut()


def test_notes_say_how_many_files_are_left_out_why_and_what_to_do() -> None:
    suffixes = Counter({f".{n}": n for n in range(1, 9)}) + Counter({"": 9})
    one, two, three = LeftOut(suffixes, Counter({"_a": 2}), 1).notes("do so")
    counts = "9 without a suffix, 8 .8, 7 .7, 6 .6, 5 .5, 4 .4, 6 others"
    assert one == f"45 files are left out for the suffix ({counts}); do so"
    assert two.startswith("2 files are left out because of folders whose")
    assert "(2 in _a); name such a folder in source.path" in two
    assert three.startswith("1 file is left out because the name begins with a dot")
    assert LeftOut().notes("do so") == []


@pytest.mark.parametrize(
    ("reader", "suffix"),
    [
        ("array_record", "array_record"),
        ("csv", "csv"),
        ("images", "png"),
        ("jsonl", "jsonl"),
        ("numpy", "npy"),
        ("parquet", "parquet"),
        ("tfrecord", "tfrecord"),
        ("webdataset", "tar"),
    ],
)
def test_every_reader_of_a_directory_says_what_it_leaves_out(
    tmp_path: Path, reader: str, suffix: str
) -> None:
    (tmp_path / "_old").mkdir()
    for name in (f"a.{suffix}", f"_old/b.{suffix}", f"_old/c.{suffix}"):
        (tmp_path / name).touch()
    source: Any = make_source(SourceSpec(reader=reader, path=str(tmp_path)))
    (note,) = source.notes()
    assert "2 files are left out because of folders" in note
    assert "(2 in _old)" in note


def test_numpy_says_which_files_are_no_arrays(tmp_path: Path) -> None:
    for name in ("a.npy", "README.md", "b.txt"):
        (tmp_path / name).touch()
    source: Any = make_source(SourceSpec(reader="numpy", path=str(tmp_path)))
    (note,) = source.notes()
    assert note.endswith("(1 .md, 1 .txt); numpy reads .npy and .npz")
    fields = {"a": str(tmp_path / "a.npy")}
    np.save(tmp_path / "a.npy", np.zeros(3))
    source = make_source(SourceSpec(reader="numpy", path=fields))
    assert source.notes() == []


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a/b.TIF", ".tif"),
        ("README", ""),
        ("a.b c d e f g h i j", ""),
        ("_x.db", ".db"),
    ],
)
def test_suffixes_are_counted_in_lower_case(name: str, suffix: str) -> None:
    found = LeftOut()
    assert not found.takes(name, (".jpg",))
    assert found.suffixes == {suffix: 1}


@pytest.mark.parametrize("name", ["._a.jpg", ".DS_Store", ".git/a.jpg", "_SUCCESS"])
def test_what_systems_leave_beside_files_is_not_worth_a_word(name: str) -> None:
    found = LeftOut()
    assert not found.takes(name, (".jpg",))
    assert found.notes("") == []


@pytest.mark.parametrize("patterns", [("/a.bin", "/sub/a.bin"), ("/a.bin", "/*.bin")])
def test_two_files_of_one_name_are_refused(
    root: str, patterns: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="two files one name") as caught:
        list_files([root + pattern for pattern in patterns])
    assert str(caught.value).count("a.bin") == 2
    assert "use one pattern above both" in str(caught.value)


def test_one_pattern_above_both_gives_them_two_names(root: str) -> None:
    names = [file.name for file in list_files(f"{root}/**/a.bin")]
    assert names == ["a.bin", "sub/a.bin"]


def test_a_link_to_a_file_is_followed_and_a_dangling_one_left_out(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = [(file.name, file.bytes) for file in list_files(str(tmp_path))]
    assert found == [("a", 3), ("link", 3)]


def test_a_file_that_changes_in_size_or_time_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    identities = set()
    for data, moment in ((b"1", 1), (b"2", 2), (b"22", 2)):
        path.write_bytes(data)
        os.utime(path, ns=(moment, moment))
        identities.add(identity_of(str(path)))
    assert len(identities) == 3
    path.unlink()
    assert identity_of(str(path)) == "it is gone"
    with pytest.raises(FileNotFoundError):
        find_file(str(path))


def test_all_changed_files_are_counted_and_the_first_is_shown() -> None:
    pieces = [Piece(f"f{i}", "n", version="old") for i in (0, 0, 1, 2)]
    now = {"f0": "old", "f1": "new", "f2": "it is gone"}
    with pytest.raises(RuntimeError) as caught:
        check_unchanged(pieces, now.__getitem__)
    assert "2 changed (first: f1)\n  planned: old\n  now:     new" in str(caught.value)
    check_unchanged(pieces[:2], now.__getitem__)


def test_pieces_without_a_version_are_not_looked_at() -> None:
    check_unchanged([Piece("f", "n")], lambda uri: pytest.fail(uri))


@pytest.fixture
def copies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory, with copies of nobody else."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(staging, "_given", {})
    scratch._own.cache_clear()
    yield tmp_path / "tmp"
    scratch._own.cache_clear()


CHECKPOINT = (
    "ckpt-1.index",
    "ckpt-1.data-00000-of-00002",
    "ckpt-1.data-00001-of-00002",
)


@pytest.fixture(params=ROOTS)
def models(request: Any, tmp_path: Path, copies_in: Path) -> str:
    (tmp_path / "m").mkdir()
    root = str(tmp_path / "m") if request.param == "local" else root_of("m", tmp_path)
    for name in ("m.keras", "saved/saved_model.pb", "saved/variables/v.index"):
        storage.replace(storage.join(root, name), name.encode())
    for name in (*CHECKPOINT, "ckpt-10.index", "checkpoint"):
        storage.replace(storage.join(root, "weights", name), name.encode())
    return root


def below(path: Path) -> dict[str, bytes]:
    files = (p for p in path.rglob("*") if p.is_file())
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("slash", ["", "/"])
def test_files_and_directories_get_local_paths(models: str, slash: str) -> None:
    file, directory = f"{models}/m.keras", f"{models}/saved{slash}"
    with local_copies({file: "model.path", directory: "model.weights"}) as found:
        assert list(found) == [file, directory]
        assert found[file].name == "m.keras"
        assert found[file].read_bytes() == b"m.keras"
        assert found[directory].name == "saved"
        assert below(found[directory]) == {
            "saved_model.pb": b"saved/saved_model.pb",
            "variables/v.index": b"saved/variables/v.index",
        }


def test_a_checkpoint_is_all_files_of_its_prefix(models: str) -> None:
    prefix = f"{models}/weights/ckpt-1"
    with local_copies({prefix: "model.weights"}) as found:
        path = found[prefix]
        assert path.name == "ckpt-1"
        assert not path.exists()
        for name in CHECKPOINT:
            assert (path.parent / name).read_bytes() == name.encode()
        if "://" in models:
            assert set(below(path.parent)) == set(CHECKPOINT)


def test_what_is_local_stands_for_itself_and_copies_go_away(
    models: str, copies_in: Path
) -> None:
    uris = dict.fromkeys([f"{models}/m.keras", f"{models}/saved"], "model.path")
    with local_copies(uris) as found:
        for uri, path in found.items():
            assert (str(path) == uri) == ("://" not in models)
            assert path.is_relative_to(copies_in) == ("://" in models)
    assert list(copies_in.rglob("*.keras")) == []
    assert storage.exists(f"{models}/m.keras")


def test_two_files_of_one_name_have_copies_of_their_own(copies_in: Path) -> None:
    uris = [f"memory://direct/two/{name}/m.keras" for name in "ab"]
    for uri in uris:
        storage.replace(uri, uri.encode())
    with local_copies(dict.fromkeys(uris, "model.path")) as found:
        assert [path.read_bytes().decode() for path in found.values()] == uris


@pytest.mark.parametrize("name", ["none.keras", "weights/ckpt", "weights/ckpt-1.data"])
def test_a_file_that_is_missing_is_named_by_its_option(models: str, name: str) -> None:
    uri = f"{models}/{name}"
    with (
        pytest.raises(ConfigError) as caught,
        local_copies({uri: "model.weights"}),
    ):
        pass
    assert f"model.weights must be an existing file, got {uri!r}" in str(caught.value)
    assert str(Path.cwd()) in str(caught.value)


def test_copies_that_another_process_holds_are_taken_as_they_are(
    models: str, copies_in: Path
) -> None:
    held, file = f"{models}/not-even-there", f"{models}/m.keras"
    use_copies({held: "/held/copy"})
    with local_copies({held: "model.path", file: "model.weights"}) as found:
        assert found[held] == Path("/held/copy")
        assert found[file].read_bytes() == b"m.keras"


@pytest.mark.parametrize(("start", "stop"), [(0, 10), (3, 7), (5, 5), (9, 10)])
def test_a_range_of_bytes_is_copied(start: int, stop: int, tmp_path: Path) -> None:
    storage.replace("memory://direct/range", b"0123456789")
    copy_range("memory://direct/range", start, stop, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"[start:stop]


def test_a_range_in_many_chunks_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_CHUNK_BYTES", 3)
    test_a_range_of_bytes_is_copied(1, 9, tmp_path)


def test_a_file_shorter_than_its_range_is_named(tmp_path: Path) -> None:
    storage.replace("memory://direct/range", b"0123456789")
    with pytest.raises(OSError, match="range must have 14 bytes, 4 are missing"):
        copy_range("memory://direct/range", 5, 14, tmp_path / "copy")
