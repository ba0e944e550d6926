"""Rows of a finished table and their neighbours, from Python and on the terminal."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job
from test_cli import invoke

from pipeline import find_row, nearest_rows, read_features, run_plan, show_rows
from pipeline.neighbours import _cosines
from pipeline.versions import point_at
from transforms import storage
from transforms.lookup import ConfigError
from transforms.table import parquet_writer, read

ROWS = 40
BAD = 13
ZERO, NAN, LARGE = 5, 6, 7  # rows whose kept vectors are of all zeros, NaN, or large
ESCAPE = "\x1b[31mred\n\u202e"
SECRET = "s3://me:hunter2@bucket/a"


def _source(path: Path) -> None:
    """Write rows of all types; keys are made of file and row."""
    generator = np.random.default_rng(3)
    values = generator.random((ROWS, 6), np.float32) + 0.1
    values[BAD] *= -1  # which the model refuses
    kept = generator.standard_normal((ROWS, 3))
    kept[ZERO], kept[NAN, 1], kept[LARGE] = 0, np.nan, [1e300, -1e300, 1e300]
    noon = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
    columns = {
        "vec": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6),
        "kept": pa.FixedSizeListArray.from_arrays(pa.array(kept.reshape(-1)), 3),
        "word": [None if i % 4 == 1 else ESCAPE * (1 + i) for i in range(ROWS)],
        "blob": [bytes([i]) * i for i in range(ROWS)],
        "tenth": pa.array([0.1] * ROWS, pa.float32()),
        "flags": pa.FixedSizeListArray.from_arrays(pa.array([True, False] * ROWS), 2),
        "tags": [[SECRET] * (i % 5) for i in range(ROWS)],
        "when": pa.array([noon] * ROWS, pa.timestamp("us", tz="UTC")),
        "ragged": pa.array(
            [[*range(i % 5)] for i in range(ROWS)], pa.list_(pa.int64())
        ),
    }
    pq.write_table(pa.table(columns), path, row_group_size=8)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished table of several parts, of several row groups each."""
    root = tmp_path_factory.mktemp("rows")
    _source(root / "rows.parquet")
    job = Job(root, {"reader": "parquet", "path": str(root / "rows.parquet")})
    keep = ["kept", "word", "blob", "tenth", "flags", "tags", "ragged"]
    plan = job.plan(
        source={"key": None, "keep": keep},
        model={"build": "toolbox:picky_model", "batch_rows": 4},
        taps=[{"path": "head"}],
        table={"rows_per_part": 16, "event_timestamp": "when"},
        errors={"max_fraction": 0.1},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_writer, "ROW_GROUP_BYTES", 1)
        run_plan(plan)
    return str(job.table)


def stored(table: str) -> list[dict[str, Any]]:
    """All rows, part by part."""
    parts = sorted((Path(table) / "data").iterdir())
    return [row for part in parts for row in pq.ParquetFile(part).read().to_pylist()]


def key(row: int) -> str:
    return f"rows.parquet#{row}"


def test_a_row_is_found_by_its_key_wherever_it_lies(table: str) -> None:
    parts = sorted((Path(table) / "data").iterdir())
    assert len(parts) > 1
    assert pq.ParquetFile(parts[0]).num_row_groups > 1
    for one in stored(table):
        row = find_row(table, one["example_id"])
        assert row.rows == ROWS - 1
        assert (row.values["word"], row.values["blob"]) == (one["word"], one["blob"])
        np.testing.assert_array_equal(row.values["head"], np.float32(one["head"]))
        there = pq.ParquetFile(Path(table) / row.part).read()[row.at : row.at + 1]
        assert there["example_id"].to_pylist() == [one["example_id"]]
        assert key(row.source_row) == one["example_id"]
        assert row.piece.file.endswith("rows.parquet")


