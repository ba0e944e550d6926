"""Preprocessing steps, per example and per batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, stacked

from transforms.lookup import ConfigError
from transforms.preprocess import (
    PREPROCESSORS,
    apply_to_batch,
    apply_to_example,
    make_steps,
    split_steps,
)
from transforms.spec import SourceSpec


def steps(*specs: Any) -> list[Any]:
    return make_steps(SourceSpec(reader="x", preprocess=specs).preprocess)


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
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
    "cast": ({"dtype": "int32"}, PIXELS, PIXELS.astype(np.int32)),
}


@pytest.mark.parametrize("name", BATCHED)
def test_batch_step_gives_the_same_per_batch_and_per_example(name: str) -> None:
    options, given, expected = BATCHED[name]
    made = steps({"step": name, "feature": "x", **options})
    batch = apply_to_batch(made, {"x": tf.constant(given)})["x"].numpy()
    ones = [apply_to_example(made, {"x": tf.constant(g)})["x"].numpy() for g in given]
    np.testing.assert_allclose(batch, expected, atol=1e-6)
    np.testing.assert_array_equal(batch, np.stack(ones))
    assert split_steps(made) == ([], made)


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
    assert PREPROCESSORS.keys() == {*BATCHED, "decode_image", "resize"}


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
