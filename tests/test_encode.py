"""Values in columns: keys, lists, text and times, and rows that cannot be stored."""

from __future__ import annotations

import datetime
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.batch import Batch, Uneven
from transforms.errors.failure import Failure
from transforms.lookup import ConfigError
from transforms.shard import Piece, Shard, position
from transforms.table.columns import Column, arrow_schema
from transforms.table.encode import Layout, _default_keys, encode, to_array
from transforms.table.timestamps import constant_timestamp, microseconds

SHARD = Shard(3, (Piece("/a", "a", 5, 4), Piece("/b", "b#", 0, 0), Piece("/c", "c")))
KEY = Column("example_id", "key", "int64", (), "id")
few = settings(max_examples=40)


def layout_of(
    *columns: Column, key: Column = KEY, timestamp: datetime.datetime | None = None
) -> Layout:
    return Layout((key, *columns), arrow_schema((key, *columns), {}), timestamp)


def encoded(
    layout: Layout,
    passed: dict[str, Any],
    values: dict[str, Any] | None = None,
    first: int = 0,
) -> tuple[pa.RecordBatch, list[Failure]]:
    """Encode rows that are called by their numbers; and which of them fail."""
    count = len(next(iter(passed.values())))
    failures: list[Failure] = []
    batch = Batch(
        np.arange(count) + first, {}, {"id": tf.range(count, dtype=tf.int64), **passed}
    )
    rows = encode(layout, SHARD, batch, values or {}, failures.append)
    assert rows.schema.equals(layout.schema, check_metadata=True)
    rows.validate(full=True)
    return rows, failures


@given(st.lists(st.tuples(st.sampled_from([0, 2]), st.integers(0, 2**40 - 1))))
def test_default_keys_are_names_and_rows_of_the_file(
    places: list[tuple[int, int]],
) -> None:
    rows = sorted(set(places)) or [(0, 0)]
    found = _default_keys(SHARD, np.array([position(*place) for place in rows]))
    starts = {0: ("a", 5), 2: ("c", 0)}
    expected = [f"{starts[i][0]}#{starts[i][1] + row}" for i, row in rows]
    assert (found.to_pylist(), found.type) == (expected, pa.string())


def test_default_keys_stand_in_the_table() -> None:
    layout = layout_of(key=Column("example_id", "key", "string"))
    rows, failures = encoded(layout, {"any": tf.zeros([3])}, first=position(2, 7))
    assert rows.to_pydict() == {"example_id": ["c#7", "c#8", "c#9"]}
    assert not failures


def uneven(rows: list[list[Any]], dtype: str) -> Uneven:
    """Rows filled up with what is no value of theirs."""
    fillers = {"string": b"\xff", "bytes": b"\xff", "bool": True}
    filler, kind = fillers.get(dtype, 1), "string" if dtype == "bytes" else dtype
    most = max(map(len, rows)) + 1
    filled = [[*row, *[filler] * (most - len(row))] for row in rows]
    lengths = np.array([[len(row)] for row in rows], np.int64)
    return Uneven(tf.constant(filled, kind), lengths)


LISTS: dict[str, st.SearchStrategy[Any]] = {
    "int16": st.integers(-(2**15), 2**15 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float16": st.integers(-2048, 2048).map(lambda n: n / 2**12)
    | st.sampled_from([65504.0, -np.inf]),
    "bool": st.booleans(),
    "string": st.text(max_size=3).map(str.encode),
    "bytes": st.binary(max_size=3),
}


@pytest.mark.parametrize("dtype", LISTS)
@few
@given(st.data())
def test_rows_of_any_length_are_lists_of_their_values(
    dtype: str, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.lists(LISTS[dtype], max_size=4), min_size=1))
    layout = layout_of(Column("list", "keep", dtype, (None,), "it"))
    found, failures = encoded(layout, {"it": uneven(rows, dtype)})
    if dtype == "string":
        rows = [[text.decode() for text in row] for row in rows]
    assert found["list"].to_pylist() == rows
    assert not failures


TEXTS: dict[str, tuple[Column, Any]] = {
    "text": (Column("text", "keep", "string", (), "it"), tf.constant),
    "two texts": (
        Column("text", "keep", "string", (2,), "it"),
        lambda texts: tf.constant([[b"head", text] for text in texts]),
    ),
    "any number of texts": (
        Column("text", "keep", "string", (None,), "it"),
        lambda texts: uneven(
            [[b"head"] * i + [t] for i, t in enumerate(texts)], "bytes"
        ),
    ),
}


