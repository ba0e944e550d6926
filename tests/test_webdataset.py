"""Tar files whose members stand apart, or whose names hold dots."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from readers import outcomes

from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.sources.readers import make_source


def tar_file(directory: Path, *names: str) -> dict[str, Any]:
    """A source of a tar file whose members hold their own names."""
    with tarfile.open(directory / "a.tar", "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    return {"reader": "webdataset", "path": str(directory)}


def described(source: dict[str, Any]) -> list[str]:
    return list(make_source(SourceSpec(**source)).describe())


@pytest.mark.parametrize("features", [None, {"jpg": "bytes", "cls": "string"}])
def test_members_that_stand_apart_are_refused(features: Any, tmp_path: Path) -> None:
    source = tar_file(tmp_path, "0.jpg", "1.jpg", "0.cls", "1.cls")
    with pytest.raises(
        ConfigError,
        match=r"must be neighbours, in .*a.tar' jpg and cls of '0' are not; .*--sort=n",
    ):
        described({**source, "features": features})


def test_members_that_stand_far_apart_are_bad_rows_that_say_so(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(1, 120)] + [f"{i}.cls" for i in range(120)]
    source = tar_file(tmp_path, "0.jpg", "0.cls", *names)
    source["features"] = {"jpg": "bytes", "cls": "string"}
    first, second, *_ = outcomes("cls", **source)
    assert first == "0.cls"
    assert "1 has no member with extension cls, only jpg; " in second
    assert "the members of an example must be neighbours" in second


def test_a_key_may_come_again(tmp_path: Path) -> None:
    source = tar_file(tmp_path, "0.txt", "0.cls", "1.txt", "1.cls", "0.txt", "0.cls")
    source["features"] = {"txt": "string"}
    assert outcomes("txt", **source) == ["0.txt", "1.txt", "0.txt"]


def test_an_extension_begins_at_the_first_dot(tmp_path: Path) -> None:
    source = tar_file(tmp_path, "d.0/a.left.txt", "d.0/a.right.txt", "d.0/b.left.txt")
    assert described(source) == ["__key__", "left.txt", "right.txt"]
    source["features"] = {"left.txt": "string"}
    assert outcomes("left.txt", **source) == ["d.0/a.left.txt", "d.0/b.left.txt"]
    source["features"] = {"txt": "string"}
    with pytest.raises(
        ConfigError,
        match=r"extensions of members, got 'txt'.* left.txt, right.txt\); what follows"
        " the first dot of a member's name is its extension",
    ):
        described(source)


def test_the_end_of_an_extension_is_explained(tmp_path: Path) -> None:
    source = tar_file(tmp_path, "a.left.txt", "a.cls", "b.left.txt", "b.cls")
    found = make_source(SourceSpec(**source)).other_columns()
    assert list(found) == ["txt"]
    assert found["txt"].startswith("is the end of extension 'left.txt'; what follows")


def test_names_with_many_dots_are_no_example_of_a_hundred_members(
    tmp_path: Path,
) -> None:
    source = tar_file(tmp_path, *(f"cat.{i:04d}.txt" for i in range(150)))
    with pytest.raises(ConfigError, match=r"100 members or more, such as 0000.txt; wh"):
        described(source)
    source["features"] = {"0007.txt": "string"}
    assert outcomes("0007.txt", **source) == ["cat.0007.txt"]


def test_few_of_many_extensions_are_named(tmp_path: Path) -> None:
    source = tar_file(tmp_path, *(f"0.{letter}" for letter in "abcdefgh"))
    with pytest.raises(ConfigError, match=r"are a, b, c, d, e, …\)"):
        described({**source, "features": {"x": "bytes"}})
