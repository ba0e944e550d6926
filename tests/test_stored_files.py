"""Stored Keras models that expand beyond measure, or lead to other files."""

from __future__ import annotations

import io
import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forms
import h5py
import keras
import numpy as np
import pytest

from transforms.config import ModelSpec
from transforms.lookup import ConfigError
from transforms.models.load import load_model
from transforms.models.stored_files import check_files

FEATURES = {"vec": ((6,), "float32")}
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with h5py.File("secret.h5", "w") as file:
        file["values"] = np.ones((6, 5), np.float32)
    return tmp_path


def spaces(archive: zipfile.ZipFile, name: str, mebibytes: int) -> None:
    """Add a member of blanks, which are stored as a thousandth of them."""
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w") as member:
        for _ in range(mebibytes):
            member.write(b" " * (1 << 20))


def described(archive: zipfile.ZipFile) -> None:
    forms.functional().save("sound.keras")
    with zipfile.ZipFile("sound.keras") as sound:
        for name in sound.namelist():
            if name not in archive.namelist():
                archive.writestr(name, sound.read(name))


def overlapping(archive: zipfile.ZipFile) -> None:
    """Let a thousand members be the same bytes of the file."""
    archive.writestr("assets/0", b"\0" * (1 << 20))
    member = archive.getinfo("assets/0")
    for index in range(1, 1000):
        again = zipfile.ZipInfo(f"assets/{index}")
        for field in ("header_offset", "CRC", "compress_size", "file_size"):
            setattr(again, field, getattr(member, field))
        archive.filelist.append(again)
    described(archive)


