"""CSV as databases and spreadsheets write it: escapes, decimal commas, times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from conftest import Job
from readers import everything, outcomes

from transforms.config import SourceSpec
from transforms.lookup import ConfigError
from transforms.sources import lines
from transforms.sources.readers import make_source


def csv_file(directory: Path, text: str) -> dict[str, Any]:
    """A source of one file that holds this text."""
    path = directory / "x.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return {"reader": "csv", "path": str(path)}


ESCAPED = [
    (r"1," r'"says \"hi\""', 'says "hi"'),
    (r'2,"ends with \\"', "ends with \\"),
    (r"3,a\,b", "a,b"),
    (r"4,\"", '"'),
    (r'5,"doubled "" too"', 'doubled " too'),
    (r"6,\\\\", "\\\\"),
    ("7,plain", "plain"),
]


@pytest.mark.parametrize("quote", ['"', "'"])
def test_escapes_take_the_meaning_of_a_character(
    quote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", 16)
    monkeypatch.setattr(lines, "_SPAN_BYTES", 40)
    text = "\n".join(["id,text", *(line for line, _ in ESCAPED)])
    source = csv_file(tmp_path, text.replace('"', quote))
    found, _ = everything(
        **source, quote=quote, escape="\\", features={"text": "string"}
    )
    expected = [text.replace('"', quote) for _, text in ESCAPED]
    assert [row["text"].decode() for row in found] == expected


def test_escapes_without_quotes(tmp_path: Path) -> None:
    source = csv_file(tmp_path, 'id\ttext\n1\ta\\\tb "\n')
    options = {"delimiter": "\t", "quote": "", "escape": "\\"}
    assert outcomes("text", **source, **options) == ['a\tb "']


def test_escaped_line_ends_are_read_with_multiline(tmp_path: Path) -> None:
    text = 'id,text\n1,a\\\nb\n2,"c\\"\nd"\n3,"e\n\\\\"\n4,f\n'
    source = csv_file(tmp_path, text) | {"escape": "\\", "features": {"text": "string"}}
    read = outcomes("text", **source, multiline=True)
    assert read == ["a\nb", 'c"\nd', "e\n\\", "f"]
    first, *rest = outcomes("text", **source)
    assert "ends in the escape character; source.multiline = true" in first
    assert rest[-1] == "f"


def test_multiline_is_named_where_it_is_the_cure(tmp_path: Path) -> None:
    source = csv_file(tmp_path, 'id,text\n1,"a\nb"\n2,c\n')
    first, second, third = outcomes("text", **source, features={"text": "string"})
    cure = "without a closing one; source.multiline = true reads fields that hold line"
    assert cure in first
    assert cure in second
    assert third == "c"
    one = csv_file(tmp_path, 'id,text\n1,"a\n') | {"features": {"text": "string"}}
    (wrong,) = outcomes("text", **one, multiline=True)
    assert "source.multiline" not in wrong


def test_numbers_may_have_decimal_commas(tmp_path: Path) -> None:
    source = csv_file(tmp_path, 'a;b\n1,5;2\n"-2,25";3\n1.234,5;4\n')
    options = {"delimiter": ";", "decimal": ","}
    features = {"a": "float32", "b": "int64"}
    first, second, third = outcomes("a", **source, **options, features=features)
    assert (first, second) == (1.5, -2.25)
    assert "1.234,5" in third
    source = csv_file(tmp_path, "a;b\n1,5;2\n")
    found = make_source(SourceSpec(**source, **options)).describe()
    assert (found["a"].dtype, found["b"].dtype) == ("float64", "int64")
    assert outcomes("a", **source, delimiter=";") == ["1,5"]


def test_text_that_is_stacked_is_refused_at_planning(tmp_path: Path) -> None:
    steps = [{"step": "stack", "feature": "vec", "of": ["a", "a"]}]
    source = csv_file(tmp_path, "id;a\n1;2,5\n") | {"delimiter": ";"}
    job = Job(tmp_path / "out", {**source, "preprocess": steps})
    with pytest.raises(
        ConfigError, match=r"'a' must be numbers to become float32.*source\.decimal"
    ):
        job.plan()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"escape": "ab"}, r"source.escape must be one ASCII character, got 'ab'"),
        ({"decimal": ""}, r"source.decimal must be one ASCII character, got ''"),
        ({"delimiter": "§"}, r"source.delimiter must be one ASCII character"),
        ({"decimal": ","}, r"must differ, got delimiter = ',', .*decimal = ','"),
        ({"escape": '"'}, r"must differ, got .*escape = '\"'"),
    ],
)
def test_characters_that_cannot_be_told_apart_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_source(SourceSpec(reader="csv", path="x.csv", **options))


def test_times_without_a_zone_are_utc(tmp_path: Path) -> None:
    texts = {
        "2024-01-05 10:00:00": "2024-01-05T10:00:00",
        "2024-01-05T10:00:00Z": "2024-01-05T10:00:00",
        "2024-01-05 10:00:00+02:00": "2024-01-05T08:00:00",
        "2024-01-05T10:00:00.5-0030": "2024-01-05T10:30:00.5",
        "2024-01-05 10:00:00.123456789": "2024-01-05T10:00:00.123456",
        "1969-12-31": "1969-12-31",
        "2024-02-29": "2024-02-29",
    }
    source = csv_file(tmp_path, "\n".join(["when", *texts, "9.1.2024"]))
    *found, wrong = outcomes("when", **source, features={"when": "timestamp"})
    expected = [np.datetime64(text, "us").astype(int) for text in texts.values()]
    assert found == expected
    assert "9.1.2024" in wrong


def test_no_time_is_a_null(tmp_path: Path) -> None:
    source = csv_file(tmp_path, "when,x\n2024-01-05 10:00,1\n,2\n")
    source |= {"features": {"when": "timestamp", "x": "int64"}}
    expected = np.datetime64("2024-01-05T10:00", "us").astype(int)
    assert outcomes("when", **source) == [expected, 0]
    with pytest.raises(tf.errors.InvalidArgumentError, match="when is null"):
        everything(**source)
