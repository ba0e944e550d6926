"""A file of another type than planned never changes a value: its rows are bad rows."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job
from readers import prepare_tfds
from test_casts import TAP

from transforms.dtypes import Feature
from transforms.sources.arrow import arrow_type, block_of, feature_of

LARGE = 2**40


def lists(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.list_(kind))


# planned type; another file's column; its rows that are kept, as the planned type
OTHERS: dict[str, tuple[pa.DataType, pa.Array, dict[int, Any]]] = {
    "int64 as bool": (pa.bool_(), pa.array([1, 0]), {}),
    "bool as int8": (pa.int8(), pa.array([True, False]), {}),
    "int64 as int32": (pa.int32(), pa.array([LARGE, 3, -1]), {1: 3, 2: -1}),
    "int64 as uint64": (pa.uint64(), pa.array([-1, 3]), {1: 3}),
    "uint64 as int64": (pa.int64(), pa.array([2**63, 3], pa.uint64()), {1: 3}),
    "int8 as uint16": (pa.uint16(), pa.array([-1, 7], pa.int8()), {1: 7}),
    "int32 as int64": (pa.int64(), pa.array([5, -5], pa.int32()), {0: 5, 1: -5}),
    "float64 as float32": (
        pa.float32(),
        pa.array([0.5, 0.1, 16777217.0, 1e300, -np.inf]),
        {0: 0.5, 4: -np.inf},
    ),
    "float32 as float64": (pa.float64(), pa.array([0.5], pa.float32()), {0: 0.5}),
    "float32 as float16": (
        pa.float16(),
        pa.array([0.5, 70000.0, 2049.0], pa.float32()),
        {0: 0.5},
    ),
    "int64 as float64": (pa.float64(), pa.array([1, 2]), {}),
    "float64 as int64": (pa.int64(), pa.array([1.0, 2.0]), {}),
    "int64 as timestamp": (pa.timestamp("us"), pa.array([1600000000]), {}),
    "timestamp as int64": (pa.int64(), pa.array([0], pa.timestamp("us")), {}),
    "text as int64": (pa.int64(), pa.array(["1"]), {}),
    "int64 as text": (pa.string(), pa.array([1]), {}),
    "binary as text": (pa.string(), pa.array([b"a"]), {}),
    "text as binary": (pa.binary(), pa.array(["a"]), {}),
    "large text as text": (pa.string(), pa.array(["a"], pa.large_string()), {0: b"a"}),
    "a dictionary as text": (
        pa.string(),
        pa.array(["b", "a"]).dictionary_encode(),
        {0: b"b", 1: b"a"},
    ),
    "a list as a scalar": (pa.int64(), lists([[1]], pa.int64()), {}),
    "a scalar as a list": (pa.list_(pa.int64(), 1), pa.array([1]), {}),
    "a far second as timestamp": (
        pa.timestamp("us"),
        pa.array([2**60, 1], pa.timestamp("s")),
        {1: 10**6},
    ),
    "a far day as timestamp": (
        pa.timestamp("us"),
        pa.array([2**31 - 1, 1], pa.date32()),
        {1: 86_400 * 10**6},
    ),
    "milliseconds elsewhere as timestamp": (
        pa.timestamp("us"),
        pa.array([5], pa.timestamp("ms", "Asia/Tokyo")),
        {0: 5000},
    ),
    "lists of int64 as int32": (
        pa.list_(pa.int32(), 2),
        lists([[1, LARGE], [1, 2], [LARGE, -LARGE], [3]], pa.int64()),
        {1: [1, 2]},
    ),
    "fixed lists of float64 as float32": (
        pa.list_(pa.float32(), 2),
        pa.array([[0.5, 0.1], [0.5, 1.5]], pa.list_(pa.float64(), 2)),
        {1: [0.5, 1.5]},
    ),
    "fixed lists of int64 as float32": (
        pa.list_(pa.float32(), 2),
        pa.array([[1, 2]], pa.list_(pa.int64(), 2)),
        {},
    ),
    "matrices of int64 as uint8": (
        pa.list_(pa.list_(pa.uint8(), 1), 2),
        pa.array([[[1], [256]], [[0], [255]]], pa.list_(pa.list_(pa.int64(), 1), 2)),
        {1: [[0], [255]]},
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_values_of_another_type_are_the_same_or_bad_rows(name: str) -> None:
    kind, column, kept = OTHERS[name]
    feature = feature_of(kind)
    assert feature is not None
    block = block_of(pa.table({"x": column}), np.arange(len(column)), {"x": feature})
    sound = {
        int(row): block.values["x"][row] for row in np.flatnonzero(block.faults == "")
    }
    assert block.values["x"].dtype == np.dtype(
        object if feature.family == "text" else feature.tensor_dtype
    )
    assert {row: np.asarray(v).tolist() for row, v in sound.items()} == kept
    assert all("x" in fault for fault in block.faults if fault)


def test_the_fault_names_the_first_value_that_does_not_fit() -> None:
    column = lists([[1, 2], [3, LARGE, -LARGE], [None, LARGE], [4, -LARGE]], pa.int64())
    feature = feature_of(pa.list_(pa.int32()))
    assert feature is not None
    faults = block_of(pa.table({"x": column}), np.arange(4), {"x": feature}).faults
    assert faults.tolist() == [
        "",
        f"x must hold values that fit into int32, as planned, got {LARGE} (int64)",
        "x holds a null",
        f"x must hold values that fit into int32, as planned, got -{LARGE} (int64)",
    ]


def test_a_column_of_nothing_but_nulls_holds_nulls_of_any_type() -> None:
    for kind in (
        pa.int32(),
        pa.string(),
        pa.list_(pa.float32(), 2),
        pa.timestamp("us"),
    ):
        feature = feature_of(kind)
        assert feature is not None
        table = pa.table({"x": pa.nulls(2)})
        faults = block_of(table, np.arange(2), {"x": feature}).faults
        assert faults.tolist() == ["x is null"] * 2


def test_the_fault_tells_a_null_from_another_length() -> None:
    pairs = Feature("float32", (2,))
    matrices = Feature("float32", (2, 2))
    rows: dict[str, tuple[Feature, list[Any]]] = {
        "pair": (pairs, [None, [1.0], [None, 1.0], [1.0, 2.0, 3.0]]),
        "matrix": (matrices, [[[1.0, 2.0]], [[1.0, 2.0], None], [[], []], None]),
        "open": (Feature("int64", (None,)), [None, [None], [], [1]]),
        "one": (Feature("string"), [None, "", "a", None]),
    }
    said = {}
    for name, (feature, values) in rows.items():
        table = pa.table({name: pa.array(values, arrow_type(feature))})
        said[name] = block_of(table, np.arange(4), {name: feature}).faults.tolist()
    length = "pair has length"
    assert said == {
        "pair": [
            "pair is null",
            f"{length} 1, planned was 2",
            "pair holds a null",
            f"{length} 3, planned was 2",
        ],
        "matrix": [
            "matrix has length 1, planned was 2",
            "matrix holds a null",
            "matrix holds a list of length 0, planned was 2",
            "matrix is null",
        ],
        "open": ["open is null", "open holds a null", "", ""],
        "one": ["one is null", "", "", "one is null"],
    }


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_rows_of_a_file_of_another_type_are_bad_rows_and_others_kept(
    tmp_path: Path, suffix: str
) -> None:
    columns = {
        "first": [pa.array([1, 2], pa.int32()), pa.array([True, False])],
        "second": [pa.array([LARGE, 3], pa.int64()), pa.array([True, True])],
        "third": [pa.array([5, 6], pa.int64()), pa.array([1, 0])],
    }
    for at, (name, (lab, flag)) in enumerate(columns.items()):
        ids = [2 * at, 2 * at + 1]
        x = pa.array([[0.5, 1.0]] * 2, pa.list_(pa.float32(), 2))
        table = pa.table({"id": ids, "x": x, "lab": lab, "flag": flag})
        path = tmp_path / f"{at}{name}.{suffix}"
        if suffix == "parquet":
            pq.write_table(table, path)
        else:
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write(table)
    job = Job(tmp_path / "o", {"reader": "parquet", "path": str(tmp_path / "*.*")})
    found = job.run(
        source={"keep": ["lab", "flag"]},
        model={"build": "test_casts:float32_model"},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    assert found["example_id"].to_pylist() == [0, 1, 3]
    assert found["lab"].to_pylist() == [1, 2, 3]
    errors = job.errors()
    assert {error["stage"] for error in errors} == {"read"}
    messages = sorted(error["message"] for error in errors)
    assert messages == [
        "column 'flag' is int64, planned was bool",
        "column 'flag' is int64, planned was bool",
        f"lab must hold values that fit into int32, as planned, got {LARGE} (int64)",
    ]


def test_arrays_of_another_type_are_bad_rows(tmp_path: Path) -> None:
    x = np.full([2, 2], 0.5, np.float32)
    np.savez(tmp_path / "0.npz", id=np.arange(2), x=x, n=np.array([1, 2], np.int32))
    np.savez(tmp_path / "1.npz", id=np.arange(2, 4), x=x, n=np.array([LARGE, 3]))
    job = Job(tmp_path / "o", {"reader": "numpy", "path": str(tmp_path / "*.npz")})
    found = job.run(
        source={"keep": ["n"]},
        model={"build": "test_casts:float32_model"},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    assert found["n"].to_pylist() == [1, 2]
    assert all("array 'n' is" in error["message"] for error in job.errors())


def test_times_of_numpy_that_are_none_are_bad_rows(tmp_path: Path) -> None:
    times = {
        "s": [0, 2**60, np.datetime64("NaT"), -1],
        "D": [0, 2**45, np.datetime64("NaT"), -1],
        "ns": [0, 1500, np.datetime64("NaT"), -(10**9)],
    }
    for unit, given in times.items():
        place = tmp_path / unit
        place.mkdir()
        when = np.array(given, f"datetime64[{unit}]")
        x = np.full([4, 2], 0.5, np.float32)
        np.savez(place / "a.npz", id=np.arange(4), x=x, when=when)
        job = Job(place, {"reader": "numpy", "path": str(place / "*.npz")})
        found = job.run(
            source={"keep": ["when"]},
            model={"build": "test_casts:float32_model"},
            taps=TAP,
            errors={"max_fraction": 1.0},
        )
        kept = [0, 1, 3] if unit == "ns" else [0, 3]
        assert found["example_id"].to_pylist() == kept
        micros = when[kept].astype("datetime64[us]").astype(np.int64)
        assert found["when"].cast(pa.int64()).to_pylist() == micros.tolist()
        assert all("when must hold times" in e["message"] for e in job.errors())


def member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    found = tarfile.TarInfo(name)
    found.size = len(data)
    archive.addfile(found, io.BytesIO(data))


@pytest.mark.parametrize(
    ("dtype", "texts", "kept"),
    [
        ("uint8", ["255", "256", "-1", "1.5"], [255]),
        ("float32", ["0.1", "1e39", "-inf"], [float(np.float32(0.1)), -np.inf]),
        ("float64", ["0.1", "1e400", "Infinity"], [0.1, np.inf]),
        ("bool", ["1", "2", "false"], [True, False]),
    ],
)
def test_numbers_in_tar_files_fit_or_are_bad_rows(
    tmp_path: Path, dtype: str, texts: list[str], kept: list[Any]
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for row, text in enumerate(texts):
            member(archive, f"{row}.n", text.encode())
            member(archive, f"{row}.x", np.zeros(2, np.float32).tobytes())
    raw = {"step": "decode_raw", "feature": "x", "dtype": "float32", "shape": [2]}
    source = {
        "reader": "webdataset",
        "path": str(tmp_path / "a.tar"),
        "features": {"n": dtype, "x": "bytes"},
        "preprocess": [raw],
    }
    found = Job(tmp_path, source).run(
        source={"keep": ["n"], "key": "__key__"},
        model={"build": "test_casts:float32_model"},
        taps=TAP,
        errors={"max_fraction": 1.0},
    )
    assert found["n"].to_pylist() == kept
    for error in Job(tmp_path, source).errors():
        assert error["stage"] == "read"
        said = "true, false" if dtype == "bool" else "fits into"
        assert said in error["message"] or "1.5" in error["message"]


def test_tfds_numbers_that_do_not_fit_their_type_are_bad_rows(tmp_path: Path) -> None:
    ids = [3, 255, 256, -1, LARGE]
    vec = np.ones(6, np.float32)
    prepare_tfds(tmp_path, [{"id": i, "vec": vec, "text": f"row {i}"} for i in ids])
    (path,) = tmp_path.rglob("features.json")
    document = json.loads(path.read_text())
    features = document["featuresDict"]["features"]
    features["id"] = json.loads(json.dumps(features["id"]).replace("int64", "uint8"))
    path.write_text(json.dumps(document))
    source = {"reader": "tfds", "name": "vectors", "data_dir": str(tmp_path)}
    job = Job(tmp_path, source)
    assert job.plan().features["id"].dtype == "uint8"
    found = job.run(errors={"max_fraction": 1.0})
    assert sorted(found["example_id"].to_pylist()) == [3, 255]
    messages = sorted(error["message"] for error in job.errors())
    fits = "feature 'id' must hold values that fit into uint8, got"
    assert messages == [f"{fits} -1", f"{fits} {LARGE}", f"{fits} 256"]
