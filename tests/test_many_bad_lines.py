"""Many bad lines are told together, and as parsing each of them alone would tell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors.failure import Failure
from transforms.shard import Piece
from transforms.sources.batches import InputPipeline
from transforms.sources.csv import Csv
from transforms.sources.distinct import is_refused
from transforms.sources.jsonl import Jsonl
from transforms.sources.lines import Lines
from transforms.sources.outline import outline
from transforms.sources.prepared import Preparation
from transforms.sources.source import GivenFeature

FEATURES = {"a": "float32", "b": "int64", "t": "timestamp", "c": "string"}
TIME = "2024-01-05T10:00"
ROWS = 1200

CSV = {
    "the same word": lambda i: f"1,oops,{TIME},x",
    "different words": lambda i: f"1,w{i},{TIME},x",
    "fractions": lambda i: f"1,{i}.5,{TIME},x",
    "times": lambda i: f"1,2,5.{i}.2024,x",
    "too few fields": lambda i: f"1,{i},{TIME}",
    "too many fields": lambda i: f"1,{i},{TIME},x,y",
    "open quotes": lambda i: f'1,{i},{TIME},"x',
    "no UTF-8": lambda i: f"1,{i},{TIME},\xe9{i}",
}
JSON = {
    "cut off": lambda i: json_line(i)[: i % 9 - 11],
    "another word": lambda i: json_line(i).replace(f" {i},", f" wörd{i},"),
    "strings": lambda i: json_line(f"w{i}"),
    "lists": lambda i: json_line([i] * (i % 5)),
    "bare numbers": str,
    "keys twice": lambda i: json_line(i).replace("}", f', "b": {i}}}'),
    "two objects": lambda i: json_line(i) + "{}",
    "fractions": lambda i: json_line(i + 0.5),
    "times": lambda i: json_line(i).replace("2024", f"24.{i}"),
    "no UTF-8": lambda i: json_line(i).replace("text", f"t\xe9xt {i}"),
}
KINDS = [
    *((Csv, kind, make) for kind, make in CSV.items()),
    *((Jsonl, kind, make) for kind, make in JSON.items()),
]


def json_line(b: Any) -> str:
    """A line of JSON that is sound where `b` is a whole number."""
    return json.dumps({"a": 1.5, "b": b, "t": TIME, "c": "text"})


def source_of(made: type[Lines], path: Path, lines: list[bytes], **options: Any) -> Any:
    """A source of one file that holds these lines."""
    path /= "x"
    path.write_bytes(b"\n".join([b"", *lines, b""]))  # a mark is no file's
    columns = {"columns": ["a", "b", "t", "c"]} if made is Csv else {}
    return made(str(path), **{"features": FEATURES, **columns, **options})


def results(source: Any, path: Path, features: Any = None) -> list[tuple[str, Any]]:
    """What is wrong with each line, without its place, and the values of sound ones."""
    features = features or source.describe()
    found = []
    for block in source._blocks(Piece(str(path / "x"), "f"), features):
        for row, fault in enumerate(block.faults):
            values = {n: v[row] for n, v in block.values.items() if n != "row_id"}
            for name, lengths in block.lengths.items():
                values[name] = values[name][: lengths[row]]
            said = re.sub(r"^the line at byte \d+: ", "", fault)
            found.append((said, None if said else str(values)))
    return found


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Counts what Arrow is asked to parse."""
    calls: list[Any] = []

    def counted(parse: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: calls.append(given) or parse(*given)

    monkeypatch.setattr(pacsv, "read_csv", counted(pacsv.read_csv))
    monkeypatch.setattr(pajson, "read_json", counted(pajson.read_json))
    return calls


@pytest.mark.parametrize(("made", "kind", "bad"), KINDS)
def test_bad_lines_are_not_parsed_one_by_one(
    made: type[Lines], kind: str, bad: Any, tmp_path: Path, parses: list[Any]
) -> None:
    sound = json_line if made is Jsonl else lambda i: f"1,{i},{TIME},x"
    lines = [(sound if i % 3 else bad)(i).encode("latin-1") for i in range(ROWS)]
    found = results(source_of(made, tmp_path, lines), tmp_path)
    assert len(found) == ROWS
    assert all(bool(said) == (i % 3 == 0) for i, (said, _) in enumerate(found))
    assert len(parses) < 60
    for i in (0, 3, ROWS - 3):
        assert results(source_of(made, tmp_path, [lines[i]]), tmp_path) == [found[i]]


@pytest.mark.parametrize(("made", "kind", "bad"), KINDS)
def test_types_are_told_without_parsing_bad_lines_one_by_one(
    made: type[Lines], kind: str, bad: Any, tmp_path: Path, parses: list[Any]
) -> None:
    sound = json_line if made is Jsonl else lambda i: f"1,{i},{TIME},x"
    lines = [(sound if i % 3 else bad)(i).encode("latin-1") for i in range(ROWS)]
    source = source_of(made, tmp_path, lines, features=None)
    assert {*source.describe()} >= {"a", "c"}
    assert len(parses) < 60


CELLS = [
    *("1", "2.5", "", " ", "nan", "oops", "w1", "w2", " w3 ", "3,4", '"5"', '"6""'),
    *('"x', "7,8,9", "x y", "1e999", "0x1F", "+5", "007", "1.2.3", "\ufeff1", "a\0b"),
    *('x"y', "1\r2", "\r", "true", "9223372036854775808", "\u0663", "\udcff", "9" * 99),
    *(TIME, "5.1.2024", "2024-01-05 10:00:00.1234567Z", "2024-01-05T10:00:00+01:00"),
]


def alike_alone(
    made: type[Lines], path: Path, head: bytes, lines: list[bytes], **options: Any
) -> None:
    """See that lines say together what each of them says alone."""
    features = source_of(made, path, [head], **options).describe()
    together = results(source_of(made, path, lines, **options), path, features)
    alone = []
    for line in lines:
        alone += results(source_of(made, path, [line], **options), path, features)
    assert together == alone


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(CELLS), min_size=4, max_size=4),
        min_size=2,
        max_size=12,
    ),
    st.sampled_from(["float32", "int8", "bool", "string", "timestamp", "float16"]),
)
def test_lines_of_csv_say_together_what_they_say_alone(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], dtype: str
) -> None:
    path = tmp_path_factory.getbasetemp()
    lines = [",".join(row).encode(errors="surrogateescape") for row in rows]
    alike_alone(Csv, path, b"", lines, features={**FEATURES, "c": dtype})
    alike_alone(Csv, path, b"", lines, features={"a": dtype}, decimal="*")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(CELLS), min_size=2, max_size=12))
