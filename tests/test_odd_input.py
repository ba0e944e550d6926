"""Input that nobody means to give ends in a sentence that says what to do."""

from __future__ import annotations

import gzip
import re
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from conftest import ROWS, Job
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline import run_plan
from pipeline.cli import app
from pipeline.config_file import load_config
from transforms.config import TapSpec
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.sources.csv import Csv
from transforms.sources.jsonl import Jsonl
from transforms.sources.webdataset import WebDataset, _block, expand_braces
from transforms.taps.chains import split_reduction
from transforms.taps.language import Activation, choose_one, match

_CONFIG = """
[source]
reader = "csv"
path = "a"
[model]
path = "m"
[[taps]]
path = "x"
[table]
path = "t"
"""


def by_expression(pattern: str, address: str) -> tuple[str, ...] | None:
    """What `match` says, by a regular expression, whose time may explode."""
    kinds = {"**/": "(?:(.*)/)?", "**": "(.*)", "*": "([^/:@]*)"}
    tokens = re.split(r"(\*\*/|\*\*|\*)", pattern)
    expression = "".join(kinds.get(token) or re.escape(token) for token in tokens)
    found = re.fullmatch(expression, address)
    return found and tuple(text or "" for text in found.groups())


@given(st.text("*/ab:", max_size=8), st.text("/ab:@", max_size=8))
def test_patterns_match_as_their_regular_expressions_do(
    pattern: str, address: str
) -> None:
    assert match(pattern, address) == by_expression(pattern, address)


@pytest.mark.parametrize(
    "text",
    [f"[{'-' * 10**5}1]", "[" * 10**5, "9" * 10**4, "a" + ".a" * 10**4, "{[]: 1}"],
)
def test_arguments_of_a_reduction_that_python_cannot_parse_are_refused(
    text: str,
) -> None:
    with pytest.raises(ConfigError, match="must be a name with keyword arguments"):
        split_reduction(f"mean(axis={text})")


def test_a_wildcard_of_an_endless_number_is_refused() -> None:
    spec = TapSpec(path="*", column="c{" + "1" * 5000 + "}")
    with pytest.raises(ConfigError, match="must be lower_snake"):
        choose_one(spec, "taps[0]", [Activation("a", (2,), "float32")])


@pytest.mark.parametrize("value", ["[" * 10**5, "9" * 10**4])
def test_a_config_that_python_cannot_parse_is_no_toml(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f"{_CONFIG}\nx = {value}")
    with pytest.raises(ConfigError, match="must be TOML: "):
        load_config(path)
    path.write_text(_CONFIG)
    with pytest.raises(
        ConfigError, match=r"table\.rows_per_part: .* integer"
    ) as caught:
        load_config(path, [f"table.rows_per_part={value}"])
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["2026-01-31T12:00:00Z", '"2026-01-31T12:00:00Z"'])
def test_a_time_may_stand_in_a_config_as_text_or_as_toml_has_it(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(_CONFIG)
    found = load_config(path, [f"table.event_timestamp={value}"])
    assert found.table.event_timestamp == "2026-01-31T12:00:00Z"
    path.write_text(f"{_CONFIG}event_timestamp = {value}\n")
    assert load_config(path) == found


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("{0..9999999999}", "at most 1000000 files"),
        ("{a,b}" * 30, "at most 1000000 files"),
        (f"{{0..{'9' * 5000}}}", "at most 18 digits"),
    ],
)
def test_braces_that_stand_for_too_many_files_are_refused(
    pattern: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        expand_braces(pattern)


def test_braces_are_expanded_in_order_and_odd_ones_are_text() -> None:
    assert expand_braces("{a,b}{9..10}") == ["a9", "a10", "b9", "b10"]
    assert expand_braces("{3..1}x") == ["3x", "2x", "1x"]
    assert expand_braces("{²..³}}{") == ["²..³}{"]


def test_rows_that_are_no_objects_do_not_stop_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'3\n["a"]\n[[1]]\nnull\n{"[" * 10**5}\n{{"v": 1}}\n')
    described = Jsonl(path=str(path), features={"v": "float32"}).describe()
    assert described["v"].dtype == "float32"
    with pytest.raises(ConfigError, match="got 'a', which no row"):
        Jsonl(path=str(path), features={"a": "float32"}).describe()


@pytest.mark.parametrize("features", [None, {"v": "int64"}])
@pytest.mark.parametrize(
    ("kind", "text"), [(Csv, b"v\n" + b"1\n" * 5), (Jsonl, b'{"v": 1}\n' * 5)]
)
def test_files_that_end_too_soon_are_named_if_there_are_no_others(
    kind: type[Csv | Jsonl],
    text: bytes,
    features: dict[str, Any] | None,
    tmp_path: Path,
) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(text)[:-12])
    with pytest.raises(
        ConfigError, match=r"can be read, got .*a\.gz.*file ended before"
    ):
        kind(path=str(tmp_path), features=features).describe()
    (tmp_path / "b.gz").write_bytes(gzip.compress(text))
    source = kind(path=str(tmp_path), features=features)
    found = {"v": source.describe()["v"]}
    assert found["v"].dtype == "int64"
    pieces = [Piece(file.uri, file.name) for file in source.files()]
    with pytest.raises(tf.errors.InvalidArgumentError, match="file ended before"):
        list(source.read(pieces[:1], found, None))
    assert len(list(source.read(pieces[1:], found, None))) == 5


def test_a_header_is_not_looked_for_in_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    source = Csv(path=str(tmp_path), features={"v": "int64"})
    with pytest.raises(ConfigError, match="must hold a line, got only empty files"):
        source.describe()
    (tmp_path / "b.csv").write_text("v\n1\n")
    assert Csv(path=str(tmp_path), features={"v": "int64"}).describe()["v"]


def test_a_flag_that_is_none_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("0.ok", b"true"), ("1.ok", b"yes"), ("2.ok", b"\xff")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, BytesIO(data))
    source = WebDataset(path=str(tmp_path / "a.tar"), features={"ok": "bool"})
    rows = list(source._examples(str(tmp_path / "a.tar"), {"ok"}))
    block = _block(rows, 0, {"ok": source.describe()["ok"]})
    assert block.values["ok"].tolist() == [True, False, False]
    assert block.faults.tolist() == [
        "",
        "ok must be true, false, 1 or 0, got 'yes'",
        "ok must be true, false, 1 or 0, got '\ufffd'",
    ]


@pytest.mark.parametrize("options", [[], ["--workers=2"]])
def test_a_table_that_would_end_with_the_command_is_refused(
    options: list[str], job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(
        f"[source]\nreader = 'parquet'\npath = '{job.source['path']}'\n"
        "[model]\nbuild = 'toolbox:dict_model'\n[[taps]]\npath = 'head'\n"
        "[table]\npath = 'memory://gone/table'\n"
    )
    result = CliRunner().invoke(app, ["run", str(path), *options])
    assert result.exit_code == 2
    assert "must lie where other processes find it" in result.stderr
    plan = job.plan(table={"path": "memory://gone/table"})
    with pytest.raises(ConfigError, match="must lie where other processes find it"):
        run_plan(plan, workers=2)
    assert run_plan(plan)["rows"] == ROWS
