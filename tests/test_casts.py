"""A cast rounds and saturates floats; what would become another value is a bad row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, worker_of
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parity import reference_steps
from transforms.casts import cast, fitting
from transforms.config import SourceSpec
from transforms.handler import ActivationModelHandler
from transforms.lookup import ConfigError
from transforms.preprocess.steps import apply_to_batch, make_steps

INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]
REFUSED = tf.errors.InvalidArgumentError


def in_graph(values: Any, dtype: str) -> np.ndarray:
    function = tf.function(lambda given: cast(given, dtype, "feature 'x'"))
    return np.asarray(function(tf.constant(values)))


@pytest.mark.parametrize(("source", "target"), [*itertools.product(FLOATS, INTEGERS)])
def test_floats_are_rounded_half_to_even_and_saturated(
    source: str, target: str
) -> None:
    limits = np.iinfo(target)
    near = [n + d for n in (limits.min, 0, limits.max) for d in (-1.5, -0.5, 0.5, 2.5)]
    with np.errstate(over="ignore"):
        values = np.array([*near, -3e38, 3e38, 2.5, 3.5, -2.5], source)
    values = values[np.isfinite(values)]
    exact = [min(max(round(float(v)), limits.min), limits.max) for v in values]
    assert in_graph(values, target).tolist() == exact
    assert reference_steps.STEPS["cast"](values, target).tolist() == exact


@given(st.data())
def test_whole_numbers_stay_what_they_are_or_are_refused(data: st.DataObject) -> None:
    source, target = (data.draw(st.sampled_from(INTEGERS)) for _ in range(2))
    limits, wanted = np.iinfo(source), np.iinfo(target)
    edges = {n + d for n in (wanted.min, wanted.max) for d in (-1, 0, 1)}
    inside = sorted(n for n in edges | {0} if limits.min <= n <= limits.max)
    number = data.draw(
        st.sampled_from(inside) | st.integers(int(limits.min), int(limits.max))
    )
    values = tf.constant(np.array([[0, number]], source))
    if wanted.min <= number <= wanted.max:
        assert cast(values, target, "n").numpy().tolist() == [[0, number]]
    else:
        with pytest.raises(REFUSED, match=f"n must hold .* into {target}.*{number}"):
            cast(values, target, "n")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", FLOATS)
def test_nan_and_infinite_values_are_no_whole_numbers(
    source: str, number: float
) -> None:
    for target in (*INTEGERS, "bool"):
        with pytest.raises(REFUSED, match="must hold values that fit into"):
            in_graph(np.array([1, number], source), target)
    for target in FLOATS:
        found = in_graph(np.array([1, number], source), target)
        np.testing.assert_array_equal(found, np.array([1, number], target))


@pytest.mark.parametrize(
    ("source", "target", "most", "number"),
    [
        ("float32", "float16", 65519.0, 65520.0),
        ("float64", "float16", -65504.0, -1e6),
        ("float64", "float32", 3.4e38, 1e300),
        ("float32", "bfloat16", 3.38e38, 3.4e38),
        ("int32", "float16", 65_504, 70_000),
        ("uint16", "float16", 65_504, 65_535),
    ],
)
def test_finite_numbers_stay_finite(
    source: str, target: str, most: float, number: float
) -> None:
    with pytest.raises(REFUSED, match=f"fit into {target}, got"):
        in_graph(np.array([1, number], source), target)
    assert np.isfinite(in_graph(np.array([1, most], source), target)).all()


def test_flags_are_zero_or_one() -> None:
    for source in (*INTEGERS, *FLOATS):
        assert in_graph(np.array([0, 1], source), "bool").tolist() == [False, True]
        with pytest.raises(REFUSED, match="fit into bool"):
            in_graph(np.array([0, 2], source), "bool")
        assert in_graph(np.array([False, True]), source).tolist() == [0, 1]


def test_empty_and_ragged_tensors_are_cast_too() -> None:
    assert in_graph(np.zeros([0, 3], np.int64), "int8").shape == (0, 3)
    ragged = tf.ragged.constant([[0.5, 1.5], [], [300.0]])
    made = cast(ragged, "uint8", "x")
    assert made.to_list() == [[0, 2], [], [255]]
    with pytest.raises(REFUSED, match="fit into float16"):
        cast(ragged * 1000, "float16", "x")


def test_fitting_gives_the_values_as_they_are() -> None:
    values = tf.constant([1, 255], tf.int64)
    assert fitting(values, "uint8", "x") is not None
    assert fitting(values, "uint8", "x").dtype == tf.int64
    with pytest.raises(REFUSED, match=r"x must hold values that fit into uint8, got"):
        fitting(values + 1, "uint8", "x")


def test_steps_that_compute_in_float32_refuse_what_is_none() -> None:
    large = tf.constant([[1e300, 0.0]], tf.float64)
    for step in (
        {"step": "rescale", "scale": 2.0},
        {"step": "standardize"},
        {"step": "cast", "dtype": "float32"},
        {"step": "stack", "of": ["x"]},
    ):
        spec = SourceSpec(reader="x", preprocess=[{"feature": "x", **step}])
        made = make_steps(spec.preprocess)
        assert apply_to_batch(made, {"x": large / 1e300})["x"].dtype == tf.float32
        with pytest.raises(REFUSED, match="fit into float32"):
            apply_to_batch(made, {"x": large})


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("uint8", -1), ("int32", 0.5), ("int8", 200), ("bool", 2), ("float32", 1e300)],
)
def test_padding_with_a_value_of_another_type_is_refused(
    dtype: str, value: float
) -> None:
    options = {"feature": "x", "lengths": [4], "value": value}
    spec = SourceSpec(reader="x", preprocess=[{"step": "pad", **options}])
    (step,) = make_steps(spec.preprocess)
    with pytest.raises(ConfigError, match=f"must fill up .* fits into {dtype}"):
        step.function({"x": tf.zeros([2], dtype)})
    assert step.function({"x": tf.zeros([2], "float64")})["x"].numpy()[3] == value


def example(**features: Any) -> bytes:
    made = {}
    for name, value in features.items():
        if isinstance(value, float):
            floats = tf.train.FloatList(value=[value] * 2)
            made[name] = tf.train.Feature(float_list=floats)
        else:
            whole = tf.train.Int64List(value=[value])
            made[name] = tf.train.Feature(int64_list=whole)
    return bytes(
        tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()
    )


def identity(dtype: str, shape: tuple[int, ...] = ()) -> Callable[[], keras.Model]:
    x = keras.Input(shape, dtype=dtype, name="x")
    return lambda: keras.Model(x, keras.layers.Identity(name="same")(x))


def int32_model() -> keras.Model:
    """x int32 [] -> x."""
    return identity("int32")()


def uint8_model() -> keras.Model:
    """x uint8 [] -> x."""
    return identity("uint8")()


def float32_model() -> keras.Model:
    """x float32 [2] -> x."""
    return identity("float32", (2,))()


TAP = [{"path": "same", "column": "same"}]
NUMBERS = [3, 255, 2**32 + 5, -1, 7]


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("uint8", [3, 255, 7]), ("int32", [3, 255, -1, 7]), ("bool", []), ("uint64", 4)],
)
def test_messages_keep_their_numbers_in_narrow_types(
    tmp_path: Path, dtype: str, kept: Any
) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        for i, n in enumerate([*NUMBERS, 1]):
            writer.write(example(id=i, n=n, x=0.5))
    features = {"id": "int64", "n": dtype, "x": {"dtype": "float32", "shape": [2]}}
    path = str(tmp_path / "a.tfrecord")
    job = Job(tmp_path, {"reader": "tfrecord", "path": path, "features": {**features}})
    table = job.run(
        source={"keep": ["n"]},
        model={"build": "test_casts:float32_model"},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    wanted = [n for n in NUMBERS if n >= 0] if kept == 4 else kept
    assert table["n"].to_pylist() == [*wanted, 1]
    errors = job.errors()
    assert {error["stage"] for error in errors} == {"read"}
    told = {
        f"feature 'n' must hold values that fit into {dtype}, got" in e["message"]
        for e in errors
    }
    assert told == {True}


def numbers_file(tmp_path: Path, kind: pa.DataType, numbers: list[Any]) -> Job:
    rows = {"id": list(range(len(numbers))), "x": pa.array(numbers, kind)}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    return Job(tmp_path, {"reader": "parquet", "path": str(tmp_path / "x.parquet")})


@pytest.mark.parametrize(
    ("model", "kept"), [("int32", [3, 255, -1, 7]), ("uint8", [3, 255, 7])]
)
def test_numbers_that_a_models_input_cannot_hold_are_bad_rows(
    tmp_path: Path, model: str, kept: list[int]
) -> None:
    job = numbers_file(tmp_path, pa.int64(), NUMBERS)
    table = job.run(
        model={"build": f"test_casts:{model}_model"},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    assert table["same"].to_pylist() == kept
    errors = {error["example_id"]: error for error in job.errors()}
    assert {e["stage"] for e in errors.values()} == {"preprocess"}
    assert errors["2"]["message"] == (
        "feature 'x', a model input, must hold values that fit into"
        f" {model}, got {NUMBERS[2]}"
    )


def test_batches_hold_what_was_read_and_the_model_casts_it(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([[3, 255]], pa.list_(pa.uint8(), 2))})
    pq.write_table(table, tmp_path / "x.parquet")
    job = Job(tmp_path / "out", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    model = {"build": "test_casts:float32_model"}
    made = job.run(source={"key": None}, model=model, taps=TAP)
    assert made["same"].to_pylist() == [[3.0, 255.0]]
    preparation = worker_of(job.table).pipeline.preparation
    inputs, _ = preparation.example.structured_outputs
    assert inputs["x"].dtype == tf.uint8


def test_floats_are_refused_for_an_input_of_whole_numbers(tmp_path: Path) -> None:
    job = numbers_file(tmp_path, pa.float32(), [0.5, 1.0])
    with pytest.raises(ConfigError, match="must be int32, feature 'x' is float32"):
        job.plan(model={"build": "test_casts:int32_model"}, taps=TAP)


def test_floats_that_would_become_infinite_in_a_model_are_bad_rows(
    tmp_path: Path,
) -> None:
    large = [[1.0, 2.0], [1e300, 0.0], [float("inf"), 0.0]]
    job = numbers_file(tmp_path, pa.list_(pa.float64(), 2), large)
    table = job.run(
        model={"build": "test_casts:float32_model"},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    assert table["same"].to_pylist() == [large[0], large[2]]
    (error,) = job.errors()
    assert "fit into float32, got 1" in error["message"]


def test_an_activation_that_its_column_cannot_hold_is_a_bad_row(
    tmp_path: Path,
) -> None:
    values = [[1.0, 2.0], [70_000.0, 0.0], [3.0, float("inf")], [65_504.0, 0.0]]
    job = numbers_file(tmp_path, pa.list_(pa.float32(), 2), values)
    table = job.run(
        model={"build": "test_casts:float32_model"},
        taps=[{**TAP[0], "dtype": "float16"}],
        errors={"max_fraction": 1.0},
    )
    assert table["same"].to_pylist() == [values[0], values[2], values[3]]
    (error,) = job.errors()
    assert error["stage"] == "infer"
    assert error["message"] == (
        "column 'same' must hold values that fit into float16, got 70000"
    )


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ({"dtype": "uint8"}, [0, 2, 255, 0]),
        ({"dtype": "int32"}, [0, 2, 300, -4]),
    ],
)
def test_the_step_cast_rounds_and_names_what_it_cannot_cast(
    tmp_path: Path, step: dict[str, Any], kept: list[int]
) -> None:
    job = numbers_file(tmp_path, pa.float32(), [0.5, 1.5, 300.0, float("nan"), -3.5])
    model = f"test_casts:{step['dtype']}_model"
    table = job.run(
        source={"preprocess": [{"step": "cast", "feature": "x", **step}]},
        model={"build": model},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    assert table["same"].to_pylist() == kept
    (error,) = job.errors()
    assert (error["example_id"], error["stage"]) == ("3", "preprocess")
    assert "feature 'x' must hold values that fit" in error["message"]


def test_the_handler_refuses_what_a_model_cannot_hold() -> None:
    def loaded(dtype: str, shape: tuple[int, ...], build: str) -> Any:
        handler = ActivationModelHandler(
            {"build": f"test_casts:{build}"}, TAP, features={"x": (shape, dtype)}
        )
        model = handler.load_model()
        return lambda *rows: list(
            handler.run_inference([{"x": one} for one in rows], model)
        )

    run = loaded("int64", (), "uint8_model")
    assert [int(one["same"]) for one in run(0, 255)] == [0, 255]
    with pytest.raises(
        ConfigError, match=r"feature 'x' must .* fit into uint8, got 256"
    ):
        run(1, 256)
    run = loaded("float32", (2,), "float32_model")
    with pytest.raises(ConfigError, match="fit into float32, got 1e"):
        run(np.array([1e300, 0.0]))
