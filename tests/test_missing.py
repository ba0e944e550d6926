"""What is missing or malformed here and there stops nothing, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from transforms.errors.failure import Failure
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.batches import InputPipeline
from transforms.sources.csv import Csv
from transforms.sources.jsonl import Jsonl
from transforms.sources.prepared import Preparation
from transforms.sources.source import Source

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


def rows_of(source: Source) -> tuple[list[int], dict[int, str]]:
    """Read ids as a model input: those of the sound rows, and `{row: message}`."""
    features = {"id": replace(source.describe()["id"], nullable=False)}
    preparation = Preparation(features, [], {"id": ()}, {}, [])
    bad: list[Failure] = []
    pieces = [Piece(file.uri, file.name) for file in source.files()]
    batches = list(InputPipeline(source, preparation, 8).batches(pieces, bad.append))
    found = [int(i) for batch in batches for i in batch.inputs["id"].numpy()]
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
