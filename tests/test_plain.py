"""Arrow columns of any layout, read as the plain ones that they stand for."""

from __future__ import annotations

import datetime
import decimal
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.dtypes import Feature
from transforms.shard import Piece
from transforms.sources.arrow import (
    block_of,
    feature_of,
    features_of,
    list_lengths,
    whole,
)
from transforms.sources.ipc_messages import messages
from transforms.sources.parquet import Parquet
from transforms.sources.plain import (
    flat_column,
    flat_schema,
    plain,
    plain_type,
    why_unreadable,
)
from transforms.sources.row_groups import open_groups
from transforms.sources.source import OtherColumns

FLOATS: Any = [[1.0, 2.0], None, [], [3.0]]
TEXTS: Any = ["a", None, "ä", ""]


def runs(values: list[Any]) -> pa.Array:
    ends = pa.array(range(1, len(values) + 1), pa.int32())
    return pa.RunEndEncodedArray.from_arrays(ends, pa.array(values))


LAYOUTS = {
    "large_list": pa.array(FLOATS, pa.large_list(pa.float32())),
    "list_view": pa.array(FLOATS, pa.list_view(pa.float32())),
    "large_list_view": pa.array(FLOATS, pa.large_list_view(pa.float32())),
    "list of views": pa.array([TEXTS, None], pa.list_(pa.string_view())),
    "view of views": pa.array([FLOATS, None], pa.list_view(pa.list_view(pa.float32()))),
    "fixed of views": pa.array(
        [[[1.0], [2.0]], None], pa.list_(pa.list_view(pa.float32()), 2)
    ),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "binary_view": pa.array([b"a", None, b"\xff"], pa.binary_view()),
    "large_binary": pa.array([b"a", None, b"\xff"], pa.large_binary()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "list of dictionaries": pa.array(
        [["a", "b"], ["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))
    ),
    "runs": runs([1, 1, None, 2]),
    "fixed": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([b"x" * 16, None], pa.binary(16))
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_keeps_its_values(name: str) -> None:
    array = LAYOUTS[name]
    expected = array.to_pylist() if name != "uuid" else [b"x" * 16, None]
    # as it is, in slices, and after a way through a file
    stored = io.BytesIO()
    table = pa.table({"x": array})
    with pa.ipc.new_file(stored, table.schema) as writer:
        writer.write_table(table)
    read = pa.ipc.open_file(stored.getvalue()).read_all()["x"].combine_chunks()
    for given_array in (array, read):
        made = plain(given_array)
        made.validate(full=True)
        assert made.to_pylist() == expected
        assert plain(given_array[1:]).to_pylist() == expected[1:]
        assert plain_type(made.type) == made.type
        assert feature_of(made.type, (None,)) == feature_of(array.type, (None,))


def test_decimals() -> None:
    cents = pa.array([decimal.Decimal("12.34"), None], pa.decimal128(38, 2))
    assert plain(cents).to_pylist() == [12.34, None]
    whole = pa.array([decimal.Decimal(10**17 + 1)], pa.decimal128(18, 0))
    assert plain(whole).to_pylist() == [10**17 + 1]
    lists = pa.array([[decimal.Decimal("0.5")]], pa.list_(pa.decimal32(5, 2)))
    assert plain(lists).to_pylist() == [[0.5]]
    for kind in (pa.decimal32(9, 0), pa.decimal64(18, 0)):
        assert plain(pa.array([decimal.Decimal(12)], kind)).to_pylist() == [12]


@pytest.mark.parametrize("kind", [pa.decimal128(38, 0), pa.decimal256(40, 0)])
def test_long_whole_decimals_stay_what_they_are_or_are_bad_rows(kind: Any) -> None:
    """Snowflake and Oracle number rows so; float64 would change 2**53 + 1."""
    given_values = [2**53 + 1, -(2**63), None, 2**63, 10**37, 2**63 - 1]
    array = pa.array([v if v is None else decimal.Decimal(v) for v in given_values])
    table = pa.table({"id": array.cast(kind)})
    feature = features_of(table.schema, {})["id"]
    assert (feature.dtype, feature.nullable) == ("int64", True)
    block = block_of(table, np.arange(6), {"id": feature})
    sound = (block.faults == "") & ~block.values["id\0null"]
    assert block.values["id"][sound].tolist() == [2**53 + 1, -(2**63), 2**63 - 1]
    assert [bool(fault) for fault in block.faults] == [*[False] * 3, True, True, False]
    assert (
        f"must hold values that fit into int64, as planned, got {2**63}"
        in (block.faults[3])
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.large_binary(), pa.large_binary()),
        (pa.string_view(), pa.large_string()),
        (pa.dictionary(pa.int8(), pa.large_string()), pa.large_string()),
        (pa.large_list(pa.int8()), pa.large_list(pa.int8())),
        (pa.list_view(pa.int8()), pa.large_list(pa.int8())),
    ],
)
def test_what_can_hold_more_than_2_gib_stays_large(kind: Any, expected: Any) -> None:
    """A row group of images easily does; small offsets would lose all of its rows."""
    assert plain_type(kind) == expected
    assert plain(pa.array([], kind)).type == expected


def test_a_row_group_of_more_bytes_than_offsets_count_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    column = pa.chunked_array([[b"ab"], [b"cd", None]])
    assert whole(column).type == pa.binary()
    monkeypatch.setattr("transforms.sources.arrow.MOST_VALUES", 3)
    assert whole(column).type == pa.large_binary()
    assert whole(column).to_pylist() == [b"ab", b"cd", None]


@given(st.lists(st.lists(st.none() | st.integers(-9, 9), max_size=3) | st.none()))
def test_views_in_any_order_are_lists(rows: list[Any]) -> None:
    """Views may overlap and be out of order, which a reversed take makes them."""
    array = pa.array(rows, pa.list_view(pa.int8()))
    turned = array.take(pa.array(range(len(rows) - 1, -1, -1), pa.int32()))
    assert plain(turned).to_pylist() == rows[::-1]


def test_structs_are_flat() -> None:
    inner = pa.struct([("bytes", pa.binary()), ("size", pa.struct([("w", pa.int8())]))])
    rows = [{"bytes": b"x", "size": {"w": 1}}, None, {"bytes": None, "size": None}]
    table = pa.table(
        {"image": pa.array(rows, inner), "a/b": [1, 2, 3], "label": [4, 5, 6]}
    )
    schema = flat_schema(table.schema)
    assert schema.names == ["a/b", "label", "image/bytes", "image/size/w"]
    assert flat_column(table, "image/bytes").to_pylist() == [b"x", None, None]
    assert flat_column(table, "image/size/w").to_pylist() == [1, None, None]
    assert flat_column(table, "a/b").to_pylist() == [1, 2, 3]


def test_a_column_comes_before_a_field_of_its_name() -> None:
    table = pa.table({"a": [{"b": 1}], "a/b": ["x"]})
    assert flat_schema(table.schema).field("a/b").type == pa.string()
    assert flat_column(table, "a/b").to_pylist() == ["x"]


def test_lengths_of_lists_of_lists() -> None:
    table = pa.table(
        {
            "even": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]],
            "open": [[[1, 2]], [[5, 6], [7, 8]]],
            "uneven": [[[1, 2], [3]], [[5, 6], [7, 8]]],
        }
    )
    lengths = list_lengths(table)
    assert lengths == {"even": (2, 2), "open": (None, 2), "uneven": (2, None)}
    kind = table.schema.field("even").type
    assert feature_of(kind, lengths["even"]) == Feature("int64", (2, 2))
    assert feature_of(kind, lengths["uneven"]) is None