def test_values_have_the_types_and_shapes_of_their_columns(table: str) -> None:
    values = find_row(table, key(9)).values
    assert [*values] == [column.name for column in find_row(table).columns]
    assert values["event_timestamp"] == "2026-01-31T12:00:00.000000Z"
    assert values["word"] is None
    assert values["flags"].tolist() == [True, False]
    assert values["tags"] == [SECRET] * 4
    assert values["ragged"].tolist() == [0, 1, 2, 3]


def test_keys_are_read_only_where_they_may_be(
    table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    original = read._open
    monkeypatch.setattr(
        read, "_open", lambda uri, stack: Spy(original(uri, stack), opened)
    )
    find_row(table, key(30))
    # Statistics say of eight row groups that it is not there, of two that it may be.
    assert opened == [["example_id"], ["example_id"], None]


class Spy:
    """A Parquet file that notes which columns are read of a row group."""

    def __init__(self, file: Any, notes: list[Any]) -> None:
        self.metadata, self._file, self._notes = file.metadata, file, notes

    def read_row_group(self, group: int, columns: Any = None, **options: Any) -> Any:
        self._notes.append(columns)
        return self._file.read_row_group(group, columns, **options)


def test_without_a_key_the_first_row_is_shown_as_an_example(table: str) -> None:
    assert find_row(table).values["example_id"] == key(0)
    assert f"{table}: the first of {ROWS - 1} rows" in invoke("show", table)[0]


def test_of_a_directory_of_tables_the_current_one_is_shown(table: str) -> None:
    root, name = Path(table).parent, Path(table).name
    point_at(str(root), name)
    assert invoke("show", root) == invoke("show", table)


def test_a_row_is_a_line_for_each_column(table: str) -> None:
    stdout, _ = invoke("show", table, "--key", key(8))
    lines = stdout.splitlines()
    row = find_row(table, key(8))
    assert lines[:3] == [
        f"{table}: one of {ROWS - 1} rows",
        f"in {row.part}, row {row.at}",
        f"from {row.piece.file}, row 8",
    ]
    shown = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines[5:]}
    assert [*shown] == [column.name for column in row.columns]
    assert shown["event_timestamp"][3] == "2026-01-31T12:00:00.000000Z"
    assert shown["blob"] == ["keep", "bytes", "[]", repr(bytes([8]) * 8)]
    assert shown["tenth"] == ["keep", "float32", "[]", "0.1"]
    assert shown["ragged"][2:] == [
        "[3]",
        "0 1 2  (norm 2.236, min 0, max 2, mean 1, zeros 1)",
    ]
    assert shown["flags"][2:] == [
        "[2]",
        "True False  (norm 1, min 0, max 1, mean 0.5, zeros 1)",
    ]
    assert shown["word"][3].endswith(f"… ({9 * len(ESCAPE)} characters)")
    assert "null" in invoke("show", table, "--key", key(9))[0]


def test_nothing_of_the_data_reaches_the_terminal_raw(table: str) -> None:
    for arguments in (
        ["--key", key(8)],
        ["--key", key(8), "--json"],
        ["--near", key(8), "--column", "head"],
        ["--near", key(8), "--column", "head", "--json"],
    ):
        stdout, _ = invoke("show", table, *arguments)
        assert all(c.isprintable() or c == "\n" for c in stdout)
        assert "hunter2" not in stdout
    _, stderr = invoke("show", table, "--key", ESCAPE, code=2)
    assert all(c.isprintable() or c == "\n" for c in stderr)


def test_half_a_credential_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "abcdefghij")
    for text in ("x" * 55 + "abcdefghij", b"x" * 10 + b"abcdefghij"):
        shown = show_rows._quoted(text)
        assert "abc" not in shown
        assert "x***" in shown


