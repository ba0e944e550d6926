"""Folders of photos as people have them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from conftest import Job

from pipeline import show
from pipeline.plan import Plan
from transforms.config import SourceSpec
from transforms.shard import Piece
from transforms.sources.readers import make_source

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def jpeg(pixels: np.ndarray = PIXELS, **options: Any) -> bytes:
    data = io.BytesIO()
    PIL.Image.fromarray(pixels).save(data, "JPEG", **options)
    return data.getvalue()


def images(directory: Path, **options: Any) -> Any:
    spec = SourceSpec(reader="images", path=str(directory), **options)
    return make_source(spec)


def plan(directory: Path, step: dict[str, Any] | None = None, **source: Any) -> Plan:
    """Plan a job whose model takes the pixels of an image as a vector."""
    steps = [
        {"step": "decode_image", "feature": "image", "channels": 3, **(step or {})},
        {"step": "cast", "feature": "image", "dtype": "float32"},
        {"step": "reshape", "feature": "image", "shape": [6]},
    ]
    given = {"reader": "images", "path": str(directory / "in"), "key": "path"}
    job = Job(directory, {**given, "preprocess": steps, **source})
    return job.plan(
        source={"key": "path"},
        model={"inputs": {"vec": "image"}},
        taps=[{"path": "head"}],
    )


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of JPEG files under all their suffixes, and of others."""
    (tmp_path / "in" / "_thumbs").mkdir(parents=True)
    for name in ("a.jpg", "b.JPG", "_c.jpeg", "d.jfif", "e.jpe", "_thumbs/f.jpg"):
        (tmp_path / "in" / name).write_bytes(jpeg())
    for name in ("f.tif", "g.TIF", "h.avif", "Thumbs.db", "README", ".x.jpg"):
        (tmp_path / "in" / name).write_bytes(b"something else")
    return tmp_path


def test_jpeg_files_are_read_under_all_their_suffixes(mixed: Path) -> None:
    names = [file.name for file in images(mixed / "in").files()]
    assert names == ["_c.jpeg", "a.jpg", "b.JPG", "d.jfif", "e.jpe"]


def test_suffixes_choose_the_files(mixed: Path) -> None:
    source = images(mixed / "in", suffixes=["tif", ".AVIF"])
    assert [file.name for file in source.files()] == ["f.tif", "g.TIF", "h.avif"]
    source = images(mixed / "in", suffixes=[])
    assert len(source.files()) == 10
    assert len(source.notes()) == 1  # of the hidden folder


def test_a_plan_says_which_files_are_left_out(
    mixed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = plan(mixed)
    suffixes, folders, dots = made.notes
    assert "5 files are left out for the suffix (2 .tif, 1 .avif, 1 .db" in suffixes
    assert "source.suffixes names what is read instead of .jpg, .jpeg" in suffixes
    assert "decode_image decodes JPEG, PNG, GIF, BMP and WebP" in suffixes
    assert "(1 in _thumbs)" in folders
    assert "1 file is left out because the name begins with a dot" in dots
    assert show.plan_json(made)["notes"] == list(made.notes)
    show.print_plan(made)
    assert f"\nnote: {suffixes}\n" in capsys.readouterr().out
    show.say_notes(made)
    assert f"featuretap: {folders}\n" in capsys.readouterr().err


def test_a_folder_without_others_has_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg())
    assert plan(tmp_path).notes == ()


def test_members_of_tar_files_may_begin_with_an_underscore(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("-a.jpg", "_b.jpg", "._b.jpg", ".c.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
    spec = SourceSpec(reader="webdataset", path=str(tmp_path / "a.tar"))
    source = make_source(spec)
    (file,) = source.files()
    found = source.read([Piece(file.uri, file.name)], source.describe(), None)
    assert [row["__key__"] for _, row in found.as_numpy_iterator()] == [b"-a", b"_b"]
