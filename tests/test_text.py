"""CSV and JSON Lines: where lines begin, however a file is cut and encoded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Job
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from readers import STACK, everything, rows, write_csv

from pipeline.cut import cut_shards
from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.sources import lines
from transforms.sources.readers import make_source

NAMES = ["id", *(f"v{i}" for i in range(6)), "text"]
words = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cut files and read them in such small pieces that every border is met."""
    monkeypatch.setattr(lines, "_CHUNK_BYTES", 16)
    monkeypatch.setattr(lines, "_SPAN_BYTES", 40)
    return


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(-999, 999), words), min_size=1), st.booleans())
@example([(1, ""), (2, ","), (3, "a" * 60)], False)
def test_any_csv_is_read_as_python_reads_it(
    small: None, tmp_path: Path, given_rows: list[tuple[int, str]], crlf: bool
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\r\n" if crlf else "\n")
    writer.writerows([("n", "w"), *given_rows])
    path = tmp_path / "x.csv"
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    features = {"n": "int64", "w": "string"}
    found, keys = everything(reader="csv", path=str(path), features=features)
    assert [(row["n"], row["w"].decode()) for row in found] == given_rows
    assert len(keys) == len(given_rows)
    data = path.read_bytes()
    for key, (n, _) in zip(sorted(keys, key=_byte), given_rows, strict=True):
        assert data[_byte(key) :].startswith(str(n).encode())


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.lists(st.integers(-99, 99)), words), min_size=1))
def test_any_json_lines_are_read_as_python_reads_them(
    small: None, tmp_path: Path, given_rows: list[tuple[list[int], str]]
) -> None:
    path = tmp_path / "x.jsonl"
    lines = [
        json.dumps({"l": numbers, "w": word}, ensure_ascii=len(word) % 2 == 0)
        for numbers, word in given_rows
    ]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    features = {"l": {"dtype": "int64", "shape": [-1]}, "w": "string"}
    found, keys = everything(reader="jsonl", path=str(path), features=features)
    assert [(r["l"].tolist(), r["w"].decode()) for r in found] == given_rows
    assert len(keys) == len(given_rows)


def _byte(key: bytes) -> int:
    return int(key.rpartition(b"@")[2])


def test_spans_cover_a_file_and_keys_do_not_depend_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path)
    source = {"reader": "csv", "path": str(tmp_path)}
    whole, keys = everything(**source)
    for size in (50, 777, 5000):
        monkeypatch.setattr(lines, "_SPAN_BYTES", size)
        found, same = everything(**source)
        assert same == keys
        assert [row["id"] for row in found] == [row["id"] for row in whole]
    files = make_source(SourceSpec(**source)).files()
    assert files[0].spans == ((0, files[0].bytes),)
    monkeypatch.setattr(lines, "_SPAN_BYTES", 500)
    spans = make_source(SourceSpec(**source)).files()[0].spans
    assert len(spans) > 2
    assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]]


FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tabs": ({"delimiter": "\t"}, {"delimiter": "\t"}),
    "other quotes": (
        {"quotechar": "'", "quoting": csv.QUOTE_ALL},
        {"quote": "'"},
    ),
    "no quotes": (
        {"quoting": csv.QUOTE_NONE, "quotechar": None},
        {"quote": ""},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_csv(form: str, tmp_path: Path) -> None:
    written, options = FORMS[form]
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data", **written)
    source = {"reader": "csv", "path": str(tmp_path / "data"), **options}
    job = Job(tmp_path / "out", {**source, "preprocess": STACK})
    assert len(job.run(source={"keep": ["text"]}, taps=[{"path": "stem"}])) == 100


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig", "cp1252"])
def test_encodings(encoding: str, small: None, tmp_path: Path) -> None:
    texts = ["Ärger", "é,è", "ok"]
    lines = ["id,text", *(f'{i},"{one}"' for i, one in enumerate(texts))]
    path = tmp_path / "x.csv"
    path.write_text("\n".join(lines), encoding=encoding)
    features = {"id": "int64", "text": "string"}
    source = {"reader": "csv", "path": str(path), "features": features}
    found, _ = everything(**source, encoding=encoding)
    assert [row["text"].decode() for row in found] == texts


def test_text_in_another_encoding_than_said_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_csv(tmp_path / "data")
    path = tmp_path / "data" / "1.csv"
    path.write_bytes(path.read_bytes().replace(b"row 50", b"row \x81"))
    source = {"reader": "csv", "path": str(tmp_path / "data"), "encoding": "cp1252"}
    job = Job(tmp_path / "out", {**source, "preprocess": STACK})
    table = job.run(
        source={"keep": ["text"]},
        taps=[{"path": "stem"}],
        errors={"max_fraction": 0.1},
    )
    assert set(range(100)) - set(table["example_id"].to_pylist()) == {50}
    (error,) = job.errors()
    assert "can't decode byte 0x81" in error["message"]
    assert "the line at byte" in error["message"]


def test_quoted_fields_may_hold_line_ends(small: None, tmp_path: Path) -> None:
    texts = ['two\nlines, and "quotes"', "one", "\n\n"]
    with (tmp_path / "x.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "text"), *enumerate(texts)])
    source = {"reader": "csv", "path": str(tmp_path / "x.csv"), "multiline": True}
    found, keys = everything(**source, features={"id": "int64", "text": "string"})
    assert [row["text"].decode() for row in found] == texts
    assert len(keys) == 3
    assert make_source(SourceSpec(**source)).files()[0].spans == ()


def test_files_without_a_header_get_names(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for part in range(2):
        lines = [
            ",".join([str(row["id"]), *map(str, row["vec"]), row["text"]])
            for row in rows(range(part * 50, part * 50 + 50))
        ]
        (tmp_path / "data" / f"{part}.csv").write_text("\n".join(lines))
    source = {"reader": "csv", "path": str(tmp_path / "data"), "columns": NAMES}
    job = Job(tmp_path / "out", {**source, "preprocess": STACK})
    table = job.run(taps=[{"path": "stem"}])
    assert sorted(table["example_id"].to_pylist()) == list(range(100))


def test_types_are_told_by_the_head(tmp_path: Path) -> None:
    lines = [
        "i,f,t,b,w",
        "1,nan,2026-01-31T12:00:00Z,true,x",
        "2,0.5,2026-01-31,false,",
    ]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    source = make_source(SourceSpec(reader="csv", path=str(tmp_path / "x.csv")))
    found = {name: one.dtype for name, one in source.describe().items()}
    assert (found["i"], found["f"], found["b"]) == ("int64", "float64", "bool")
    assert found["w"] == "string"
    (tmp_path / "x.jsonl").write_text(
        '{"i": 1, "f": 1.5, "l": [1, 2], "m": [[1]], "o": {"x": 1}, "v": []}\n'
        '{"i": 2, "f": 2.5, "l": [3, 4], "m": [[1]], "o": {"x": 1}, "v": [1.5]}\n'
    )
    source = make_source(SourceSpec(reader="jsonl", path=str(tmp_path / "x.jsonl")))
    found_json = {name: (f.dtype, f.shape) for name, f in source.describe().items()}
    assert found_json == {
        "row_id": ("string", ()),
        "i": ("int64", ()),
        "f": ("float64", ()),
        "l": ("int64", (2,)),
        "m": ("int64", (1, 1)),
        "v": ("float64", (None,)),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": {"idd": "int64"}}, "must name columns of .*got 'idd'"),
        ({"features": {"id": {"dtype": "int64", "shape": [2]}}}, "holds one value"),
        ({"features": {"id": "integer"}}, "source.features.id must be one of"),
        ({"encoding": "utf-9"}, "one that Python knows, got 'utf-9'"),
        ({"columns": ["a", "a"]}, "columns must have names of their own"),
        ({"delimeter": ";"}, "nearest is 'delimiter'"),
    ],
)
def test_options_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "x.csv").write_text("id,v\n1,2\n")
    job = Job(tmp_path / "out", {"reader": "csv", "path": str(tmp_path / "x.csv")})
    with pytest.raises(ConfigError, match=message):
        job.plan(source=options)


def test_numbers_are_not_rounded_into_their_type(tmp_path: Path) -> None:
    lines = ["n", "1", "2.5", "300", "-1"]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    source = make_source(
        SourceSpec(reader="csv", path=str(tmp_path / "x.csv"), features={"n": "uint8"})
    )
    features = dict(source.describe())
    (shard,) = cut_shards(source.files(), 10)
    iterator = iter(source.read(shard.pieces, features, None))
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(int(next(iterator)[1]["n"]))
        except Exception as error:
            outcomes.append(type(error).__name__)
    assert outcomes == [1, *["InvalidArgumentError"] * 3]
    assert np.uint8(300 % 256) not in outcomes