def write_stream(path: Path, table: pa.Table, rows: int) -> bytes:
    with (
        pa.OSFile(str(path), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as to,
    ):
        for batch in table.to_batches(rows):
            to.write_batch(batch)
    return path.read_bytes()


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """Ten rows in batches of three, some of them with a dictionary."""
    path = tmp_path / "data.arrow"
    word = pa.array(["x", "y"] * 5).dictionary_encode()
    image = [{"bytes": b"%d" % i, "path": None} for i in range(10)]
    write_stream(path, pa.table({"id": range(10), "word": word, "image": image}), 3)
    return path


def test_streams_are_read_batch_by_batch(stream: Path) -> None:
    opened = open_groups(str(stream))
    assert opened.groups == [3, 3, 3, 1]
    (found,) = opened.read(2, ["image/bytes", "word", "absent"])
    assert found.to_pydict() == {
        "image/bytes": [b"6", b"7", b"8"],
        "word": ["x", "y", "x"],
    }
    opened.close()


@pytest.mark.parametrize("end", [0, 3, 8, 100, -30])
def test_streams_that_are_cut_off_are_named(stream: Path, end: int) -> None:
    stream.write_bytes(stream.read_bytes()[:end])
    with pytest.raises(
        ValueError, match="must hold Arrow IPC files, cannot read the head"
    ):
        open_groups(str(stream))


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_damaged_streams_raise_errors_of_their_own(at: int, byte: int) -> None:
    table = pa.table(
        {"id": range(4), "word": pa.array(["x", "y"] * 2).dictionary_encode()}
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = bytearray(sink.getvalue())
    data[at % len(data)] = byte
    try:
        found = list(messages(io.BytesIO(data)))
    except ValueError:
        return
    assert all(0 <= one.start < one.end <= len(data) for one in found)


def read(source: Parquet, names: list[str]) -> list[dict[str, Any]]:
    features = source.describe()
    wanted = {name: features[name] for name in names}
    pieces = [
        Piece(file.uri, file.name, file.first, sum(file.blocks or ()))
        for file in source.files()
    ]
    return [
        {name: value.numpy() for name, value in example.items()}
        for _, example in source.read(pieces, wanted, None)
    ]


def test_the_first_file_with_rows_tells(tmp_path: Path) -> None:
    schema = pa.schema([("vec", pa.list_(pa.float32())), ("id", pa.int64())])
    pq.write_table(schema.empty_table(), tmp_path / "0.parquet")
    with pq.ParquetWriter(tmp_path / "1.parquet", schema):
        pass
    rows = pa.table({"vec": [[1.0, 2.0], [3.0, 4.0]], "id": [1, 2]}, schema=schema)
    pq.write_table(rows, tmp_path / "2.parquet")
    source = Parquet(str(tmp_path))
    assert source.describe()["vec"].shape == (2,)
    assert [one["id"] for one in read(source, ["vec", "id"])] == [1, 2]
    (tmp_path / "2.parquet").unlink()
    assert Parquet(str(tmp_path)).describe()["vec"].shape == (None,)


@pytest.mark.parametrize(
    ("first", "later", "shape", "values"),
    [
        (pa.nulls(1), pa.array([1.5]), (), [1.5]),
        (pa.nulls(1), pa.array([[1, 2]]), (2,), [[1, 2]]),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["a"]]), (None,), [[], [b"a"]]),
        (pa.array([["a"]]), pa.array([[]], pa.list_(pa.null())), (1,), [[b"a"]]),
    ],
)
def test_a_column_without_a_type_has_that_of_another_file(
    tmp_path: Path, first: pa.Array, later: pa.Array, shape: Any, values: Any
) -> None:
    """pandas writes a column of nothing but nulls, or empty lists, without a type."""
    for name, column in (("0", first), ("1", later)):
        pq.write_table(pa.table({"x": column}), tmp_path / f"{name}.parquet")
    source = Parquet(str(tmp_path))
    feature = source.describe()["x"]
    assert (feature.shape, feature.nullable) == (shape, True)
    assert "x" not in source.other_columns()
    found = []
    for file in source.files():
        table = pa.concat_tables(open_groups(file.uri).read(0, ["x"]))
        block = block_of(table, np.arange(len(table)), {"x": feature})
        lengths = block.lengths.get("x", [None])
        sound = (block.faults == "") & ~block.values["x\0null"]
        found += [
            v[: lengths[0]].tolist() if shape else v for v in block.values["x"][sound]
        ]
    assert found == values


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        ("a", {"b": 1}, "column 'x' is struct<b: int64>, planned was string"),
        ({"b": 1}, "a", "column 'x' is string, planned was 'x/b' of type int64"),
        (
            {"b": 1},
            {"c": 1},
            "column 'x' is struct<c: int64>, planned was 'x/b' of type int64",
        ),
        ("a", [[1]], "column 'x' is list<element: list<element: int64>>, planned was"),
    ],
)
def test_a_column_of_another_type_is_not_called_absent(
    tmp_path: Path, first: Any, later: Any, said: str
) -> None:
    for name, value in (("0", first), ("1", later)):
        pq.write_table(pa.table({"x": [value]}), tmp_path / f"{name}.parquet")
    features = Parquet(str(tmp_path)).describe()
    table = pa.concat_tables(
        open_groups(str(tmp_path / "1.parquet")).read(0, list(features))
    )
    (fault,) = block_of(table, np.arange(1), features).faults
    assert said in fault