def npz(mebibytes: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        spaces(archive, "a.npy", mebibytes)
    return data.getvalue()


def dataset_of_zeros(file: h5py.File) -> None:
    file.create_dataset("big", (1 << 34,), "f4", chunks=(1 << 20,), compression=9)


ZIPS: dict[str, tuple[Callable[[zipfile.ZipFile], Any], str]] = {
    "description": (lambda a: spaces(a, "config.json", 300), "expand to 314,5"),
    "metadata": (lambda a: spaces(a, "metadata.json", 300), "expand to 314,5"),
    "weights": (lambda a: spaces(a, "model.weights.h5", 300), "expand to"),
    "asset": (lambda a: spaces(a, "assets/x", 300), "expand to"),
    "overlapping members": (overlapping, "expand to 1,0"),
    "arrays": (lambda a: a.writestr("model.weights.npz", npz(300)), "expand to"),
    "a large description beside large weights": (
        lambda a: (
            a.writestr("model.weights.h5", np.random.bytes(8 << 20)),
            spaces(a, "config.json", 100),
        ),
        "its 'config.json' has more than 64 MiB",
    ),
    "a way up": (lambda a: a.writestr("../x", ""), r"member '\.\./x' leads out of it"),
    "a hidden way up": (lambda a: a.writestr("assets/../../x", ""), "leads out of it"),
    "a way up of Windows": (lambda a: a.writestr("assets\\..\\x", ""), "leads out"),
    "a root": (lambda a: a.writestr("/tmp/x", ""), "member '/tmp/x' leads out of it"),
    "a drive": (lambda a: a.writestr("C:/x", ""), "member 'C:/x' leads out of it"),
}


@pytest.mark.parametrize("what", ZIPS)
@pytest.mark.parametrize("version", ["2.15.0", "3.15.1"])
def test_an_archive_that_is_no_model_is_refused_before_it_is_read(
    what: str, version: str, here: Path
) -> None:
    add, said = ZIPS[what]
    with zipfile.ZipFile("model.keras", "w") as archive:
        if what != "metadata":
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        add(archive)
        described(archive)
    files = sorted(here.parent.rglob("*"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ConfigError, match=rf"model\.path must hold all.*{said}.*trusted"
    ):
        load_model(ModelSpec(path="model.keras"), FEATURES)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 100 << 10
    assert sorted(here.parent.rglob("*")) == files


KERNEL = "layers/dense/vars/0"


def replaced(file: h5py.File, name: str, new: Any) -> None:
    del file[name]
    file[name] = new


def external_values(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (6, 5), "f4", external=[("/etc/passwd", 0, 120)])


def virtual_values(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((6, 5), "f4")
    layout[:] = h5py.VirtualSource("secret.h5", "values", (6, 5))
    del file[name]
    file.create_virtual_dataset(name, layout)


def bomb(file: h5py.File, name: str) -> None:
    del file[name]
    file.create_dataset(name, (1 << 17, 1 << 17), "f4", chunks=(64, 64))


LINKS: dict[str, tuple[Callable[[h5py.File, str], None], str]] = {
    "a link to another file": (
        lambda file, name: replaced(
            file, name, h5py.ExternalLink("secret.h5", "values")
        ),
        "is a link to 'secret.h5'",
    ),
    "a group of another file": (
        lambda file, name: replaced(
            file, name.split("/")[0], h5py.ExternalLink("secret.h5", "/")
        ),
        "is a link to 'secret.h5'",
    ),
    "a soft link": (
        lambda file, name: replaced(file, name, h5py.SoftLink("/other")),
        "is a link to '/other'",
    ),
    "values stored elsewhere": (external_values, "holds values of another file"),
    "virtual values": (virtual_values, "holds values of another file"),
    "values that are not there": (bomb, "bytes expand to 68,719"),
}


def place(file: h5py.File) -> str:
    """The first dataset of six rows."""
    found: list[str] = []
    file.visititems(
        lambda name, one: (
            found.append(name) if getattr(one, "shape", 0) == (6, 5) else None
        )
    )
    return found[0]


@pytest.mark.parametrize("what", LINKS)
@pytest.mark.parametrize("name", ["m.h5", "m.weights.h5", "m.keras", "m"])
@pytest.mark.parametrize("make", [forms.functional, forms.keras2])
def test_weights_that_lie_elsewhere_are_refused_in_every_form(
    what: str, name: str, make: Callable[[], Any], here: Path
) -> None:
    change, said = LINKS[what]
    model = make()
    spec, inside = {"path": name}, name
    if name == "m.weights.h5":
        model.save_weights(name)
        spec = {"build": f"forms:{make.__name__}", "weights": name}
    elif name == "m":
        keras.saving.save_model(forms.functional(), name, zipped=False)
        inside = "m/model.weights.h5"
    else:
        model.save(name)
    if name == "m.keras":
        with zipfile.ZipFile(name) as archive:
            archive.extractall("members")
        inside = "members/model.weights.h5"
    with h5py.File(inside, "r+") as file:
        change(file, place(file))
    if name == "m.keras":
        with zipfile.ZipFile(name, "w") as archive:
            for member in Path("members").iterdir():
                archive.write(member, member.name)
    key = next(reversed(spec))
    with pytest.raises(ConfigError, match=rf"model\.{key} must hold all.*{said}"):
        load_model(ModelSpec(**spec), FEATURES)


def test_sound_models_that_are_compressed_are_loaded(here: Path) -> None:
    """Weights of zero, as those that an optimizer begins with, compress best."""
    model = forms.functional()
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    model.save("sound.keras")
    with (
        zipfile.ZipFile("sound.keras") as sound,
        zipfile.ZipFile("model.keras", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in sound.namelist():
            archive.writestr(name, sound.read(name))
    load_model(ModelSpec(path="model.keras"), FEATURES)


def test_trust_opens_what_leads_elsewhere(here: Path) -> None:
    model = forms.functional()
    model.save("model.h5")
    with h5py.File("model.h5", "r+") as file:
        file["other"] = h5py.SoftLink("/model_weights")
    with pytest.raises(ConfigError, match="'/other' is a link to '/model_weights'"):
        load_model(ModelSpec(path="model.h5"), FEATURES)
    load_model(ModelSpec(path="model.h5", trusted=True), FEATURES)


def test_objects_of_several_names_count_once(here: Path) -> None:
    with h5py.File("model.h5", "w") as file:
        file["a"] = np.zeros(4 << 20, np.float32)
        for index in range(100):
            file[f"b{index}"] = file["a"]
        file["a_group/up"] = file["/"]
    check_files(Path("model.h5"), "model.path", "model.h5")


def test_assets_of_a_directory_may_not_be_links_out_of_it(here: Path) -> None:
    keras.saving.save_model(forms.functional(), "model", zipped=False)
    Path("model/assets/layer").mkdir(parents=True)
    Path("model/assets/layer/own.txt").symlink_to("../../config.json")
    check_files(Path("model"), "model.path", "model")
    Path("model/assets/layer/vocabulary.txt").symlink_to("/etc/passwd")
    with pytest.raises(ConfigError, match=r"'assets/layer/vocabulary\.txt' is a link"):
        load_model(ModelSpec(path="model"), FEATURES)
    Path("model/assets/layer/vocabulary.txt").unlink()
    Path("model/assets/all").symlink_to("/etc")
    with pytest.raises(ConfigError, match="'assets/all' is a link"):
        load_model(ModelSpec(path="model"), FEATURES)


def test_a_large_description_in_a_directory_is_refused(here: Path) -> None:
    keras.saving.save_model(forms.functional(), "model", zipped=False)
    with Path("model/config.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match=r"its 'config\.json' has more than 64 MiB"):
        load_model(ModelSpec(path="model"), FEATURES)


def test_weights_that_cannot_be_read_are_refused_by_name(here: Path) -> None:
    forms.functional().save("model.keras")
    data = bytearray(Path("model.keras").read_bytes())
    start = data.index(b"\x89HDF")
    data[start + 600 : start + 700] = b"\xff" * 100
    Path("model.keras").write_bytes(data)
    with pytest.raises(ConfigError, match=r"got 'model\.keras': it cannot be read"):
        load_model(ModelSpec(path="model.keras"), FEATURES)
