"""What is missing or malformed here and there stops nothing, and nothing is lost."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from conftest import Job, parity_of, vectors
from readers import add_member

from transforms.batch import Batch
from transforms.config import StepSpec
from transforms.dtypes import Feature
from transforms.errors.failure import Failure
from transforms.lookup import ConfigError
from transforms.preprocess.steps import Step, fills, make_steps, trace_steps
from transforms.shard import Piece
from transforms.sources.batches import InputPipeline
from transforms.sources.csv import Csv
from transforms.sources.jsonl import Jsonl
from transforms.sources.npy import Numpy
from transforms.sources.parquet import Parquet
from transforms.sources.prepared import Preparation
from transforms.sources.source import GivenFeature, Source, given_features
from transforms.sources.tfrecord import TfRecord
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
    source: Source,
    *names: str,
    rows: int = 8,
    steps: Sequence[Step] = (),
    shape: tuple[int, ...] | None = None,
) -> tuple[InputPipeline, list[Piece]]:
    """A pipeline that reads features as model inputs, and the pieces of all files."""
    described, filled = source.describe(), fills(steps)
    features = {
        name: replace(one, nullable=False, fill=filled.get(name, one.fill))
        for name, one in described.items()
        if name in names
    }
    inputs = {name: shape or feature.shape for name, feature in features.items()}
    pieces = [
        Piece(f.uri, f.name, rows=None if f.blocks is None else sum(f.blocks))
        for f in source.files()
    ]
    preparation = Preparation(features, list(steps), inputs, {}, [])
    return InputPipeline(source, preparation, rows), pieces


def rows_in(values: Any) -> Iterator[Any]:
    return (values[row] for row in range(len(values)))


def rows_of(
    source: Source, name: str = "id", steps: Sequence[Step] = ()
) -> tuple[list[Any], dict[int, str]]:
    """Read a feature as a model input: its values, and `{bad row: message}`."""
    pipeline, pieces = pipeline_over(source, name, steps=steps)
    bad: list[Failure] = []
    batches = list(pipeline.batches(pieces, bad.append))
    inputs = [row for batch in batches for row in rows_in(batch.inputs[name])]
    found = [np.asarray(row).tolist() for row in inputs]
    for one in pipeline.rows(pieces, 0):  # one by one they are the same
        if isinstance(one, Batch):
            np.testing.assert_array_equal(
                next(rows_in(one.inputs[name])), inputs.pop(0)
            )
        else:
            assert one in bad
    assert not inputs
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


def fill(value: Any, feature: str = "x", **options: Any) -> list[Step]:
    spec = {"step": "fill", "feature": feature, "value": value, **options}
    return make_steps([StepSpec.model_validate(spec)])


def table_of(*values: Any, kind: Any = None, form: str = "parquet") -> Any:
    """Makes a reader of a table of one column, x."""

    def write(path: Path) -> Parquet:
        table = pa.table({"x": pa.array(values, kind)})
        if form == "parquet":
            pq.write_table(table, path / "x.parquet", row_group_size=2)
        else:
            with pa.ipc.new_file(path / "x.arrow", table.schema) as writer:
                writer.write_table(table, 2)
        return Parquet(str(path / f"x.{form}"))

    return write


def lines_of(name: str, *lines: str, **options: Any) -> Any:
    def write(path: Path) -> Source:
        (path / name).write_text("\n".join(lines))
        return (Csv if name.endswith("csv") else Jsonl)(str(path / name), **options)

    return write


def records_of(*values: Any, default: Any = None, **more: Any) -> Any:
    """Makes a reader of records; None stands for a record without feature x."""

    def write(path: Path) -> TfRecord:
        with tf.io.TFRecordWriter(str(path / "x.tfrecord")) as writer:
            for value in values:
                feature = {} if value is None else {"x": stored(value)}
                feature["other"] = stored([1.0])
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())
        given = GivenFeature(**{"dtype": "int64", **more, "default": default})
        return TfRecord(str(path / "x.tfrecord"), {"x": given})

    return write


def stored(values: list[Any]) -> Any:
    """A feature of a tf.Example."""
    if values and isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def tar_of(*members: tuple[str, bytes], **more: Any) -> Any:
    def write(path: Path) -> WebDataset:
        with tarfile.open(path / "x.tar", "w") as tar:
            for name, data in members:
                add_member(tar, name, data)
        given = {"x": GivenFeature(**more), "id": GivenFeature("int64")}
        return WebDataset(str(path / "x.tar"), given)

    return write


SMALL = pa.list_(pa.float32(), 2)
# what writes the rows, what is put in place of nulls, what the model gets
FILLED: dict[str, tuple[Any, Any, list[Any]]] = {
    "floats": (table_of(1.5, None, None, 2.5), 7, [1.5, 7, 7, 2.5]),
    "integers": (table_of(2**60 + 1, None), -1, [2**60 + 1, -1]),
    "narrow integers": (table_of(1, None, kind=pa.int8()), 5, [1, 5]),
    "flags": (table_of(True, None, False), True, [True, True, False]),
    "text": (table_of("a", None, ""), "none", [b"a", b"none", b""]),
    "all null": (table_of(None, None, kind=pa.float32()), 3, [3, 3]),
    "none null": (table_of(1.0, 2.0), 3, [1, 2]),
    "vectors": (table_of([1.0, 2.0], None), 9, [[1, 2], [9, 9]]),
    "vectors with nulls": (table_of([1.0, None], [None, None]), 9, [[1, 9], [9, 9]]),
    "lists": (table_of([1, None], [3], None), 9, [[1, 9], [3], []]),
    "lists of text": (table_of(["a", None], ["b"]), "?", [[b"a", b"?"], [b"b"]]),
    "arrow": (
        table_of([1.0, None], None, kind=SMALL, form="arrow"),
        9,
        [[1, 9], [9, 9]],
    ),
    "matrices": (
        table_of(
            [[1, 2], [3, 4]], [[5, None], None], kind=pa.list_(SMALL), form="arrow"
        ),
        9,
        [[[1, 2], [3, 4]], [[5, 9], [9, 9]]],
    ),
    "csv": (lines_of("x.csv", "id,x", "1,0.5", "2,", "3,2.5"), 7, [0.5, 7, 2.5]),
    "csv, text": (
        lines_of("x.csv", "id,x", "1,a", "2,", '3,""'),
        "?",
        [b"a", b"?", b"?"],
    ),
    "jsonl": (lines_of("x.jsonl", '{"x": 1}', '{"x": null}', "{}"), 7, [1, 7, 7]),
    "jsonl, lists": (
        lines_of("x.jsonl", '{"x": [1, null]}', "{}"),
        7,
        [[1, 7], [7, 7]],
    ),
    "tfrecord": (records_of([3], None, []), -1, [3, -1, -1]),
    "tar": (
        tar_of(("a.x", b"4"), ("b.id", b"1"), ("c.x", b"5"), dtype="int64"),
        7,
        [4, 7, 5],
    ),
}


@pytest.mark.parametrize("name", FILLED)
def test_what_is_null_or_absent_is_filled(name: str, tmp_path: Path) -> None:
    write, value, expected = FILLED[name]
    source = write(tmp_path)
    found, bad = rows_of(source, "x", fill(value))
    assert (found, bad) == (expected, {})
    unfilled, bad = rows_of(source, "x")
    assert len(unfilled) + len(bad) == len(expected)
    assert bad or name in ("none null", "csv, text")


# what writes the rows, what the model gets
DEFAULTS: dict[str, tuple[Any, list[Any]]] = {
    "tfrecord": (records_of([3], None, [], default=-1), [3, -1, -1]),
    "tfrecord, vectors": (
        records_of([1.0, 2.0], None, dtype="float32", shape=(2,), default=0.5),
        [[1, 2], [0.5, 0.5]],
    ),
    "tfrecord, matrices": (
        records_of([1, 2, 3, 4], None, shape=(2, 2), default=0),
        [[[1, 2], [3, 4]], [[0, 0], [0, 0]]],
    ),
    "tfrecord, text": (
        records_of([b"a"], None, dtype="string", default="none"),
        [b"a", b"none"],
    ),
    "tfrecord, narrow": (records_of([3], None, dtype="int8", default=-1), [3, -1]),
    "tfrecord, all absent in a batch": (
        records_of(*[None] * 9, [1], default=0),
        [0] * 9 + [1],
    ),
    "tfrecord, lists": (records_of([3, 4], None, shape=(-1,), default=0), [[3, 4], []]),
    "csv": (
        lines_of("x.csv", "x", "1", '""', features={"x": GivenFeature("int8", (), -1)}),
        [1, -1],
    ),
    "jsonl": (
        lines_of(
            "x.jsonl", '{"x": 1}', "{}", features={"x": GivenFeature("int8", (), 3)}
        ),
        [1, 3],
    ),
    "tar": (
        tar_of(("a.x", b"dog"), ("b.id", b"1"), dtype="string", default="none"),
        [b"dog", b"none"],
    ),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_feature_has_its_default_where_a_row_has_none(
    name: str, tmp_path: Path
) -> None:
    write, expected = DEFAULTS[name]
    assert rows_of(write(tmp_path), "x") == (expected, {})


def test_a_record_with_some_of_its_values_is_bad_also_with_a_default(
    tmp_path: Path,
) -> None:
    write = records_of([1, 2], [3], None, shape=(2,), default=0)
    found, bad = rows_of(write(tmp_path), "x")
    assert found == [[1, 2], [0, 0]]
    assert list(bad) == [1]
    assert "feature 'x' must hold 2 values or none, got" in bad[1]


@pytest.mark.parametrize(
    ("dtype", "default"),
    [("int8", 300), ("int64", 0.5), ("string", 0), ("float32", "0"), ("bool", 2)],
)
def test_a_default_that_the_type_does_not_have_is_refused(
    dtype: str, default: Any
) -> None:
    given = {"x": GivenFeature(dtype, (), default)}
    with pytest.raises(ConfigError, match=rf"x\.default must be a value of {dtype}"):
        given_features(given)


@pytest.mark.parametrize("value", [0.5, 300, "none"])
def test_a_fill_that_the_feature_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match="step fill must fill up with a value that"):
        trace_steps(fill(value), {"x": Feature("int8")})


def test_the_reader_fills_where_no_step_comes_before() -> None:
    rescale = {"step": "rescale", "feature": "x", "scale": 2.0}
    steps = make_steps([StepSpec.model_validate(rescale)])
    assert fills(fill(1) + fill(2) + fill(3, "y")) == {"x": 1, "y": 3}
    assert fills(steps + fill(1) + fill(2, "y")) == {"y": 2}
    assert fills([replace(steps[0], reads=None), *fill(1)]) == {}


def test_a_run_fills_what_the_model_takes_and_keeps_other_nulls(tmp_path: Path) -> None:
    rows = vectors(40).tolist()
    filled = [[0.5] * 6 if i % 7 == 1 else row for i, row in enumerate(rows)]
    filled[3][2] = rows[3][2] = 0.5
    given = [None if i % 7 == 1 else row for i, row in enumerate(rows)]
    given[3] = [*rows[3][:2], None, *rows[3][3:]]
    labels = [None if i % 5 == 0 else i for i in range(40)]
    made = []
    for name, vec in (("with", given), ("without", filled)):
        columns = {"id": range(40), "vec": pa.array(vec, pa.list_(pa.float32()))}
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({**columns, "label": labels}), path)
        job = Job(tmp_path / name, {"reader": "parquet", "path": str(path)})
        step = {"step": "fill", "feature": "vec", "value": 0.5}
        made.append(job.run(source={"keep": ["label"], "preprocess": [step]}))
    assert made[0]["label"].to_pylist() == labels
    assert made[0].equals(made[1])
    assert parity_of(str(tmp_path / "with" / "table"), 10).passed


@pytest.mark.parametrize("every", [3, 30])
def test_rows_that_a_step_refuses_are_not_read_again_for_each(
    every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = set(range(0, 480, every))
    values = [7 if i in refused else i % 5 for i in range(480)]
    pq.write_table(pa.table({"x": values}), tmp_path / "rows.parquet")
    spec = {"step": "one_hot", "feature": "x", "depth": 5}
    steps = make_steps([StepSpec.model_validate(spec)])
    source = Parquet(str(tmp_path / "rows.parquet"))
    pipeline, pieces = pipeline_over(source, "x", rows=4, steps=steps, shape=(5,))
    reads = []
    read = Parquet.read
    monkeypatch.setattr(
        Parquet, "read", lambda *given: reads.append(given) or read(*given)
    )
    bad: list[Failure] = []
    batches = list(pipeline.batches(pieces, bad.append))
    assert [failure.position for failure in bad] == sorted(refused)
    assert {failure.stage for failure in bad} == {"preprocess"}
    positions = [int(at) for batch in batches for at in batch.positions]
    assert positions == [i for i in range(480) if i not in refused]
    # Where each of 120 batches has bad rows, two readings for each doubling; where they
    # are rare, two for each.
    assert len(reads) <= (14 if every == 3 else 2 * len(refused) + 1)


def test_null_lists_of_fixed_size_are_kept_and_as_input_are_bad_rows(job: Job) -> None:
    ids, vecs = list(range(16)), vectors(16).tolist()
    embedded = [[float(i), 1.0] if i % 3 else None for i in ids]
    times = pa.array(np.arange(16) * 1000, pa.timestamp("us", "Asia/Tokyo"))
    table = pa.table(
        {
            "id": ids,
            "vec": pa.array([None if i == 5 else v for i, v in enumerate(vecs)],
                            pa.list_(pa.float32(), 6)),
            "embedded": pa.array(embedded, pa.list_(pa.float32(), 2)),
            "at": times,
        }
    )  # fmt: skip
    path = job.directory / "rows.parquet"
    pq.write_table(table, path, row_group_size=8)
    with pytest.raises(pa.ArrowInvalid, match="Expected all lists to be of size"):
        pq.read_table(path)  # why there is another way to read them
    source = {
        "reader": "parquet",
        "path": str(path),
        "key": "id",
        "keep": ["embedded", "at"],
    }
    made = job.run(source=source, errors={"max_fraction": 0.1})
    assert made["example_id"].to_pylist() == [i for i in ids if i != 5]
    assert made["embedded"].to_pylist() == [e for i, e in enumerate(embedded) if i != 5]
    assert made["at"].cast(pa.int64()).to_pylist() == [i * 1000 for i in ids if i != 5]
    (bad,) = job.errors()
    assert "null" in bad["message"]