def test_dates_that_nanoseconds_cannot_hold(tmp_path: Path) -> None:
    when = [datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59)]
    table = pa.table({"at": pa.array(when, pa.timestamp("us"))})
    path = tmp_path / "spark.parquet"
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)
    found = [one["at"] for one in read(Parquet(str(path)), ["at"])]
    zero = datetime.datetime(1970, 1, 1)
    assert found == [(one - zero) // datetime.timedelta(microseconds=1) for one in when]


@pytest.mark.parametrize(
    ("values", "dtype", "nullable"),
    [
        (["1", "-2"], "int64", False),
        (["01", "10"], "string", False),
        (["1", "__HIVE_DEFAULT_PARTITION__"], "int64", True),
        (["a", "__HIVE_DEFAULT_PARTITION__"], "string", True),
        (["a%2Fb", "c"], "string", False),
        (["9" * 19], "string", False),
    ],
)
def test_directories_that_name_values(
    tmp_path: Path, values: list[str], dtype: str, nullable: bool
) -> None:
    for value in values:
        (tmp_path / f"k={value}").mkdir()
        pq.write_table(pa.table({"id": [1]}), tmp_path / f"k={value}" / "a.parquet")
    source = Parquet(str(tmp_path))
    feature = source.describe()["k"]
    assert (feature.dtype, feature.nullable) == (dtype, nullable)
    expected: list[Any] = []
    for value in sorted(values):
        plain_value = value.replace("%2F", "/")
        number = dtype == "int64" and "HIVE" not in value
        expected.append(int(value) if number else plain_value.encode())
    found = read(source, ["k"])
    for one, value in zip(found, expected, strict=True):
        null = one.get("k\0null")
        if null is not None and null:
            assert value == b"__HIVE_DEFAULT_PARTITION__"
        else:
            assert one["k"] == value


def test_a_filter_knows_directories_without_value(tmp_path: Path) -> None:
    for value in ("1", "__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / f"k={value}").mkdir()
        pq.write_table(pa.table({"id": [1]}), tmp_path / f"k={value}" / "a.parquet")
    files = Parquet(str(tmp_path), filter=[["k", "=", 1]]).files()
    assert [len(file.spans) for file in files] == [1, 0]


def test_a_filter_on_the_field_of_a_struct(tmp_path: Path) -> None:
    table = pa.table({"image": [{"path": "a"}, {"path": "b"}], "id": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    source = Parquet(str(tmp_path), filter=[["image/path", "=", "b"]])
    (file,) = source.files()
    piece = Piece(file.uri, file.name, 0, None, file.spans[0])
    features = {"id": source.describe()["id"]}
    rows = list(source.read([piece], features, None))
    assert [int(example["id"]) for _, example in rows] == [2]


def test_columns_that_are_no_features_say_what_they_are(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image": [{"bytes": b"x"}],
            "nothing": [None],
            "clock": [datetime.time(1)],
            "pairs": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int8())),
            "ragged": [[[1], [1, 2]]],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = Parquet(str(tmp_path))
    assert isinstance(source, OtherColumns)
    others = source.other_columns()
    assert set(others) == {"image", "nothing", "clock", "pairs", "ragged"}
    assert others["image"] == "is a struct; name one of its fields: 'image/bytes'"
    assert "nothing but nulls" in others["nothing"]
    assert "time64[us], for which tensors have no place" in others["clock"]
    assert "map<string, int8" in others["pairs"]
    assert "lists of lists that differ in length" in others["ragged"]
    assert set(source.describe()) == {"image/bytes"}


def test_a_struct_in_a_struct_names_its_own_fields() -> None:
    kind = pa.struct([("w", pa.int8())])
    assert "'a/b/w'" in why_unreadable("a/b", kind)


def test_numbers_of_a_matrix_are_where_they_were(tmp_path: Path) -> None:
    values = np.arange(24).reshape(4, 2, 3).tolist()
    pq.write_table(pa.table({"m": values}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path))
    assert source.describe()["m"].shape == (2, 3)
    np.testing.assert_array_equal([one["m"] for one in read(source, ["m"])], values)
    given_lengths = Parquet(str(tmp_path), lengths={"m": [-1, 3]})
    assert given_lengths.describe()["m"].shape == (None, 3)
