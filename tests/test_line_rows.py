"""Each line of a text file gives its own row, or is a bad row; keys never shift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors.failure import Failure
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.batches import InputPipeline
from transforms.sources.csv import Csv
from transforms.sources.jsonl import Jsonl
from transforms.sources.lines import Lines
from transforms.sources.prepared import Preparation
from transforms.sources.source import GivenFeature

CSV = {"a": "int64", "b": "string"}
JSON = {"a": "int64"}


def rows(source: Lines) -> tuple[dict[int, list[Any]], dict[int, str]]:
    """Read a file: `({byte of the line: values}, {number of the row: message})`."""
    features = dict(source.describe())
    names = [name for name in features if name != "row_id"]
    preparation = Preparation(features, [], {}, {}, list(features))
    bad: list[Failure] = []
    found: dict[int, list[Any]] = {}
    pieces = [Piece(file.uri, "f") for file in source.files()]
    for batch in InputPipeline(source, preparation, 64).batches(pieces, bad.append):
        for index in range(len(batch)):
            row = batch.passed_of(index)
            at = int(row["row_id"].numpy().decode().removeprefix("f@"))
            assert at not in found
            values = [row[name].numpy() for name in names]
            found[at] = [v if isinstance(v, bytes) else v.tolist() for v in values]
    return found, {failure.position: failure.message for failure in bad}


def csv_rows(path: Path, data: bytes, **options: Any) -> Any:
    (path / "x.csv").write_bytes(data)
    return rows(Csv(str(path / "x.csv"), **{"features": CSV, **options}))


def jsonl_rows(path: Path, data: bytes, features: Any = None) -> Any:
    (path / "x.jsonl").write_bytes(data)
    return rows(Jsonl(str(path / "x.jsonl"), features or JSON))


def at(data: bytes, line: bytes) -> int:
    assert data.count(line) == 1
    return data.index(line)


@pytest.mark.parametrize(
    ("two", "none"),
    [
        (b"1,x\r2,y", b"\r"),
        (b"1,x\r2,y", b"\r\r"),
        (b'1,x"y\r2,z"', b"\r"),
        (b"1,x\r\r2,y", b"   "),
        (b"1,x\r1,y", b"\xef\xbb\xbf"),
    ],
)
def test_a_line_of_csv_with_two_rows_and_one_with_none_do_not_cancel_out(
    tmp_path: Path, two: bytes, none: bytes
) -> None:
    data = b"a,b\n7,first\n" + two + b"\n8,second\n" + none + b"\r\n9,third\n"
    found, bad = csv_rows(tmp_path, data)
    assert found == {
        at(data, b"7,first"): [7, b"first"],
        at(data, b"8,second"): [8, b"second"],
        at(data, b"9,third"): [9, b"third"],
    }
    assert sorted(bad) == [1, 3]
    assert f"the line at byte {at(data, two)}: " in bad[1]


@pytest.mark.parametrize("two", [b'{"a":1}{"a":2}', b'{"a":1}\r{"a":2}'])
@pytest.mark.parametrize("none", [b"   ", b"\t", b"\r ", b"\r"])
def test_a_line_of_json_with_two_objects_and_one_with_none_do_not_cancel_out(
    tmp_path: Path, two: bytes, none: bytes
) -> None:
    data = b'{"a":7}\n' + two + b'\n {"a":8} \n' + none + b'\r\n{"a":9}\r\n'
    found, bad = jsonl_rows(tmp_path, data)
    assert found == {
        at(data, b'{"a":7}'): [7],
        at(data, b' {"a":8}'): [8],
        at(data, b'{"a":9}'): [9],
    }
    assert sorted(bad) == [1, 3]
    assert "holds 2 values instead of one" in bad[1]


def test_an_object_over_two_lines_is_two_bad_rows(tmp_path: Path) -> None:
    data = b'{"a":[{},\n{}]}\n{"a":1}{"a":2}\n{"a":3}\n{"a":4,\n"b":{}}\n{"a":5}'
    found, bad = jsonl_rows(tmp_path, data)
    assert found == {at(data, b'{"a":3}'): [3], at(data, b'{"a":5}'): [5]}
    assert sorted(bad) == [0, 1, 2, 4, 5]


def test_line_ends_in_quotes_stay_in_their_values(tmp_path: Path) -> None:
    data = b'a,b\n1,"x\r2"\n3,y\n4,"\r"\n'
    found, bad = csv_rows(tmp_path, data)
    assert [*found.values()] == [[1, b"x\r2"], [3, b"y"], [4, b"\r"]]
    data = b'a,b\r\n1,"x\r\n\r\n2"\r\n3,y\r\n4,"p\nq"\r\n'
    found, bad = csv_rows(tmp_path, data, multiline=True)
    assert [*found.values()] == [[1, b"x\r\n\r\n2"], [3, b"y"], [4, b"p\nq"]]
    assert not bad


def test_a_quote_within_a_field_does_not_hide_a_line_end(tmp_path: Path) -> None:
    data = b'a,b\n1,x"y\n2,z"w\n3,c\n\r \r\n'
    found, bad = csv_rows(tmp_path, data, multiline=True)
    assert found == {at(data, b"3,c"): [3, b"c"]}
    assert sorted(bad) == [0, 2]


def test_other_characters_end_no_line(tmp_path: Path) -> None:
    odd = ["a\x85b", "a\u2028b", "a\x0bb", "a\x0cb", "a\x1cb", "a\0b", "#a", "\ufeffa"]
    data = "a,b\n" + "".join(f"{i},{text}\n" for i, text in enumerate(odd))
    found, bad = csv_rows(tmp_path, data.encode())
    assert [*found.values()] == [[i, text.encode()] for i, text in enumerate(odd)]
    lines = [json.dumps({"a": i, "b": odd[i]}, ensure_ascii=False) for i in (0, 1, 7)]
    text = "".join(f"{line}\n" for line in lines)
    found, more = jsonl_rows(tmp_path, text.encode(), CSV)
    assert [*found.values()] == [[i, odd[i].encode()] for i in (0, 1, 7)]
    assert not bad
    assert not more


def test_a_byte_order_mark_is_text_wherever_it_stands(tmp_path: Path) -> None:
    data = b"b\nx\n\xef\xbb\xbfy\n\xef\xbb\xbf\nz\n"
    for encoding in ("utf-8", "latin-1"):
        options = {"features": {"b": "string"}, "encoding": encoding}
        found, bad = csv_rows(tmp_path, data, **options)
        mark = b"\xef\xbb\xbf".decode(encoding).encode()
        assert [*found.values()] == [[b"x"], [mark + b"y"], [mark], [b"z"]]
        assert not bad


NUMBERS = ("1", "2.5", "", "nan", "oops", "3,4", '"5"', '"6""', "7,8,9", "x y", "1e999")


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.sampled_from(NUMBERS)] * 2), min_size=2, max_size=12))
def test_lines_say_together_what_they_say_alone(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("csv")
    options: Any = {
        "columns": ["a", "b", "c"],
        "features": {"a": "float32", "b": "int64", "c": "string"},
    }
    lines = [f"{a},{b},t".encode() for a, b in cells]
    together, bad = csv_rows(path, b"\n".join(lines), **options)
    start = 0
    for number, line in enumerate(lines):
        alone, fault = csv_rows(path, line, **options)
        assert repr([together.get(start)]) == repr([*alone.values()] or [None])
        message = fault.get(0, "").replace("at byte 0", f"at byte {start}")
        assert bad.get(number, "") == message
        start += len(line) + 1


def test_what_cannot_be_converted_is_not_looked_for_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    read = pacsv.read_csv
    monkeypatch.setattr(
        pacsv, "read_csv", lambda *given: calls.append(given) or read(*given)
    )
    cells = ["oops" if i % 3 == 0 else str(i % 50) for i in range(3000)]
    data = "".join(f"{cell},x{i}\n" for i, cell in enumerate(cells)).encode()
    found, bad = csv_rows(tmp_path, data, columns=["a", "b"])
    assert (len(found), len(bad)) == (2000, 1000)
    assert {message.partition(": ")[2] for message in bad.values()} == {
        "In CSV column #0: Row #1: CSV conversion error to int64: invalid value 'oops'"
    }
    assert len(calls) < 60  # of 51 texts, one of them bad


CELLS = st.text('ab1\r"\n ,{}', max_size=6)


@settings(max_examples=20)
@given(st.lists(CELLS, min_size=1, max_size=8))
def test_any_lines_of_csv_are_rows_or_bad_rows_by_themselves(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("csv")
    data = "\n".join(texts).encode()
    options = {"columns": ["b"], "features": {"b": "string"}}
    together, bad = csv_rows(path, data, **options)
    start = 0
    for line in data.split(b"\n"):
        alone, _ = csv_rows(path, line, **options)
        assert (
            [together[start]] == [*alone.values()] if alone else start not in together
        )
        start += len(line) + 1
    assert len(together) + len(bad) == sum(
        bool(line.removesuffix(b"\r")) for line in data.split(b"\n")
    )


@settings(max_examples=20)
@given(
    st.lists(
        st.sampled_from(
            [
                '{"a":1}',
                '{"a":2}{"a":3}',
                " ",
                "\r",
                '{"a":',
                "4}",
                '{"a":5}\r',
                "",
                "[]",
                "6",
            ]
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_lines_of_json_are_rows_or_bad_rows_by_themselves(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    path = tmp_path_factory.mktemp("json")
    data = "\n".join(texts).encode()
    (path / "x.jsonl").write_bytes(data)
    found, bad = jsonl_rows(path, data)
    start = 0
    for text in texts:
        sound = text in ('{"a":1}', '{"a":5}\r')
        assert (start in found) == sound
        assert not sound or found[start] == [int(text[5])]
        start += len(text) + 1
    assert len(found) + len(bad) == sum(text not in ("", "\r") for text in texts)


def test_text_of_numbers_too_large_for_their_type_is_a_bad_row(tmp_path: Path) -> None:
    data = b"v\n0.1\n1e39\n-inf\n-1e300\nnan\nInfinity\n1e400\n"
    for dtype, lost in (
        ("float32", [1, 3, 6]),
        ("float64", [6]),
        ("float16", [1, 3, 6]),
    ):
        found, bad = csv_rows(tmp_path, data, features={"v": dtype})
        assert sorted(bad) == lost
        values = np.array([*found.values()]).reshape(-1)
        assert values[0] == float(np.dtype(dtype).type(0.1))
        assert np.isinf(values).sum() == 2
    assert "v must hold values that fit into float16, got 1e39" in bad[1]
    lists = {"v": GivenFeature("float32", (2,)), "w": GivenFeature("float16")}
    data = (
        b'{"v":[1,-1e39],"w":1}\n{"v":[0.5,-Infinity],"w":65504}\n{"v":[0,1],"w":7e4}'
    )
    found, bad = jsonl_rows(tmp_path, data, lists)
    assert [*found.values()] == [[[0.5, -np.inf], 65504.0]]
    assert "v must hold values that fit into float32, got -1e+39" in bad[0]
    assert "w must hold values that fit into float16, got 70000" in bad[2]


def test_whole_numbers_that_do_not_fit_are_bad_rows(tmp_path: Path) -> None:
    data = b"a,b\n255,x\n256,x\n-1,x\n1.0,x\n0,x\n"
    found, bad = csv_rows(tmp_path, data, features={"a": "uint8", "b": "string"})
    assert [row[0] for row in found.values()] == [255, 0]
    assert sorted(bad) == [1, 2, 3]
    lines = b"".join(b'{"a":%s}\n' % n for n in (b"255", b"256", b"-1", b"1.0", b"0"))
    found, bad = jsonl_rows(tmp_path, lines, {"a": "uint8"})
    assert [row[0] for row in found.values()] == [255, 0]
    assert sorted(bad) == [1, 2, 3]


def test_a_header_with_a_line_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="header line must name columns"):
        csv_rows(tmp_path, b"a,b\r1,x\r2,y\n")
