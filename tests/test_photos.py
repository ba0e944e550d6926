"""Folders of photos as people have them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, parity_of, stacked
from hypothesis import given
from hypothesis import strategies as st

from pipeline import notes, show
from pipeline.notes import plan_notes
from pipeline.parity import reference_steps
from pipeline.plan import Plan
from transforms.config import SourceSpec, StepSpec
from transforms.lookup import ConfigError
from transforms.preprocess.orientation import orientation
from transforms.preprocess.steps import make_steps
from transforms.shard import Piece
from transforms.sources.readers import make_source
from transforms.table.directory import Table
from transforms.table.plan_file import read_plan

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
    given = {"reader": "images", "path": str(directory / "in"), "key": "path", **source}
    job = Job(directory, {**given, "preprocess": steps})
    return job.plan(
        source={"key": given["key"]},
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
    assert show.plan_json(made, {})["notes"] == list(made.notes)
    show.print_plan(made, {})
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


def turned(form: str, value: int, order: str = "big") -> bytes:
    """An image file with an orientation in its EXIF data."""
    exif = PIL.Image.Exif()
    exif.endian = {"big": ">", "little": "<"}[order]
    exif[0x010F] = "a maker, in front of the orientation"
    exif[0x0112] = value
    data = io.BytesIO()
    options = {"lossless": True} if form == "WEBP" else {"quality": 95}
    wide = np.random.default_rng(1).integers(0, 256, (16, 24, 3), np.uint8)
    PIL.Image.fromarray(wide).save(data, form, exif=exif, **options)
    return data.getvalue()


def decoded(data: bytes, **options: Any) -> np.ndarray:
    """Decode in a graph, and see that the reference does the same."""
    (step,) = make_steps([StepSpec(step="decode_image", **{"feature": "x", **options})])
    rows = tf.data.Dataset.from_tensors({"x": data}).map(step.function)
    (found,) = rows.as_numpy_iterator()
    again = reference_steps.STEPS["decode_image"](data, **options)
    np.testing.assert_array_equal(found["x"], again)
    return found["x"]


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize(
    ("form", "order"),
    [("JPEG", "big"), ("JPEG", "little"), ("PNG", "big"), ("WEBP", "little")],
)
def test_images_are_turned_upright_as_pil_turns_them(
    form: str, order: str, value: int
) -> None:
    data = turned(form, value, order)
    assert orientation(data) == value
    image = PIL.Image.open(io.BytesIO(data))
    upright = np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    found = decoded(data, channels=3, orient=True).astype(int)
    assert found.shape == ((16, 24, 3) if value < 5 else (24, 16, 3))
    assert np.abs(found - upright).max() <= 12  # decoders of JPEG round differently
    as_stored = decoded(data, channels=3).astype(int)
    assert np.abs(as_stored - np.asarray(image.convert("RGB"))).max() <= 12


def test_exif_data_are_found_behind_other_segments() -> None:
    data = turned("JPEG", 6)
    start = data.index(b"\xff\xe1")
    other = b"\xff\xe1\0\x0chttp://xmp" + b"\xff\xed\0\x04ab" + b"\xff" * 3
    assert orientation(data[:start] + other + data[start:]) == 6


def test_damaged_or_odd_exif_data_leave_an_image_as_it_is() -> None:
    data = turned("JPEG", 6)
    at = data.index(b"\x01\x12\x00\x03")
    for damaged in (
        data.replace(b"MM\0*", b"XX\0*"),  # no byte order
        data[: at + 8] + b"\0\x09" + data[at + 10 :],  # no such orientation
        data[: at + 8] + b"\0\x00" + data[at + 10 :],
        data[: at + 2] + b"\0\x02" + data[at + 4 :],  # text
        data.replace(b"MM\0*\0\0\0\x08", b"MM\0*\xff\0\0\0"),  # a directory far off
        jpeg(),
    ):
        assert orientation(damaged) == 1
    assert orientation(turned("GIF", 6)) == 1
    upright = decoded(jpeg(), channels=3, orient=True)
    np.testing.assert_array_equal(upright, decoded(jpeg(), channels=3))


@given(st.binary(max_size=60), st.sampled_from([0, 2, 30, 60, 200, 300]))
def test_no_bytes_trouble_the_search_for_an_orientation(junk: bytes, at: int) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        data = turned(form, 6)
        assert orientation(data[:at] + junk + data[at + len(junk) :]) in range(1, 9)
        assert orientation(data[:at]) in (1, 6)
    assert orientation(junk) == 1


DEEP = np.array([[0, 1, 200, 255], [256, 1000, 4095, 65535]], np.uint16)


def png(pixels: np.ndarray) -> bytes:
    return tf.io.encode_png(pixels).numpy()


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_png_images_of_16_bits_keep_them_as_uint16(channels: int) -> None:
    found = decoded(png(DEEP[..., None]), channels=channels, dtype="uint16")
    assert found.dtype == np.uint16
    assert found.shape == (2, 4, channels or 1)
    for channel in range(min(found.shape[-1], 3)):
        np.testing.assert_array_equal(found[..., channel], DEEP)
    assert channels < 4 or found[..., 3].min() == 65535
    shallow = decoded(png(DEEP[..., None]), channels=1)
    np.testing.assert_array_equal(shallow[..., 0], DEEP >> 8)


def test_colors_of_16_bits_are_kept_too() -> None:
    pixels = np.random.default_rng(2).integers(0, 65536, (5, 4, 3), np.uint16)
    found = decoded(png(pixels), channels=3, dtype="uint16")
    np.testing.assert_array_equal(found, pixels)


def test_a_launcher_that_may_not_read_the_images_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(jpeg())

    def refuse(*_: Any) -> Any:
        raise PermissionError("only workers may read this")

    monkeypatch.setattr(notes, "readable", refuse)
    assert plan(tmp_path).notes == ()


def test_a_plan_says_that_16_bits_become_8(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        deep = 20 <= number < 30  # found, since files all over are looked at
        pixels = DEEP[..., None] if deep else PIXELS
        (tmp_path / "in" / f"{number}.png").write_bytes(png(pixels))
    (note,) = plan(tmp_path).notes
    assert note.startswith("2 of 8 images looked at have 16 bits a channel")
    assert 'dtype = "uint16"' in note
    assert plan(tmp_path, {"dtype": "uint16"}).notes == ()


@pytest.mark.parametrize("reader", ["images", "webdataset", "parquet"])
def test_a_plan_says_that_photos_are_stored_sideways(
    tmp_path: Path, reader: str
) -> None:
    (tmp_path / "in").mkdir()
    photos = [turned("JPEG", 6), b"no image", turned("JPEG", 8), jpeg()]
    names = [f"{n}.jpg" for n in range(4)]
    source: dict[str, Any] = {"reader": reader}
    if reader == "images":
        for name, photo in zip(names, photos, strict=True):
            (tmp_path / "in" / name).write_bytes(photo)
    elif reader == "parquet":
        table = pa.table({"path": names, "image": photos})
        pq.write_table(table, tmp_path / "in" / "a.parquet")
    else:
        with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
            for name, photo in zip(names, photos, strict=True):
                member = tarfile.TarInfo(name.replace("jpg", "image"))
                member.size = len(photo)
                tar.addfile(member, io.BytesIO(photo))
        source["features"] = {"image": "bytes"}
        source["key"] = "__key__"
    (note,) = plan(tmp_path, **source).notes
    assert note.startswith("2 of 4 images looked at are stored turned or mirrored")
    assert "orient = true" in note
    assert plan(tmp_path, {"orient": True}, **source).notes == ()


def test_images_that_cannot_be_read_stop_no_plan(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jpg"
    path.write_bytes(jpeg())
    source = images(tmp_path / "in")
    files = source.files()
    path.unlink()
    path.mkdir()
    step = StepSpec(step="decode_image", **{"feature": "image"})
    unversioned = [replace(file, version="") for file in files]
    assert plan_notes(source, unversioned, source.describe(), [step]) == ()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_8_bits_are_spread_over_16(form: str, channels: int) -> None:
    data = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(data, form)
    deep = decoded(data.getvalue(), channels=channels, dtype="uint16").astype(int)
    plain = decoded(data.getvalue(), channels=channels).astype(int)
    # grey is computed once with 16 bits, once with 8
    assert np.abs(deep - 257 * plain).max() <= (257 * 2 if channels == 1 else 0)


def test_another_type_of_pixels_is_refused() -> None:
    options = {"feature": "x", "dtype": "float32"}
    with pytest.raises(ConfigError, match=r"dtype"):
        make_steps([StepSpec(step="decode_image", **options)])


def cmyk(transform: int) -> bytes:
    """A JPEG file of four channels; 2 says that three of them are YCC."""
    pixels = np.random.default_rng(3).integers(0, 256, (3, 4, 4), np.uint8)
    data = io.BytesIO()
    image = PIL.Image.frombytes("CMYK", (32, 24), pixels.repeat(8, 0).repeat(8, 1))
    image.save(data, "JPEG", quality=100, subsampling=0)
    content = bytearray(data.getvalue())
    content[content.index(b"Adobe") + 11] = transform
    return bytes(content)


@pytest.mark.parametrize("transform", [0, 2])
@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_colors_of_printers_are_decoded_as_pil_does_it(
    transform: int, channels: int
) -> None:
    data = cmyk(transform)
    mode = {0: "RGB", 1: "L", 3: "RGB", 4: "RGBA"}[channels]
    image = np.asarray(PIL.Image.open(io.BytesIO(data)).convert(mode)).astype(int)
    found = decoded(data, channels=channels).astype(int)
    assert np.abs(found - image.reshape(found.shape)).max() <= 2


def large(height: int, width: int, **options: Any) -> bytes:
    """A JPEG file of smooth colours."""
    random = np.random.default_rng(4)
    coarse = random.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), np.uint8)
    image = PIL.Image.fromarray(coarse).resize((width, height))
    return jpeg(np.asarray(image), quality=90, **options)


@pytest.mark.parametrize(
    ("least", "size"),
    [
        ([101, 160], (101, 160)),
        ([52, 80], (101, 160)),
        ([51, 80], (51, 80)),  # libjpeg rounds up, and so each pixel has its place
        ([1, 80], (51, 80)),
        ([1, 81], (101, 160)),
        ([26, 40], (26, 40)),
        ([13, 20], (13, 20)),
        ([1, 1], (13, 20)),
        ([500, 1], (101, 160)),
    ],
)
def test_jpeg_is_decoded_at_the_least_size_that_is_enough(
    least: list[int], size: tuple[int, int]
) -> None:
    data = large(101, 160)
    found = decoded(data, channels=3, shrink_to=least)
    assert found.shape == (*size, 3)
    if size == (101, 160):
        np.testing.assert_array_equal(found, decoded(data, channels=3))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_pixels_of_a_reduced_scale_are_those_of_pil(
    ratio: int, options: dict[str, Any]
) -> None:
    data = large(96, 160, **options)
    size = 96 // ratio, 160 // ratio
    image = PIL.Image.open(io.BytesIO(data))
    image.draft("RGB", size[::-1])
    found = decoded(data, channels=3, shrink_to=list(size)).astype(int)
    assert found.shape == (*size, 3)
    assert np.abs(found - np.asarray(image)).max() <= 4
    exact = PIL.Image.open(io.BytesIO(data)).reduce(ratio)
    assert np.abs(found - np.asarray(exact)).mean() < 3


@pytest.mark.parametrize("value", range(1, 9))
def test_a_photo_is_measured_as_it_stands_upright(value: int) -> None:
    data = turned("JPEG", value)  # 16 high, 24 wide
    swapped = value > 4
    enough, too_much = ([12, 8], [8, 12]) if swapped else ([8, 12], [12, 8])
    found = decoded(data, channels=3, orient=True, shrink_to=enough)
    assert found.shape == (*enough, 3)
    whole = decoded(data, channels=3, orient=True, shrink_to=too_much)
    np.testing.assert_array_equal(whole, decoded(data, channels=3, orient=True))
    as_stored = decoded(data, channels=3, shrink_to=[8, 12])
    assert as_stored.shape == (8, 12, 3)


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP", "WEBP"])
def test_other_formats_are_decoded_whole(form: str) -> None:
    data = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(data, form)
    whole = decoded(data.getvalue(), channels=3)
    found = decoded(data.getvalue(), channels=3, shrink_to=[2, 2])
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize("channels", [0, 1, 3, 4])
def test_all_kinds_of_colors_can_be_shrunk(channels: int) -> None:
    grey = jpeg(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for data in (grey, cmyk(2), large(32, 48)):
        options = {"channels": channels, "dtype": "uint16"}
        whole = decoded(data, **options).astype(int)
        found = decoded(data, **options, shrink_to=[4, 4]).astype(int)
        assert found.shape[-1] == whole.shape[-1]
        assert found.shape[0] <= whole.shape[0] // 4
        assert np.abs(found.mean((0, 1)) - whole.mean((0, 1))).max() < 257 * 3


def test_a_damaged_or_huge_photo_is_not_made_sound_by_shrinking() -> None:
    data = large(96, 160)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoded(data[: len(data) // 2], channels=3, shrink_to=[12, 20])
    with pytest.raises(tf.errors.InvalidArgumentError, match="more pixels than"):
        decoded(data, channels=3, shrink_to=[12, 20], max_pixels=96 * 160 - 1)


@pytest.mark.parametrize("least", [[0, 9], [9, -1], [9], [9, 9, 9], 9, [0.5, 9], "9"])
def test_what_is_no_size_is_refused(least: Any) -> None:
    for step, option in (
        ("decode_image", "shrink_to"),
        ("resize", "size"),
        ("center_crop", "size"),
    ):
        with pytest.raises(ConfigError, match=rf"^source.preprocess\[0\].{option}"):
            make_steps([StepSpec(step=step, **{"feature": "x", option: least})])


def test_shrunk_photos_are_values_that_a_certificate_confirms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [large(96 + n, 160) for n in range(7)]
    photos += [jpeg(), b"\xff\xd8 no photo", turned("JPEG", 6)]
    table = pa.table({"id": list(range(10)), "image": photos})
    pq.write_table(table, tmp_path / "images.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})

    def config(**decode: Any) -> dict[str, Any]:
        decode = {"step": "decode_image", "channels": 1, "orient": True, **decode}
        steps = [decode, {"step": "resize", "size": [8, 8], "antialias": True}]
        return {
            "source": {"preprocess": [{**step, "feature": "image"} for step in steps]},
            "model": {"build": "toolbox:image_model", "batch_rows": 4},
            "taps": [{"path": "conv", "reduce": "flatten"}],
            "errors": {"max_fraction": 0.5},
        }

    def certified() -> bool:
        return parity_of(str(job.table), 10).passed

    found = stacked(job.run(**config(shrink_to=[8, 8]))["conv"])
    assert [error["row"] for error in job.errors()] == [8]
    assert certified()
    with monkeypatch.context() as patch:
        patch.setattr(reference_steps, "_ratio", lambda *_: 1)
        assert not certified()
    assert len(found) == 9
    before = read_plan(Table(str(job.table))).ingredients
    after = job.plan(**config(shrink_to=[8, 9])).ingredients
    assert {one for one in before if before[one] != after[one]} == {"preprocess"}
