"""Numbers and dates in text files stay what is written, where no type is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Job
from readers import outcomes

from transforms.config import SourceSpec
from transforms.sources import numerals
from transforms.sources.readers import make_source

SAID = "as at the head of the first file, got "
QUOTE = '"'
TEXT = {
    "zeros": ["00123", "45678"],
    "zeros below": ["-007", "1"],
    "plus": ["+4912345", "+4967890"],
    "hexadecimal": ["0x1F", "0x20"],
    "unsigned": ["18446744073709551615", "1"],
    "longer": ["123456789012345678901234567890", "-5"],
    "very long": ["1" * 400, "2"],
    "with a fraction": ["12345678901234567", "1.5"],
    "date": ["2024-02-29", "1969-12-31"],
    "time": ["10:00:00", "11:00:00"],
    "moment": ["2024-01-05 10:00:00", "2024-01-05 10:00:01"],
    "some zones": ["2024-01-05T10:00:00+02:00", "2024-01-05T10:00:00"],
    "empty": ["", ""],
}
NUMBERS = {
    "whole": (["1", "-20", "300", "0"], "int64"),
    "largest": (["9223372036854775807", "1"], "int64"),
    "fractions": (["0.5", "-0.25", "+1.5", "007.5", "3"], "float64"),
    "exponents": (["1e-05", "1e300", "10000000000000000000000", "2.5"], "float64"),
    "many digits": (["0.1234567890123456789", "1.5"], "float64"),
}


def csv_files(directory: Path, *files: list[str]) -> dict[str, Any]:
    """A source of files with these values in column `v`."""
    for n, values in enumerate(files):
        text = "".join(f"{value},1\n" for value in values)
        (directory / f"{n}.csv").write_text(f"v,other\n{text}")
    return {"reader": "csv", "path": str(directory)}


def json_files(directory: Path, *files: list[str]) -> dict[str, Any]:
    """A source of files with these values under the key `v`."""
    for n, values in enumerate(files):
        text = "".join(f'{{"other": 1, "v": {value}}}\n' for value in values)
        (directory / f"{n}.jsonl").write_text(text)
    return {"reader": "jsonl", "path": str(directory)}


@pytest.mark.parametrize("kind", TEXT)
def test_a_column_that_a_number_would_change_is_text(kind: str, tmp_path: Path) -> None:
    source = csv_files(tmp_path, TEXT[kind])
    assert outcomes("v", **source) == TEXT[kind]


ZONED = ["2024-01-05T10:00:00+02:00", "2024-01-05T10:00:00Z", "2024-01-05 10:00-0030"]
MOMENTS = ["2024-01-05T08:00", "2024-01-05T10:00", "2024-01-05T10:30"]


def test_times_with_a_zone_are_moments(tmp_path: Path) -> None:
    for directory, source in (
        (tmp_path / "csv", lambda d: csv_files(d, ZONED, ["2024-01-05"])),
        (
            tmp_path / "jsonl",
            lambda d: json_files(d, [f'"{one}"' for one in ZONED], ['"2024-01-05"']),
        ),
    ):
        directory.mkdir()
        expected = [np.datetime64(t, "us").astype(int) for t in MOMENTS]
        later = np.datetime64("2024-01-05", "us").astype(int)
        assert outcomes("v", **source(directory)) == [*expected, later]


@pytest.mark.parametrize("kind", NUMBERS)
def test_other_columns_are_numbers(kind: str, tmp_path: Path) -> None:
    values, dtype = NUMBERS[kind]
    source = csv_files(tmp_path, values)
    assert make_source(SourceSpec(**source)).describe()["v"].dtype == dtype
    assert outcomes("v", **source) == [np.dtype(dtype).type(text) for text in values]


@pytest.mark.parametrize(
    ("head", "later"),
    [
        (["1", "2"], "00123"),
        (["1", "2"], "-01"),
        (["1", "2"], "0x1F"),
        (["1", "2"], '"007"'),
        (["1.5", "2"], "12345678901234567"),
    ],
)
def test_a_later_row_that_a_number_would_change_is_a_bad_row(
    head: list[str], later: str, tmp_path: Path
) -> None:
    source = csv_files(tmp_path, head, [later, head[0]])
    *first, wrong, last = outcomes("v", **source)
    assert first == [float(text) for text in head]
    assert f"v must hold numbers, {SAID}{later.strip(QUOTE)}, which a number" in wrong
    assert "source.features with the type of each column, string" in wrong
    assert last == float(head[0])


def test_rows_are_as_written_or_bad_where_types_are_given(tmp_path: Path) -> None:
    source = csv_files(tmp_path, ["00123", "12345678901234567", "0x1F", "1.5"])
    whole = outcomes("v", **source, features={"v": "int64"})
    assert whole[:2] == [123, 12345678901234567]
    assert "1.5" in whole[3]
    assert outcomes("v", **source, features={"v": "string"})[0] == "00123"
    source = csv_files(tmp_path, ["12345678901234567", "1"])
    assert outcomes("v", **source, features={"v": "float64"}) == [
        1.2345678901234568e16,
        1,
    ]


@pytest.mark.parametrize(
    ("data", "marked"),
    [
        (b"1,0,100,0.05,1.005,10.0\n", False),
        (b"01,2", True),
        (b"2,-01", True),
        (b"2\n01", True),
        (b'2,"007"', True),
        (b"0X1f", True),
        (b"", False),
    ],
)
def test_a_look_at_bytes_misses_no_zeros_in_front(data: bytes, marked: bool) -> None:
    assert numerals.may_be_marked(data) == marked


JSON_TEXT = [
    ["18446744073709551615", "1"],
    ["-99999999999999999999", "null"],
    ["12345678901234567", "1.5"],
    ['"2024-02-29"', '"1969-12-31"'],
    ['"2024-01-05T10:00:00Z"', '"2024-01-05 10:00:00"'],
]


@pytest.mark.parametrize("values", JSON_TEXT)
def test_a_key_that_a_number_would_change_is_text(
    values: list[str], tmp_path: Path
) -> None:
    source = json_files(tmp_path, values)
    expected = [value.strip('"').replace("null", "") for value in values]
    assert outcomes("v", **source) == expected


def test_lists_that_a_number_would_change_are_text(tmp_path: Path) -> None:
    source = json_files(
        tmp_path, ["[1, 18446744073709551615]", "[2, 3]"], ["[4, 1.50]"]
    )
    found = [value.tolist() for value in outcomes("v", **source)]
    assert found == [[b"1", b"18446744073709551615"], [b"2", b"3"], [b"4", b"1.50"]]
    source = json_files(tmp_path, ['["2024-02-29"]'], ['["2024-03-01"]'])
    found = [value.tolist() for value in outcomes("v", **source)]
    assert found == [[b"2024-02-29"], [b"2024-03-01"]]


def test_other_keys_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"i": 1, "f": 1, "l": [1, 2], "m": [1, 2.5], "e": 1e300}\n'
        '{"i": -9223372036854775808, "f": 1.5, "l": [3, 4], "m": [3, 4], "e": 1e30}\n'
    )
    found = make_source(SourceSpec(reader="jsonl", path=str(tmp_path))).describe()
    dtypes = {name: found[name].dtype for name in "iflme"}
    assert dtypes == {
        **{"i": "int64", "f": "float64", "l": "int64"},
        **{"m": "float64", "e": "float64"},
    }


def test_a_later_number_that_floats_would_change_is_a_bad_row(tmp_path: Path) -> None:
    source = json_files(tmp_path, ["1.5", "2"], ["12345678901234567", "1e30", "3"])
    one, two, wrong, large, three = outcomes("v", **source)
    assert [one, two, large, three] == [1.5, 2, 1e30, 3]
    assert f"v must hold numbers, {SAID}12345678901234567, which" in wrong
    lists = json_files(tmp_path, ["[1.5]", "[2]"], ["[12345678901234567]"])
    assert "v must hold numbers" in outcomes("v", **lists)[2]
    given = {**source, "features": {"v": "float64"}}
    (tmp_path / "1.jsonl").write_text('{"v": 12345678901234567}\n')
    (tmp_path / "0.jsonl").write_text('{"v": 1}\n')
    assert outcomes("v", **given) == [1, 1.2345678901234568e16]


def test_numbers_are_text_where_text_is_asked_for(tmp_path: Path) -> None:
    values = ["1.50", '"a"', "123456789012345678901234567890", "true", "null"]
    source = json_files(tmp_path, values) | {"features": {"v": "string"}}
    first, second, third, wrong, nothing = outcomes("v", **source)
    assert [first, second, third] == ["1.50", "a", values[2]]
    assert "boolean" in wrong
    assert nothing == ""


def test_text_without_a_type_can_be_an_event_timestamp(tmp_path: Path) -> None:
    lines = [f"{i},{i}.5,2024-01-05 10:00:0{i}" for i in range(3)]
    (tmp_path / "x.csv").write_text("\n".join(["id,v,when", *lines]))
    steps = [{"step": "stack", "feature": "vec", "of": ["v"] * 6}]
    source = {"reader": "csv", "path": str(tmp_path / "x.csv"), "preprocess": steps}
    table = Job(tmp_path / "out", source).run(
        source={"keep": ["when"]}, table={"event_timestamp": "when"}
    )
    said = table["when"].to_pylist()
    assert said == [f"2024-01-05 10:00:0{i}" for i in range(3)]
    moments = table["event_timestamp"].to_pylist()
    assert [f"{one:%Y-%m-%d %H:%M:%S %Z}" for one in moments] == [
        f"{text} UTC" for text in said
    ]