def test_a_row_as_json_holds_its_whole_values(table: str) -> None:
    document = json.loads(invoke("show", table, "--key", key(NAN), "--json")[0])
    row = find_row(table, key(NAN))
    assert (document["part"], document["row"]) == (row.part, row.at)
    assert document["source"]["row"] == NAN
    columns = document["columns"]
    assert columns["blob"]["value"] == base64.b64encode(row.values["blob"]).decode()
    assert columns["head"]["value"] == row.values["head"].tolist()
    assert columns["head"]["shape"] == [2]
    assert columns["kept"]["value"][1] == "NaN"
    assert columns["kept"]["summary"]["nan"] == 1
    assert columns["tags"]["shape"] == [1]


def test_what_is_not_finite_is_counted_and_left_out_of_the_sums() -> None:
    found = show_rows.summary_of(np.array([0, 3, -4, np.nan, np.inf, -np.inf]))
    assert (found.norm, found.min, found.max) == (5, -4, 3)
    assert found.mean == pytest.approx(-1 / 3)
    assert (found.zeros, found.nan, found.infinite) == (1, 1, 2)
    nothing = show_rows.summary_of(np.array([np.nan]))
    assert (nothing.norm, nothing.min, nothing.mean) == (0, None, None)
    large = show_rows.summary_of(np.array([3e300, 4e300]))
    assert large.norm == pytest.approx(5e300)
    assert show_rows._array_text(np.array([np.nan])) == "nan  (norm 0, NaN 1)"
    assert show_rows._array_text(np.zeros((0, 3))) == ""
    assert show_rows._plain([np.inf, -np.inf]) == ["Infinity", "-Infinity"]


def test_a_bad_row_is_named_with_what_went_wrong(table: str) -> None:
    _, stderr = invoke("show", table, "--key", key(BAD), code=2)
    assert f"row '{key(BAD)}' is a bad row" in stderr
    assert "infer, InvalidArgumentError" in stderr
    assert f"(row {BAD} of " in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "rows.parket#3"], "; nearest is 'rows.parquet#3'"),
        (["--key", "?"], "no row of key '?'; its first key is 'rows.parquet#0'"),
        (["--key", "a", "--near", "b"], "either --key K for a row, or --near K"),
        (["--column", "head"], "--column and -n are for --near"),
        (["-n", "3"], "--column and -n are for --near"),
        (["--near", key(8)], "must say by which column rows are near (columns of"),
        (["--near", key(8), "--column", "hed"], "no column 'hed'; nearest is 'head'"),
        (["--near", key(8), "--column", "ragged"], "'ragged' has int64 [?]"),
        (["--near", key(8), "--column", "tenth"], "'tenth' has float32 []"),
        (["--near", key(8), "--column", "tags"], "'tags' has string [?]"),
        (["--near", key(ZERO), "--column", "kept"], "must have a vector with a"),
        (["--near", key(NAN), "--column", "kept"], f"{key(NAN)!r} has one of zeros"),
        (["--near", key(BAD), "--column", "kept"], "is a bad row"),
    ],
)
def test_misuse_is_told(table: str, arguments: list[str], message: str) -> None:
    assert message in invoke("show", table, *arguments, code=2)[1]


def test_at_least_one_neighbour_is_wanted(table: str) -> None:
    with pytest.raises(ConfigError, match="must be at least 1, got 0"):
        nearest_rows(table, key(8), "head", 0)