def test_what_the_head_did_not_let_expect_is_told_together(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp()
    lines = [f"{cell},1".encode(errors="surrogateescape") for cell in cells]
    for head in (b"1,1", b"1.5,1"):
        alike_alone(Csv, path, head, lines, features=None, columns=["a", "b"])


VALUES = [
    *("1", "-0", "1.0", "1e2", "1e39", "1e999", "300", "9" * 20, "NaN", "nan", "-"),
    *("01", "1.", "tru", "true", "null", '"x"', '""', '"w1"', '"w2"', "[1]", "[]"),
    *('[1, "x"]', "[1, 2.5]", "[[1]]", "{}", '{"x": [1}', f'"{TIME}"', '"5.1.2024"'),
    *('"\\q"', '"\\u00zz"', '"\\ud800"', '"\\ud83d\\ude00"', '"a\tb"', '"\udcff"'),
    *('"a\0b"', '"[0, 0"', "1, 1", "", "2\r", "[1, 2, 01]", '1, "b": 2', '"ü', "5 5"),
]
ODD_LINES = [
    "4}",
    "6",
    "[]",
    '{"a":1}{"a":2}',
    " ",
    "\r",
    "\ufeff{}",
    '{"\\u0062": ""}',
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(VALUES), min_size=3, max_size=3)
        | st.sampled_from(ODD_LINES),
        min_size=2,
        max_size=12,
    ),
    st.lists(st.integers(0, 60), min_size=12, max_size=12),
    st.sampled_from(["float32", "uint8", "bool", "string", "timestamp", "float16"]),
)
def test_lines_of_json_say_together_what_they_say_alone(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str] | str],
    ends: list[int],
    dtype: str,
) -> None:
    path = tmp_path_factory.getbasetemp()
    head = b'{"a": null, "b": null, "c": null}'
    lines = []
    for row, end in zip(rows, ends, strict=False):
        keyed = zip("abc", row, strict=True) if isinstance(row, list) else []
        made = "{" + ", ".join(f'"{key}": {value}' for key, value in keyed) + "}"
        made = made[: end if end > 20 else None] if keyed else str(row)
        lines.append(made.encode(errors="surrogateescape"))
    scalars = {"a": dtype, "b": "int64", "c": "string"}
    alike_alone(Jsonl, path, head, lines, features=scalars)
    listed = {"c": GivenFeature(dtype, (1,)), "a": GivenFeature(dtype, (-1,))}
    alike_alone(Jsonl, path, head, lines, features=listed)


def test_rows_one_at_a_time_fail_as_in_batches(tmp_path: Path) -> None:
    for made, kind, bad in KINDS:
        sound = json_line if made is Jsonl else lambda i: f"1,{i},{TIME},x"
        lines = [(sound if i % 3 else bad)(i).encode("latin-1") for i in range(9)]
        source = source_of(made, tmp_path, lines)
        features = dict(source.describe())
        preparation = Preparation(features, [], {}, {}, list(features))
        pipeline = InputPipeline(source, preparation, 4)
        pieces = [Piece(str(tmp_path / "x"), "f")]
        failures: list[Failure] = []
        batches = [*pipeline.batches(pieces, failures.append)]
        alone = [row for row in pipeline.rows(pieces, 0) if isinstance(row, Failure)]
        assert failures == alone, kind
        assert len(failures) + sum(map(len, batches)) == 9


def test_casts_refuse_what_the_parsers_of_text_refuse() -> None:
    texts = ["1", "-1", "-0", "1.5", "1e5", "nan", "inf", "300", "9" * 20, "1e39", "x"]
    texts += [TIME, "2024-01-05", "2024-01-05T10:00Z", "2024", "2024-02-30", "24:00"]
    for kind in (pa.int64(), pa.uint8(), pa.float32(), pa.float64()):
        for text in texts:
            table = pa.BufferReader(text.encode())
            options = pacsv.ConvertOptions(column_types={"a": kind}, null_values=[""])
            read = pacsv.ReadOptions(column_names=["a"])
            try:
                pacsv.read_csv(table, read, convert_options=options)
            except ValueError:
                assert is_refused(text, kind)
            else:
                assert not is_refused(text, kind)


def test_outlines_keep_what_a_parser_tells_apart() -> None:
    same = ['{"a": 1, "b": ["x", "y"]}', '{"a": -2.5e3, "b": ["\\n\\u00e9"]}']
    assert len({outline(line.encode()) for line in same}) == 1
    others = ['{"a": "1", "b": ["x"]}', '{"a": 1, "c": ["x"]}', '{"a": 01, "b": ["x"]}']
    assert len({outline(line.encode()) for line in same + others}) == 4
    assert outline(b'{"a": "bc\\q, "b": 5}') == b'{"a": "\\q, "b": 5}'