@pytest.mark.parametrize("form", TEXTS)
@few
@given(bad=st.lists(st.booleans(), min_size=1, max_size=9))
def test_text_that_is_not_utf8_is_set_apart_and_its_neighbours_kept(
    form: str, bad: list[bool]
) -> None:
    column, make = TEXTS[form]
    texts = [
        b"\xff%d" % i if wrong else "ü%d".encode() % i for i, wrong in enumerate(bad)
    ]
    vectors = np.arange(2 * len(bad), dtype=np.float32).reshape(-1, 2)
    lists = pa.array([[i] * i for i in range(len(bad))], pa.list_(pa.int32()))
    layout = layout_of(
        column,
        Column("vector", "feature", "float32", (2,), "head"),
        Column("list", "feature", "int32", (None,), "head"),
    )
    rows, failures = encoded(
        layout, {"it": make(texts)}, {"vector": vectors, "list": lists}, position(2)
    )
    kept = [i for i, wrong in enumerate(bad) if not wrong]
    assert rows["example_id"].to_pylist() == kept
    flat = [row if form == "text" else row[-1] for row in rows["text"].to_pylist()]
    assert flat == [f"ü{i}" for i in kept]
    assert rows["vector"].to_pylist() == vectors[kept].tolist()
    assert rows["list"].to_pylist() == [[i] * i for i in kept]
    lost = [i for i, wrong in enumerate(bad) if wrong]
    assert [failure.position for failure in failures] == [position(2, i) for i in lost]
    assert {failure.stage for failure in failures} <= {"encode"}
    assert [int(failure.passed["id"]) for failure in failures] == lost
    assert all("UTF8" in failure.message for failure in failures)
    known = [failure.passed.get("it") for failure in failures]  # scalars, as text
    shown = [
        texts[i].decode(errors="replace") if form == "text" else None for i in lost
    ]
    assert known == shown


WHEN = Column("event_timestamp", "timestamp", "timestamp", (), "when")


def test_a_text_that_is_no_time_is_set_apart_and_its_neighbours_kept() -> None:
    texts = [
        *("2026-01-31T12:30:15.25Z", "2026-01-31T12:30:15", "yesterday", "", "\xff"),
        *("1969-12-31T23:00:00-01:00", "0001-01-01T00:00:00+14:00"),
    ]
    passed = {"when": tf.constant([text.encode("latin1") for text in texts])}
    rows, failures = encoded(layout_of(WHEN), passed)
    assert rows["example_id"].to_pylist() == [0, 1, 5, 6]
    moment = datetime.datetime(2026, 1, 31, 12, 30, 15, 250_000, datetime.UTC)
    assert rows["event_timestamp"][:3].to_pylist() == [
        moment,
        moment.replace(microsecond=0),
        datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC),
    ]
    assert [failure.position for failure in failures] == [2, 3, 4]
    said = [failure.message for failure in failures]
    assert all("isoformat" in text for text in said[:2])
    assert "can't decode byte 0xff" in said[2]


def test_a_number_that_is_no_time_is_set_apart_and_its_neighbours_kept() -> None:
    column = Column("event_timestamp", "timestamp", "timestamp", (), "when", unit="s")
    seconds = tf.constant([0.5, np.nan, -1.25, 1e30, np.inf, 3.0], tf.float64)
    rows, failures = encoded(layout_of(column), {"when": seconds})
    micros = rows["event_timestamp"].cast(pa.int64()).to_pylist()
    assert micros == [500_000, -1_250_000, 3_000_000]
    assert [failure.position for failure in failures] == [1, 3, 4]


@pytest.mark.parametrize("count", [1, 4])
def test_a_constant_time_stands_in_each_row(count: int) -> None:
    moment = constant_timestamp("2026-01-31T14:00:00+02:00")
    layout = layout_of(
        Column("event_timestamp", "timestamp", "timestamp"), timestamp=moment
    )
    rows, _ = encoded(layout, {"any": tf.zeros([count])})
    noon = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    assert rows["event_timestamp"].to_pylist() == [noon] * count


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T02:00:00.000001+02:00", 1),
        ("1969-12-31 19:00:01-05:00", 1_000_000),
        ("when", None),
        ("", None),
        ("2026-01-31T25:00:00Z", None),
    ],
)
def test_a_constant_time_is_utc_or_nothing(text: str, expected: int | None) -> None:
    moment = constant_timestamp(text)
    if expected is None:
        assert moment is None
        return
    assert moment is not None
    assert moment.tzinfo is datetime.UTC
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert (moment - epoch) / datetime.timedelta(microseconds=1) == expected


def test_a_constant_time_needs_an_offset() -> None:
    with pytest.raises(ConfigError, match=r"must have an offset, .* got '2026-01-31'"):
        constant_timestamp("2026-01-31")


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-01:00"]
)
def test_a_constant_time_that_utc_does_not_hold_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="event_timestamp"):
        constant_timestamp(text)


UNITS = {"s": 10**6, "ms": 10**3, "us": 1, "": 1}
units = st.sampled_from([*UNITS])
floats = st.floats(-(2.0**62), 2.0**62)


