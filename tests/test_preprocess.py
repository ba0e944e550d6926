"""Preprocessing steps, per example and per batch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, stacked
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parity import reference_steps
from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.preprocess.images import image_size
from transforms.preprocess.steps import (
    PREPROCESSORS,
    apply_to_batch,
    apply_to_example,
    make_steps,
    split_steps,
)


def steps(*specs: Any) -> list[Any]:
    return make_steps(SourceSpec(reader="x", preprocess=specs).preprocess)


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (3, 5, 7, 3), np.uint8)
TEXTS = np.array([" Ärger ", "A b\t", ""])
ENCODED = np.array([text.encode() for text in TEXTS], object)
HOLES = np.array([[1.5, np.nan], [np.nan, np.nan], [3, 4]], np.float32)
MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]


def normalized(values: np.ndarray) -> np.ndarray:
    variance = np.square(np.array(STD))
    layer = keras.layers.Normalization(mean=MEAN, variance=variance)
    return np.asarray(layer(values.astype(np.float32)))


BATCHED = {
    "decode_raw": (
        {"dtype": "uint8", "shape": [4, 4, 1]},
        np.array([image.tobytes() for image in PIXELS]),
        PIXELS,
    ),
    "reshape": ({"shape": [16]}, PIXELS, PIXELS.reshape(3, 16)),
    "rescale": (
        {"scale": 1 / 255, "offset": -0.5},
        PIXELS,
        PIXELS.astype(np.float32) / 255 - 0.5,
    ),
    "fill": ({"value": 7, "nan": True}, HOLES, np.where(np.isnan(HOLES), 7, HOLES)),
    "cast": ({"dtype": "int32"}, PIXELS, PIXELS.astype(np.int32)),
    "standardize": ({"mean": MEAN, "std": STD}, RGB, normalized(RGB)),
    "standardize: each": ({}, RGB, tf.image.per_image_standardization(RGB).numpy()),
    "reverse_channels": ({}, RGB, RGB[..., ::-1]),
    "transpose": ({"order": [2, 0, 1]}, RGB, np.moveaxis(RGB, -1, 1)),
    "one_hot": (
        {"depth": 4},
        np.array([[0, 3], [1, 1], [2, 0]]),
        np.asarray(keras.ops.one_hot([[0, 3], [1, 1], [2, 0]], 4)),
    ),
    "lower": ({}, ENCODED, np.array([t.lower().encode() for t in TEXTS], object)),
    "strip": ({}, ENCODED, np.array([t.strip().encode() for t in TEXTS], object)),
    **{
        f"keras_application: {name}": (
            {"name": name},
            RGB,
            getattr(keras.applications, name).preprocess_input(RGB.astype(np.float32)),
        )
        for name in ("resnet50", "mobilenet_v2", "densenet", "efficientnet", "vgg16")
    },
}


def compared(found: np.ndarray, expected: np.ndarray) -> None:
    if expected.dtype == object:
        assert found.tolist() == expected.tolist()
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", BATCHED)
def test_batch_step_gives_the_same_per_batch_and_per_example(name: str) -> None:
    options, given, expected = BATCHED[name]
    made = steps({"step": name.partition(":")[0], "feature": "x", **options})
    batch = apply_to_batch(made, {"x": tf.constant(given)})["x"].numpy()
    ones = [apply_to_example(made, {"x": tf.constant(g)})["x"].numpy() for g in given]
    compared(batch, expected)
    if name == "standardize: each":  # sums of another order
        compared(np.stack(ones), expected)
    else:
        np.testing.assert_array_equal(batch, np.stack(ones))
    assert split_steps(made) == ([], made)


@pytest.mark.parametrize("name", BATCHED)
def test_the_reference_of_a_batch_step_is_independent_and_equal(name: str) -> None:
    options, given, expected = BATCHED[name]
    step = reference_steps.STEPS[name.partition(":")[0]]
    ones = [np.asarray(step(one, **options)) for one in given]
    compared(np.stack(ones), expected)


def test_stack_makes_a_vector_of_numbers() -> None:
    made = steps({"step": "stack", "feature": "x", "of": ["b", "a"]})
    features = {"a": tf.constant([1, 2]), "b": tf.constant([3.5, 4.5])}
    batch = apply_to_batch(made, features)
    np.testing.assert_array_equal(batch["x"], [[3.5, 1], [4.5, 2]])
    one = {"a": 1, "b": 3.5}
    assert reference_steps.STEPS["stack"](one, "x", ["b", "a"])["x"].tolist() == [
        3.5,
        1,
    ]
    assert split_steps(made) == ([], made)


SIZES = [(8, 8), (5, 9), (12, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_resizing_equals_that_of_keras(
    size: tuple[int, int], fit: str, method: str
) -> None:
    options = {"size": list(size), "fit": fit, "method": method}
    made = steps({"step": "resize", "feature": "x", **options})
    layer = keras.layers.Resizing(
        *size,
        interpolation=method,
        crop_to_aspect_ratio=fit == "crop",
        pad_to_aspect_ratio=fit == "pad",
        dtype="float32",
    )
    for shape in ((10, 7, 3), (6, 20, 1), (9, 9, 3)):
        image = np.random.default_rng(0).random(shape, np.float32) * 255
        found = apply_to_example(made, {"x": tf.constant(image)})["x"].numpy()
        assert found.shape == (*size, shape[-1])
        np.testing.assert_allclose(found, np.asarray(layer(image)), atol=1e-3)
        again = reference_steps.STEPS["resize"](image, **options)
        np.testing.assert_allclose(found, again, atol=1e-3)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "area", "lanczos3"])
def test_resizing_with_antialias_equals_that_of_tensorflow(method: str) -> None:
    image = np.random.default_rng(0).random((40, 30, 3), np.float32)
    options = {"size": [7, 9], "method": method, "antialias": True}
    made = steps({"step": "resize", "feature": "x", **options})
    found = apply_to_example(made, {"x": tf.constant(image)})["x"].numpy()
    expected = tf.image.resize(image, [7, 9], method=method, antialias=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if method == "bilinear":
        plain = tf.image.resize(image, [7, 9], method=method)
        assert np.abs(found - plain).max() > 0.1


def test_antialias_is_that_of_pil() -> None:
    image = np.random.default_rng(0).random((40, 30), np.float32)
    made = steps({"step": "resize", "feature": "x", "size": [7, 9], "antialias": True})
    found = apply_to_example(made, {"x": tf.constant(image[..., None])})["x"].numpy()
    resized = PIL.Image.fromarray(image).resize((9, 7), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_allclose(found[..., 0], np.asarray(resized), atol=1e-4)


@pytest.mark.parametrize("shape", [(9, 9, 3), (6, 20, 1), (10, 7, 3), (5, 6, 3)])
def test_center_crop_equals_that_of_keras(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    made = steps({"step": "center_crop", "feature": "x", "size": [5, 6]})
    found = apply_to_example(made, {"x": tf.constant(image)})["x"].numpy()
    expected = np.asarray(keras.layers.CenterCrop(5, 6)(image))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        reference_steps.STEPS["center_crop"](image, [5, 6]), expected
    )


def test_an_image_smaller_than_its_crop_fails() -> None:
    made = steps({"step": "center_crop", "feature": "x", "size": [5, 6]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="smaller than its crop"):
        apply_to_example(made, {"x": tf.zeros([4, 9, 1])})


def encoded(form: str, mode: str, **options: Any) -> tuple[bytes, PIL.Image.Image]:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (13, 21, channels), np.uint8)
    image = PIL.Image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode=mode)
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue(), image


FORMS = [
    ("PNG", "L", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("JPEG", "L", {}),
    ("JPEG", "RGB", {}),
    ("GIF", "RGB", {}),
    ("BMP", "RGB", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {"lossless": True, "exact": True}),
    ("WEBP", "RGBA", {"quality": 50}),
]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("form", "mode", "options"), FORMS)
def test_every_image_format_is_decoded_to_the_channels_asked_for(
    form: str, mode: str, options: dict[str, Any], channels: int
) -> None:
    data, image = encoded(form, mode, **options)
    if form != "JPEG":
        assert image_size(data) == (13, 21)
    made = steps({"step": "decode_image", "feature": "x", "channels": channels})
    found = apply_to_example(made, {"x": tf.constant(data)})["x"].numpy()
    assert found.shape == (13, 21, channels)
    again = reference_steps.STEPS["decode_image"](data, channels=channels)
    np.testing.assert_array_equal(found, again)
    if form in ("PNG", "BMP") or options.get("lossless"):
        expected = np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
        seen = found[..., 0] if channels == 1 else found
        # luma is rounded one way here, another there
        assert np.abs(seen.astype(int) - expected).max() <= (channels == 1)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(("form", "mode", "options"), FORMS)
def test_a_decompression_bomb_is_refused_by_its_header(
    form: str, mode: str, options: dict[str, Any]
) -> None:
    data, _ = encoded(form, mode, **options)
    made = steps({"step": "decode_image", "feature": "x", "max_pixels": 13 * 21 - 1})
    with pytest.raises(tf.errors.InvalidArgumentError, match="more pixels than"):
        apply_to_example(made, {"x": tf.constant(data)})


@given(st.binary(max_size=40), st.sampled_from(["", "RIFF....WEBP", "GIF8", "BM"]))
def test_any_header_has_a_size_or_none(data: bytes, head: str) -> None:
    assert min(image_size(head.encode() + data)) >= 0


PADDED: list[tuple[dict[str, Any], list[int], list[int], list[int]]] = [
    ({"lengths": [4]}, [5, 6], [5, 6, 0, 0], [1, 1, 0, 0]),
    ({"lengths": [4], "at": "start", "value": 9}, [5], [9, 9, 9, 5], [0, 0, 0, 1]),
    ({"lengths": [8, 2, 4]}, [5, 6, 7], [5, 6, 7, 0], [1, 1, 1, 0]),
    ({"lengths": [2, 4]}, [], [0, 0], [0, 0]),
    ({"lengths": [2], "truncate": "end"}, [5, 6, 7], [5, 6], [1, 1]),
    ({"lengths": [2], "truncate": "start"}, [5, 6, 7], [6, 7], [1, 1]),
]


@pytest.mark.parametrize(("options", "given", "expected", "mask"), PADDED)
def test_sequences_are_padded_truncated_and_masked(
    options: dict[str, Any], given: list[int], expected: list[int], mask: list[int]
) -> None:
    made = steps({"step": "pad", "feature": "x", "mask": "m", **options})
    row = {"x": tf.constant(given, tf.int64)}
    found = apply_to_example(made, row)
    assert found["x"].numpy().tolist() == expected
    assert found["m"].numpy().tolist() == [bool(n) for n in mask]
    again = reference_steps.STEPS["pad"](
        {"x": np.array(given)}, "x", mask="m", **options
    )
    assert again["x"].tolist() == expected
    assert again["m"].tolist() == [bool(n) for n in mask]


def test_padding_of_text_and_of_rows_of_vectors() -> None:
    made = steps({"step": "pad", "feature": "x", "lengths": [3]})
    found = apply_to_example(made, {"x": tf.constant(["a"])})["x"]
    assert found.numpy().tolist() == [b"a", b"", b""]
    assert reference_steps.STEPS["pad"]({"x": np.array([b"a"], object)}, "x", [3])[
        "x"
    ].tolist() == [b"a", b"", b""]
    found = apply_to_example(made, {"x": tf.ones([1, 2])})["x"]
    assert found.numpy().tolist() == [[1, 1], [0, 0], [0, 0]]


def test_a_row_longer_than_all_lengths_fails() -> None:
    made = steps({"step": "pad", "feature": "x", "lengths": [2]})
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than all lengths"):
        apply_to_example(made, {"x": tf.constant([1, 2, 3])})


def test_numbers_outside_of_one_hot_fail() -> None:
    made = steps({"step": "one_hot", "feature": "x", "depth": 3})
    for wrong in (-1, 3):
        with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to below"):
            apply_to_batch(made, {"x": tf.constant([0, wrong])})


def test_images_are_decoded_and_resized_per_example() -> None:
    encoded = tf.io.encode_png(PIXELS[0])
    made = steps(
        {"step": "decode_image", "feature": "x", "channels": 1},
        {"step": "resize", "feature": "x", "size": [2, 2], "method": "area"},
    )
    result = apply_to_example(made, {"x": encoded})["x"].numpy()
    expected = PIXELS[0].reshape(2, 2, 2, 2).mean((1, 3))[..., None]
    np.testing.assert_allclose(result, expected, atol=1e-4)
    assert split_steps(made) == (made, [])


def test_every_built_in_is_tested() -> None:
    tested = {name.partition(":")[0] for name in BATCHED}
    others = {"decode_image", "resize", "center_crop", "pad", "stack"}
    elsewhere = {"decode_npy"}  # test_arrays.py
    assert PREPROCESSORS.keys() == tested | others | elsewhere


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("rescal", "nearest is 'rescale'"),
        ({"step": "rescale", "scale": 1}, r"preprocess\[0\].feature is required"),
        ({"step": "rescale", "feature": "vec"}, r"preprocess\[0\].scale is required"),
        ({"step": "rescale", "feature": "vek", "scale": 1}, "nearest is 'vec'"),
        ({"step": "cast", "feature": "vec", "dtyp": "int32"}, "nearest is 'dtype'"),
        (
            {"step": "cast", "feature": "vec", "dtype": "floaty"},
            "must fit the features",
        ),
        ({"step": "toolbox:double", "factr": 1}, "nearest is 'factor'"),
        (
            {"step": "rescale", "feature": "vec", "scale": 1, "batched": True},
            "batched is for functions of your own",
        ),
        ({"step": "resize", "feature": "vec", "size": [2, 2]}, "must fit the features"),
        ({"step": "stack", "feature": "x", "of": ["idd"]}, r"\.of must name .* 'id'"),
        ({"step": "standardize", "feature": "vec", "mean": 1}, "both mean and std"),
        (
            {"step": "keras_application", "feature": "vec", "name": "resnet5"},
            "nearest is 'resnet50'",
        ),
    ],
)
def test_steps_that_do_not_fit_are_refused(job: Job, step: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        job.plan(source={"preprocess": [step]})


@pytest.mark.parametrize("batched", [True, False])
def test_a_users_function_sees_what_it_asks_for(job: Job, batched: bool) -> None:
    double = {"step": "toolbox:double", "factor": 3.0, "batched": batched}
    center = {"step": "toolbox:center", "batched": batched}
    plain = job.run(source={"keep": ["vec"]}, taps=[{"path": "stem"}])
    other = Job(job.directory / "other", job.source)
    table = other.run(source={"preprocess": [double, center]}, taps=[{"path": "stem"}])
    import toolbox

    # batches are full but the last of each part
    values = stacked(plain["vec"]) * 3.0
    if batched:
        starts = [s for shard in other.plan().shards for s in [shard.rows or 0]]
        groups = [
            group
            for rows in np.split(values, np.cumsum(starts)[:-1])
            for group in np.split(rows, range(16, len(rows), 16))
        ]
        values = np.concatenate([group - group.mean(0) for group in groups])
    else:
        values = values - values.mean(1, keepdims=True)
    stem = toolbox.dict_model().get_layer("stem")
    np.testing.assert_allclose(stacked(table["stem"]), stem(values), atol=1e-5)


def test_annotations_that_cannot_be_resolved_do_not_matter(job: Job) -> None:
    step = {"step": "toolbox:lazily_typed", "factor": 2}
    assert job.plan(source={"preprocess": [step]}).rows == 100
    with pytest.raises(ConfigError, match=r"preprocess\[0\].factor: .* got 'x'"):
        job.plan(source={"preprocess": [{**step, "factor": "x"}]})


def test_a_corrupt_image_is_quarantined_and_its_neighbours_kept(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 9, 11, 1), np.uint8)
    data = [tf.io.encode_png(image).numpy() for image in images]
    data[11] = b"not an image"
    data[20] = data[20][:40]
    table = pa.table({"id": list(range(30)), "image": data})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=8)
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    preprocess = [
        {"step": "decode_image", "feature": "image", "channels": 1},
        {"step": "resize", "feature": "image", "size": [8, 8]},
        {"step": "rescale", "feature": "image", "scale": 1 / 255},
    ]
    result = job.run(
        source={"preprocess": preprocess, "keep": ["image"]},
        model={"build": "toolbox:image_model", "batch_rows": 8},
        taps=[{"path": "conv", "reduce": "global_average_pool"}],
        errors={"max_fraction": 0.1},
    )
    assert set(result["example_id"].to_pylist()) == set(range(30)) - {11, 20}
    errors = job.errors()
    assert [(e["row"], e["stage"], e["example_id"]) for e in errors] == [
        (11, "preprocess", "11"),
        (20, "preprocess", "20"),
    ]
    assert {e["exception"] for e in errors} == {"InvalidArgumentError"}
    assert not any("node" in e["message"] for e in errors)
    # what is kept is what was read
    assert result["image"][0].as_py() == data[0]
    import toolbox

    resized = tf.image.resize(images[3], [8, 8]) / 255
    conv = toolbox.image_model().get_layer("conv")
    expected = np.asarray(conv(resized[None])).mean((1, 2))[0]
    np.testing.assert_allclose(result["conv"][3].as_py(), expected, atol=1e-5)


def test_images_of_many_sizes_need_a_resize(tmp_path: Path) -> None:
    data = [tf.io.encode_png(PIXELS[0]).numpy()]
    pq.write_table(pa.table({"image": data}), tmp_path / "i.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    decode = {"step": "decode_image", "feature": "image", "channels": 1}
    # the model's own shape completes what decoding leaves open; a row of another
    # shape is then a bad row
    config = {
        "source": {"preprocess": [decode], "key": None},
        "model": {"build": "toolbox:image_model"},
        "taps": [{"path": "conv"}],
    }
    assert job.plan(**config).rows == 1
    with pytest.raises(ConfigError, match=r"must have shape \[8, 8, 1\]"):
        job.plan(**{**config, "source": {"preprocess": [{**decode, "channels": 3}]}})