@pytest.mark.parametrize("block", [1, 6, 1 << 20])
@pytest.mark.parametrize("column", ["kept", "head", "flags"])
def test_the_nearest_rows_are_those_of_the_greatest_cosines(
    table: str, column: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.neighbours._VALUES_AT_A_TIME", block)
    rows = stored(table)
    keys = [row["example_id"] for row in rows]
    values = np.array([row[column] for row in rows], np.float64)
    values[keys.index(key(LARGE))] /= np.abs(values[keys.index(key(LARGE))]).max()
    with np.errstate(invalid="ignore"):
        units = values / np.linalg.norm(values, axis=1, keepdims=True)
    wanted = units @ units[keys.index(key(8))]
    wanted[keys.index(key(8))] = np.nan
    sound = np.flatnonzero(np.isfinite(wanted))
    order = sound[np.argsort(-wanted[sound], kind="stable")]
    found = nearest_rows(table, key(8), column, ROWS)
    assert [one.key for one in found.rows] == [keys[i] for i in order]
    np.testing.assert_allclose([one.similarity for one in found.rows], wanted[order])
    assert found.compared == len(order)
    assert found.passed_over == ROWS - 2 - len(order) == (2 if column == "kept" else 0)
    few = nearest_rows(table, key(8), column, 3)
    assert few.rows == found.rows[:3]
    assert few.compared == found.compared


def test_of_the_nearest_rows_kept_scalars_are_told(table: str) -> None:
    by_key = {row["example_id"]: row for row in stored(table)}
    found = nearest_rows(table, key(8), "head", 4)
    kept = ["event_timestamp", "word", "blob", "tenth"]
    for one in found.rows:
        assert [*one.kept] == kept
        assert one.kept["blob"] == by_key[str(one.key)]["blob"]
    stdout, _ = invoke("show", table, "--near", key(8), "--column", "head", "-n", 4)
    lines = stdout.splitlines()
    assert lines[0] == f"{table}: nearest to '{key(8)}' by head"
    assert lines[2].split() == ["cosine", "example_id", *kept]
    assert [line.split()[1] for line in lines[3:7]] == [
        f"'{one.key}'" for one in found.rows
    ]
    assert lines[-1] == f"compared with {ROWS - 2} rows"
    again = invoke("show", table, "--near", key(8), "--column", "kept")[0]
    assert f"compared with {ROWS - 4} rows; passed over 2, of which kept has" in again
    document = json.loads(
        invoke("show", table, "--near", key(8), "--column", "head", "--json")[0]
    )
    assert len(document["rows"]) == 10
    assert document["rows"][0]["key"] == found.rows[0].key
    assert document["rows"][0]["similarity"] == found.rows[0].similarity


def test_rows_without_a_value_have_no_direction() -> None:
    vectors = pa.array([None, [3, 4], None, [-4, 3], [0, 0]], pa.list_(pa.int64()))
    found = _cosines(vectors[1:], np.array([0.6, 0.8]))
    np.testing.assert_allclose(found, [1, np.nan, 0, np.nan], atol=1e-15)


def test_whole_keys_are_given_as_text_and_the_one_column_need_not_be_named(
    job: Job,
) -> None:
    uri = "memory://rows/t"
    run_plan(job.plan(table={"path": uri}, taps=[{"path": "head"}]))
    for given in (7, "7", "+7"):
        assert find_row(uri, given).values["example_id"] == 7
    assert find_row(uri, 7).values["head"].shape == (2,)
    found = nearest_rows(uri, "7")
    assert (found.key, found.column, found.compared) == (7, "head", 99)
    for wrong in ("seven", "7.0", "9" * 30, "9" * 5000):
        with pytest.raises(ConfigError, match=r"are whole numbers \(int64\), got"):
            find_row(uri, wrong)
    with pytest.raises(ConfigError, match="no row of key 700; its first key is 0"):
        find_row(uri, 700)
    storage.remove(f"{uri}/_SUCCESS")
    with pytest.raises(FileNotFoundError, match="must be finished to be read"):
        find_row(uri)


def test_only_parts_of_the_manifest_are_looked_at(job: Job) -> None:
    job.run()
    part = sorted((job.table / "data").iterdir())[0]
    (job.table / "data" / "part-99999-00000000.parquet").write_bytes(part.read_bytes())
    table = str(job.table)
    found = nearest_rows(table, 3, "hidden", 200)
    keys, matrix = read_features(table, "hidden")
    assert found.compared + found.passed_over == len(keys) - 1 == len(matrix) - 1
    part.unlink()
    with pytest.raises(FileNotFoundError, match="run again with --repair"):
        find_row(table)