@given(st.lists(floats | st.floats(-1e10, 1e10), min_size=1), units)
@example([-1e-20, 0.1, 1769862615.25, -0.0000005], "s")
def test_fractions_are_the_nearest_microseconds(values: list[float], unit: str) -> None:
    most = 2**62 // UNITS[unit]
    kept = [value for value in values if abs(value) < most] or [0.0]
    found = microseconds(np.array(kept), unit)
    assert found.dtype == np.int64
    for micros, value in zip(found.tolist(), kept, strict=True):
        # half a microsecond, and what a difference from the whole part is rounded by
        error = abs(micros - Fraction(value) * UNITS[unit])
        assert error <= Fraction(1, 2) + Fraction(1, 10**6)


@given(st.integers(0, 2**24).map(lambda n: n / 2**23), units)
def test_single_precision_loses_no_more_than_it_has(value: float, unit: str) -> None:
    (found,) = microseconds(np.array([value], np.float32), unit)
    assert abs(int(found) - Fraction(value) * UNITS[unit]) <= Fraction(3, 5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the false number is the matter
def test_half_precision_loses_no_more_than_it_has() -> None:
    found = microseconds(np.array([0.5, 1.5], np.float16), "s")
    assert found.tolist() == [500_000, 1_500_000]


@given(st.integers(0, 2**62), st.sampled_from([-1, 1]), units)
def test_whole_numbers_are_exact(value: int, sign: int, unit: str) -> None:
    whole = sign * (value // UNITS[unit])
    assert microseconds(np.array([whole]), unit).tolist() == [whole * UNITS[unit]]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_times_end_at_2_to_the_62_microseconds(unit: str, sign: int) -> None:
    most = 2**62 // UNITS[unit]
    last = microseconds(np.array([sign * most]), unit)
    assert last.tolist() == [sign * most * UNITS[unit]]
    wrong: list[tuple[float, str]] = [
        (sign * 2**63 - (sign > 0), "int64"),
        *((sign * value, "float64") for value in (most, 1e300, np.inf, np.nan)),
    ]
    for value, dtype in wrong:
        with pytest.raises(ValueError, match="event timestamp is"):
            microseconds(np.array([0, value], dtype), unit)
    with pytest.raises(ValueError, match="out of range for unit"):
        microseconds(np.array([2**64 - 1], np.uint64), unit)


NUMBERS = [
    "bool",
    *("float16", "float32", "float64"),
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (2, 0)])
def test_numbers_are_stored_row_by_row_in_c_order(
    shape: tuple[int, ...], dtype: str
) -> None:
    size = 4 * int(np.prod(shape))
    values = np.arange(size).astype(dtype).reshape(4, *shape)
    column = Column("it", "feature", dtype, shape)
    for stored in (values, np.asfortranarray(values), values[::-1][::-1]):
        array = to_array(column, stored)
        assert array.type == column.arrow_type
        expected = values.reshape(4, -1).tolist() if shape else values.tolist()
        assert array.to_pylist() == expected
    assert len(to_array(column, values[:0])) == 0


def test_numbers_are_stored_over_the_memory_they_are_in() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = to_array(Column("it", "feature", "float32", (3,)), values)
    assert array.values.buffers()[1].address == values.ctypes.data
    flat = to_array(Column("it", "feature", "float32"), values.reshape(-1))
    assert flat.buffers()[1].address == values.ctypes.data


def test_nan_is_a_value_and_bytes_are_kept_as_they_are() -> None:
    array = to_array(Column("it", "feature", "float32", (2,)), np.full((1, 2), np.nan))
    assert array.values.null_count == 0
    assert np.isnan(array.values.to_numpy()).all()
    texts = np.array([[b"\xff", b""], [b"a\0", b"b"]], object)
    found = to_array(Column("it", "keep", "bytes", (2,)), texts)
    assert found.to_pylist() == texts.tolist()
    with pytest.raises(ValueError, match="UTF8"):
        to_array(Column("it", "keep", "string", (2,)), texts)


def test_lists_are_cast_and_may_be_a_part_of_others() -> None:
    lists = pa.array([[9], [1, 2], [], [3], [9]], pa.list_(pa.int64()))
    column = Column("it", "feature", "float16", (None,))
    found = to_array(column, lists[1:4])
    assert (found.type, found.to_pylist()) == (column.arrow_type, [[1, 2], [], [3]])
    texts = pa.array([[b"\xff"]], pa.list_(pa.binary()))
    with pytest.raises(ValueError, match="UTF8"):
        to_array(Column("it", "keep", "string", (None,)), texts)
    times = pa.array([[0, 10**6]], pa.list_(pa.int64()))
    (moments,) = to_array(Column("it", "keep", "timestamp", (None,)), times).to_pylist()
    assert [moment.isoformat() for moment in moments] == [
        "1970-01-01T00:00:00+00:00",
        "1970-01-01T00:00:01+00:00",
    ]
