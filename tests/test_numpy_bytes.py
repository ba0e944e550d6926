"""Bytes in NumPy files are bytes, text is text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Job

from transforms.config import SourceSpec
from transforms.sources.readers import make_source


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Rows with bytes, text and void values; the key of one is not UTF-8."""
    np.savez(
        tmp_path / "x.npz",
        id=np.array(["ä".encode(), b"b", b"\xff"]),
        raw=np.array([b"\x00\xff", b"\xd8\xff", b""]),
        pair=np.array([[b"a", b"\xfe"]] * 3),
        void=np.array([b"a\0\0", b"\0b\0", b"\0\0\0"], "V3"),
        text=np.array(["ä", "b", "c"]),
        when=np.array([b"2024-01-05T10:00:00Z"] * 3),
        vec=np.full([3, 6], 0.5, np.float32),
    )
    return Job(tmp_path / "out", {"reader": "numpy", "path": str(tmp_path / "x.npz")})


def test_bytes_of_numpy_stay_bytes(job: Job) -> None:
    table = job.run(
        source={"keep": ["raw", "pair", "void", "text"]},
        table={"event_timestamp": "when"},
        errors={"max_fraction": 0.5},
    )
    assert table["example_id"].to_pylist() == ["ä", "b"]
    assert table["raw"].to_pylist() == [b"\x00\xff", b"\xd8\xff"]
    assert table["pair"].to_pylist() == [[b"a", b"\xfe"]] * 2
    assert table["void"].to_pylist() == [b"a\0\0", b"\0b\0"]
    assert table["text"].to_pylist() == ["ä", "b"]
    assert f"{table['event_timestamp'][0].as_py():%Y-%m-%d %H}" == "2024-01-05 10"
    (error,) = job.errors()
    assert error["stage"] == "encode"


def test_arrays_tell_bytes_from_text(job: Job, tmp_path: Path) -> None:
    source = SourceSpec(reader="numpy", path=str(tmp_path / "x.npz"))
    found = make_source(source).describe()
    dtypes = {name: found[name].dtype for name in ("id", "pair", "void", "text")}
    assert dtypes == {"id": "bytes", "pair": "bytes", "void": "bytes", "text": "string"}
