"""What is missing or malformed here and there stops nothing, and nothing is lost."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers import add_member

from transforms.errors.failure import Failure
from transforms.lookup import ConfigError
from transforms.preprocess.steps import Step
from transforms.shard import Piece
from transforms.sources.batches import InputPipeline
from transforms.sources.csv import Csv
from transforms.sources.jsonl import Jsonl
from transforms.sources.npy import Numpy
from transforms.sources.parquet import Parquet
from transforms.sources.prepared import Preparation
from transforms.sources.source import Source
from transforms.sources.webdataset import WebDataset

ROWS = [{"id": i, "text": f"row {i}", "x": i / 2, "deep": {"a": i}} for i in range(20)]


def jsonl(path: Path, *bad: str | bytes) -> Jsonl:
    """JSON Lines of 20 sound rows; bad ones stand after the third."""
    lines: list[Any] = [json.dumps(row) for row in ROWS]
    lines[3:3] = bad
    data = [one if isinstance(one, bytes) else one.encode() for one in lines]
    path.write_bytes(b"\n".join(data))
    return Jsonl(str(path))


def csv(path: Path, *bad: str | bytes, **options: Any) -> Csv:
    """CSV of a header and 20 sound rows; bad ones stand after the third."""
    lines: list[Any] = ["id,text,x"]
    lines += [f"{row['id']},{row['text']},{row['x']}" for row in ROWS]
    lines[4:4] = bad
    data = [one if isinstance(one, bytes) else one.encode() for one in lines]
    path.write_bytes(b"\r\n".join(data))
    return Csv(str(path), **options)


MALFORMED = {
    "JSONL: cut": (jsonl, '{"id": 3, "te'),
    "JSONL: no object": (jsonl, "[1, 2]"),
    "JSONL: two objects": (jsonl, '{"id": 3} {"id": 4}'),
    "JSONL: another type": (jsonl, '{"id": 3, "text": {"en": "row"}}'),
    "JSONL: another type, deeper": (jsonl, '{"id": 3, "deep": {"a": "three"}}'),
    "JSONL: another type in a list": (jsonl, '{"id": 3, "more": [1, "two"]}'),
    "JSONL: a key twice": (jsonl, '{"id": 3, "id": 4}'),
    "JSONL: not UTF-8": (jsonl, b'{"id": 3, "text": "\xff"}'),
    "CSV: too many fields": (csv, "3,row 3,1.5,more"),
    "CSV: too few fields": (csv, "3"),
    "CSV: an open quote": (csv, '3,"row 3,1.5'),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_in_the_head_does_not_stop_planning(
    name: str, tmp_path: Path
) -> None:
    make, bad = MALFORMED[name]
    path = tmp_path / "rows"
    expected = make(path).describe()
    assert {"id", "text", "x"} <= expected.keys()
    assert make(path, bad).describe() == expected
    assert make(path, bad, bad, bad).describe() == expected


def test_a_malformed_line_of_another_encoding_does_not_stop_planning(
    tmp_path: Path,
) -> None:
    wrong = b"3,\x81\xff,1.5"
    made = csv(tmp_path / "rows", wrong, encoding="shift_jis")
    assert made.describe() == csv(tmp_path / "rows").describe()


def pipeline_over(
    source: Source, *names: str, rows: int = 8, steps: Sequence[Step] = ()
) -> tuple[InputPipeline, list[Piece]]:
    """A pipeline that reads features as model inputs, and the pieces of all files."""
    described = source.describe()
    features = {name: replace(described[name], nullable=False) for name in names}
    inputs = {name: feature.shape for name, feature in features.items()}
    pieces = [
        Piece(f.uri, f.name, rows=None if f.blocks is None else sum(f.blocks))
        for f in source.files()
    ]
    preparation = Preparation(features, steps, inputs, {}, [])
    return InputPipeline(source, preparation, rows), pieces


def rows_of(source: Source, name: str = "id") -> tuple[list[Any], dict[int, str]]:
    """Read a feature as a model input: its values, and `{bad row: message}`."""
    pipeline, pieces = pipeline_over(source, name)
    bad: list[Failure] = []
    batches = list(pipeline.batches(pieces, bad.append))
    found = [one for batch in batches for one in batch.inputs[name].numpy().tolist()]
    return found, {failure.position: failure.message for failure in bad}


@pytest.mark.parametrize(
    ("name", "said"),
    [("JSONL: cut", "JSON parse error"), ("CSV: too many fields", "got 4")],
)
def test_a_malformed_line_in_the_head_is_a_bad_row(
    name: str, said: str, tmp_path: Path
) -> None:
    make, bad = MALFORMED[name]
    found, failed = rows_of(make(tmp_path / "rows", bad))
    assert found == list(range(20))
    assert list(failed) == [3]
    assert said in failed[3]


@pytest.mark.parametrize("make", [csv, jsonl])
def test_a_head_of_mostly_malformed_lines_stops_planning(
    make: Any, tmp_path: Path
) -> None:
    made = make(tmp_path / "rows", *["{a,,,,,"] * 21)
    with pytest.raises(ConfigError, match=r"since the head of .*rows' does not tell"):
        made.describe()


COUNT = 99
BAD = {i for i in range(COUNT) if i % 3 == 1 or 40 <= i < 60}  # more than a third
"""Of 99 rows: scattered ones, and a run of them that fills batches."""


def some_null(values: Sequence[Any]) -> list[Any]:
    return [None if i in BAD else value for i, value in enumerate(values)]


def write_parquet(path: Path, **columns: Sequence[Any]) -> Parquet:
    table = pa.table({name: some_null(values) for name, values in columns.items()})
    pq.write_table(table, path / "rows.parquet", row_group_size=30)
    return Parquet(str(path / "rows.parquet"))


def write_arrow(path: Path) -> Parquet:
    table = pa.table({"x": some_null([i / 2 for i in range(COUNT)])})
    with pa.ipc.new_file(path / "rows.arrow", table.schema) as writer:
        writer.write_table(table, 30)
    return Parquet(str(path / "rows.arrow"))


def write_csv(path: Path) -> Csv:
    rows = ["" if i in BAD else str(i / 2) for i in range(COUNT)]
    lines = [f"{i},{x}" for i, x in enumerate(rows)]
    (path / "rows.csv").write_text("id,x\n" + "\n".join(lines))
    return Csv(str(path / "rows.csv"))


def write_jsonl(path: Path) -> Jsonl:
    rows = [{"id": i} if i in BAD else {"id": i, "x": i / 2} for i in range(COUNT)]
    (path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Jsonl(str(path / "rows.jsonl"))


def write_numpy(path: Path) -> Numpy:
    days = np.datetime64("2020-01-01", "D") + np.arange(COUNT)
    days[sorted(BAD)] = "NaT"
    np.savez(path / "rows.npz", x=days)
    return Numpy(str(path / "rows.npz"))


def write_tar(path: Path) -> WebDataset:
    with tarfile.open(path / "rows.tar", "w") as tar:
        for i in range(COUNT):
            add_member(tar, f"{i:03d}.x", b"oops" if i in BAD else b"%d" % i)
    return WebDataset(str(path / "rows.tar"), {"x": "int64"})


def write_lists(path: Path) -> Parquet:
    return write_parquet(path, x=[[float(i)] * (1 + i % 3) for i in range(COUNT)])


WITH_BAD_ROWS: dict[str, Callable[[Path], Source]] = {
    "parquet": lambda path: write_parquet(path, x=[i / 2 for i in range(COUNT)]),
    "parquet, vectors": lambda path: write_parquet(path, x=[[1.0, 2.0]] * COUNT),
    "parquet, lists": write_lists,
    "arrow": write_arrow,
    "csv": write_csv,
    "jsonl": write_jsonl,
    "numpy": write_numpy,
    "webdataset": write_tar,
}


@pytest.mark.parametrize("name", WITH_BAD_ROWS)
def test_bad_rows_cost_no_second_reading(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = WITH_BAD_ROWS[name](tmp_path)
    pipeline, pieces = pipeline_over(source, "x", rows=32)
    one_by_one = list(pipeline.rows(pieces, 0))
    reads = []
    read = type(source).read
    monkeypatch.setattr(
        type(source), "read", lambda *given: reads.append(given) or read(*given)
    )
    bad: list[Failure] = []
    batches = list(pipeline.batches(pieces, bad.append))
    assert len(reads) == 1
    assert [one for one in one_by_one if isinstance(one, Failure)] == bad
    assert [failure.position for failure in bad] == sorted(BAD)
    positions = [int(at) for batch in batches for at in batch.positions]
    assert positions == [i for i in range(COUNT) if i not in BAD]
    assert len(batches) <= 4  # as many as without bad rows


def test_rows_of_which_most_are_bad_are_told_of_among_the_sound_ones(
    tmp_path: Path,
) -> None:
    """Else it would look as if none were sound, and the run would stop."""
    values = [i if i % 10 == 9 else None for i in range(100)]
    pq.write_table(pa.table({"x": values}), tmp_path / "rows.parquet")
    pipeline, pieces = pipeline_over(Parquet(str(tmp_path / "rows.parquet")), "x")
    told: list[int] = []
    seen = [
        (len(told), batch.positions.tolist())
        for batch in pipeline.batches(pieces, lambda failure: told.append(1))
    ]
    assert len(told) == 90
    # Batches of 8 rows, so at most 7 bad ones come together with a sound one.
    assert all(before <= 8 * (at[-1] // 8 + 1) - 1 for before, at in seen)
    assert [at for _, some in seen for at in some] == list(range(9, 100, 10))


def test_rows_that_are_all_bad_are_told_of_before_all_are_read(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array([None] * 1000, pa.float32())})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=8)
    source = Parquet(str(tmp_path / "rows.parquet"))
    pipeline, pieces = pipeline_over(source, "x", rows=8)
    told: list[int] = []

    def stop(failure: Failure) -> None:
        told.append(failure.position)
        if len(told) == 16:
            raise RuntimeError("all alike")

    with pytest.raises(RuntimeError, match="all alike"):
        list(pipeline.batches(pieces, stop))
    told.clear()
    assert list(pipeline.batches(pieces, lambda one: told.append(one.position))) == []
    assert told == list(range(1000))
