"""The step that decodes bytes of `.npy` files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import Job

from pipeline.parity import reference_steps
from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.preprocess.steps import apply_to_example, make_steps, split_steps


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    """The bytes of a `.npy` file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asanyarray(array), version)
    return stream.getvalue()


def decoded(data: bytes, **options: Any) -> np.ndarray:
    step = {"step": "decode_npy", "feature": "x", **options}
    made = make_steps(SourceSpec(reader="x", preprocess=[step]).preprocess)
    assert split_steps(made) == (made, [])
    return np.asarray(apply_to_example(made, {"x": tf.constant(data)})["x"])


MATRIX = np.arange(6).reshape(2, 3)
ARRAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "float32": (MATRIX.astype("<f4"), {"shape": [2, 3]}),
    "big endian": (MATRIX.astype(">f8"), {"shape": [2, 3], "dtype": "float64"}),
    "Fortran order": (np.asfortranarray(MATRIX), {"shape": [2, 3], "dtype": "int64"}),
    "halves": (MATRIX.astype("f2"), {"shape": [2, 3], "dtype": "float16"}),
    "rounded": (np.array([0.1, 1 / 3, np.nan, np.inf]), {"shape": [4]}),
    "whole as float": (MATRIX.astype("u1"), {"shape": [2, 3]}),
    "flags": (np.array([True, False]), {"shape": [2], "dtype": "uint8"}),
    "to flags": (np.array([1, 0]), {"shape": [2], "dtype": "bool"}),
    "unsigned": (np.array([2**64 - 1], "u8"), {"shape": [1], "dtype": "uint64"}),
    "open": (MATRIX, {"shape": [-1, 3], "dtype": "int16"}),
    "none": (np.zeros([0, 3], "f4"), {"shape": [-1, 3]}),
    "scalar": (np.float32(2.5), {"shape": []}),
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_arrays_are_decoded_as_numpy_loads_them(
    kind: str, version: tuple[int, int]
) -> None:
    array, options = ARRAYS[kind]
    data = npy(array, version)
    found = decoded(data, **options)
    expected = np.asarray(array).astype(options.get("dtype", "float32"))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    reference = reference_steps.STEPS["decode_npy"](data, **options)
    assert reference.dtype == expected.dtype
    np.testing.assert_array_equal(reference, expected)


def claiming(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    size = len(header).to_bytes(2, "little")
    return b"\x93NUMPY\x01\x00" + size + header.encode()


WRONG: list[tuple[bytes, dict[str, Any], str]] = [
    (npy(MATRIX), {"shape": [3, 2]}, r"arrays of shape \[3, 2\], got \[2, 3\]"),
    (npy(MATRIX), {"shape": [-1]}, r"arrays of shape \[-1\], got \[2, 3\]"),
    (npy([300]), {"shape": [1], "dtype": "uint8"}, "fit into uint8, got 300"),
    (npy([-1]), {"shape": [1], "dtype": "uint64"}, "fit into uint64, got -1"),
    (npy([2]), {"shape": [1], "dtype": "bool"}, "fit into bool, got 2"),
    (npy([1e300]), {"shape": [1]}, r"fit into float32, got 1e\+300"),
    (npy([1.0]), {"shape": [1], "dtype": "int32"}, "to int32 cannot take .* float64"),
    (npy(["a"]), {"shape": [1]}, "to float32 cannot take arrays of type <U1"),
    (npy(np.array([1j])), {"shape": [1]}, "cannot take arrays of type complex128"),
    (npy(np.array([None])), {"shape": [1]}, "arrays of pickled objects are not read"),
    (npy(MATRIX)[:-1], {"shape": [2, 3]}, "whole files, .* has 47 bytes"),
    (npy(MATRIX) + b"\0", {"shape": [2, 3]}, "whole files, .* has 49 bytes"),
    (claiming("(1000000000, 1000000000)"), {"shape": [-1, -1]}, "has 0 bytes"),
    (b"\x93NUMPY\x04\x00", {"shape": [1]}, "of version 1 to 3"),
    (b"no array", {"shape": [1]}, r"needs the bytes of a .npy file"),
    (b"", {"shape": [1]}, r"needs the bytes of a .npy file"),
]


@pytest.mark.parametrize(("data", "options", "message"), WRONG)
def test_other_bytes_are_bad_rows(
    data: bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decoded(data, **options)


def test_types_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="got 'flaot32'; nearest is 'float32'"):
        decoded(npy(MATRIX), shape=[2, 3], dtype="flaot32")
    with pytest.raises(ConfigError, match=r"needs one of .* as dtype, got 'string'"):
        decoded(npy(MATRIX), shape=[2, 3], dtype="string")


def test_members_of_tar_files_are_decoded(tmp_path: Path) -> None:
    arrays = np.random.default_rng(0).random((5, 2, 3), np.float32)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for n, array in enumerate(arrays):
            data = npy(array) if n != 3 else npy(array)[:-2]
            info = tarfile.TarInfo(f"{n}.npy")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    job = Job(tmp_path / "out", {"reader": "webdataset", "path": str(tmp_path)})
    table = job.run(
        source={
            "key": "__key__",
            "preprocess": [
                {"step": "decode_npy", "feature": "npy", "shape": [2, 3]},
                {"step": "reshape", "feature": "npy", "shape": [6]},
            ],
            "keep": ["npy"],
        },
        model={"inputs": {"vec": "npy"}},
        errors={"max_fraction": 0.3},
    )
    assert table["example_id"].to_pylist() == ["0", "1", "2", "4"]
    (error,) = job.errors()
    assert (error["stage"], error["example_id"]) == ("preprocess", "3")
    assert "decode_npy needs whole files" in error["message"]
