"""The table of dtypes agrees with numpy, TensorFlow and Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from transforms.config import TapSpec
from transforms.dtypes import (
    DTYPES,
    KEY_DTYPES,
    Dtype,
    Feature,
    column_dtype,
    is_null_name,
    null_name,
    tensor_specs,
)

NUMBERS = [d for d in DTYPES.values() if d.family in ("flag", "integer", "float")]


@pytest.mark.parametrize("name", DTYPES)
def test_a_type_is_entered_under_its_own_name(name: str) -> None:
    assert DTYPES[name].name == name


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda d: d.name)
def test_numbers_are_of_one_type_everywhere(dtype: Dtype) -> None:
    kind = np.dtype(dtype.name)
    assert tf.as_dtype(dtype.tensor).as_numpy_dtype == kind
    assert dtype.arrow.to_pandas_dtype() == kind
    assert dtype.bytes == kind.itemsize == tf.as_dtype(dtype.tensor).size
    families = {"b": "flag", "i": "integer", "u": "integer", "f": "float"}
    assert dtype.family == families[kind.kind]


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda d: d.name)
def test_extreme_numbers_survive_tensor_and_column(dtype: Dtype) -> None:
    kind = np.dtype(dtype.name)
    info = {"f": np.finfo, "i": np.iinfo, "u": np.iinfo}.get(kind.kind)
    extremes = [info(kind).min, info(kind).max] if info else [False, True]
    values = np.array([*extremes, 0, 1], kind)
    tensor = tf.constant(values, dtype.tensor)
    column = pa.array(tensor.numpy(), dtype.arrow)
    assert column.to_numpy(zero_copy_only=False).tolist() == values.tolist()


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [("string", "häß", "häß"), ("bytes", b"\xff\x00", b"\xff\x00")],
)
def test_text_and_bytes_are_string_tensors(
    name: str, value: str | bytes, stored: str | bytes
) -> None:
    dtype = DTYPES[name]
    raw = tf.constant([value]).numpy()
    assert tf.constant([value]).dtype == tf.as_dtype(dtype.tensor) == tf.string
    assert pa.array(raw, pa.binary()).cast(dtype.arrow).to_pylist() == [stored]
    assert dtype.family == "text"


def test_timestamps_are_microseconds_of_utc_in_int64() -> None:
    dtype = DTYPES["timestamp"]
    assert (dtype.family, dtype.bytes) == ("time", np.dtype(dtype.tensor).itemsize)
    (moment,) = pa.array(np.array([1_500_000], dtype.tensor)).cast(dtype.arrow)
    assert moment.as_py().isoformat() == "1970-01-01T00:00:01.500000+00:00"


def test_families_are_those_that_casts_stay_within() -> None:
    families: dict[str, set[str]] = {}
    for dtype in DTYPES.values():
        families.setdefault(dtype.family, set()).add(dtype.name)
    bits = (8, 16, 32, 64)
    assert families == {
        "text": {"string", "bytes"},
        "time": {"timestamp"},
        "flag": {"bool"},
        "float": {"float16", "float32", "float64"},
        "integer": {f"{sign}int{n}" for sign in ("", "u") for n in bits},
    }


def test_keys_are_text_or_whole_numbers_that_feature_stores_take() -> None:
    whole = {name for name, dtype in DTYPES.items() if dtype.family == "integer"}
    assert set(KEY_DTYPES) == {"string", *whole} - {"uint64"}


def test_types_that_a_tap_may_ask_for_are_the_floats() -> None:
    for name in (n for n, dtype in DTYPES.items() if dtype.family == "float"):
        assert TapSpec(path="x", dtype=name).dtype == name  # type: ignore[arg-type]


def test_half_floats_are_widened_and_what_has_no_column_has_none() -> None:
    wide = {"float16": "float32", "bfloat16": "float32"}
    for dtype in NUMBERS:
        assert column_dtype(dtype.name) == wide.get(dtype.name, dtype.name)
    assert column_dtype("bfloat16") == "float32"
    assert column_dtype("string") == "string"
    for name in ("complex64", "complex128", "resource", "variant", "qint8", ""):
        assert column_dtype(name) is None


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("batched", [False, True])
def test_a_feature_is_carried_by_its_tensor(name: str, batched: bool) -> None:
    (spec,) = tensor_specs({"x": Feature(name, (2, None))}, batched=batched).values()
    lead = [None] if batched else []
    assert spec.shape.as_list() == [*lead, 2, None]
    assert spec.dtype == tf.as_dtype(DTYPES[name].tensor)


def test_a_nullable_feature_comes_with_one_that_says_where_it_is_null() -> None:
    features = {
        "a": Feature("string", nullable=True),
        "b": Feature("float32", (3,), nullable=True),
        "c": Feature("int8"),
    }
    specs = tensor_specs(features, batched=True)
    assert list(specs) == ["a", null_name("a"), "b", null_name("b"), "c"]
    assert specs[null_name("b")] == tf.TensorSpec([None], tf.bool)
    assert tensor_specs(features)[null_name("b")] == tf.TensorSpec([], tf.bool)
    assert tensor_specs({}) == {}


@pytest.mark.parametrize("name", ["x", "", "x\0", "null", "x\0null\0"])
def test_names_of_null_flags_are_no_names_of_features(name: str) -> None:
    assert not is_null_name(name)
    assert is_null_name(null_name(name))
    assert null_name(name) != name
