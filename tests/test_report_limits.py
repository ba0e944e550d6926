"""What a report is made of at its limits: labels, drift, and a page of the largest."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job
from PIL import Image

from pipeline.report.details import MOST
from pipeline.report.drift import compare
from pipeline.report.page import LARGEST
from pipeline.report.report import _ends, make_report
from pipeline.report.sample import CLASSES, Label, read_rows, text_of
from pipeline.report.subject import open_subject
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.drift import drift
from transforms.table.columns import Column
from transforms.table.directory import Table

ROWS = 300
WORST = "<\"'\\&\u2028鍵"  # what takes most bytes once it is escaped


def photo(row: int) -> bytes:
    """An image that is as hard to compress as any."""
    pixels = np.random.default_rng(row).integers(0, 256, (64, 64, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def make(root: Path, rows: int, taps: int) -> Job:
    """Make a table of wide vectors, with kept columns of all kinds."""
    numbers = np.arange(rows)
    values = np.random.default_rng(0).normal(size=(rows, 1024))
    columns: dict[str, Any] = {
        "id": [f"{i}{WORST * 40}" for i in numbers],
        "vec": values.astype(np.float32).tolist(),
        "name": [f"{i}{WORST * 40}" for i in numbers],
        "size": (numbers / 2).tolist(),
        "gap": [None if i % 3 else int(i) for i in numbers],
        "few": [f"{i % CLASSES}" for i in numbers],
        "flag": [i % 2 == 0 for i in numbers],
        "shot": [photo(i) for i in numbers],
    }
    pq.write_table(pa.table(columns), root / "rows.parquet", row_group_size=500)
    job = Job(root, {"reader": "parquet", "path": str(root / "rows.parquet")})
    job.run(
        source={"keep": [*columns][2:]},
        model={"build": "toolbox:wide_model", "batch_rows": 256},
        taps=[{"path": "head", "column": f"v{i}"} for i in range(taps)],
        table={"rows_per_part": 4000},
    )
    return job


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make(tmp_path_factory.mktemp("small"), ROWS, 4)


@pytest.mark.heavy
def test_the_largest_page_is_small_enough(tmp_path: Path) -> None:
    largest = make(tmp_path, 3600, MOST + 1)
    for label in ("name", "few"):
        made = make_report(str(largest.table), label=label, against=str(largest.table))
        assert len(made.columns) == MOST
        assert LARGEST * 0.8 < made.bytes < LARGEST
    text = Path(made.report).read_text()
    assert text.count("--picture") > 150
    assert "more columns are not shown in detail" in text


@pytest.mark.parametrize("name", ["name", "size", "gap", "few", "flag"])
def test_any_kept_column_of_single_values_is_a_label(small: Job, name: str) -> None:
    rows = read_rows(open_subject(str(small.table)), name)
    label = rows.label
    assert label is not None
    assert label.name == name
    assert len(label.values) == len(rows.keys) == len(rows.hashes) == ROWS
    assert (label.numbers is not None) == (name in ("size", "gap"))
    of_key = {"few": lambda i: str(i % CLASSES), "size": lambda i: str(i / 2)}
    for key, value in zip(rows.keys[:20], label.values, strict=False):
        number = int("".join(c for c in key[:4] if c.isdigit()))
        if name in of_key:
            assert value == of_key[name](number)


def test_the_first_label_of_few_values_is_taken(small: Job) -> None:
    rows = read_rows(open_subject(str(small.table)), None)
    assert rows.label
    assert rows.label.name == "few"
    assert (np.diff(rows.hashes.astype(np.float64)) >= 0).all()


def test_a_number_that_is_missing_has_no_value(small: Job) -> None:
    label = read_rows(open_subject(str(small.table)), "gap").label
    assert label is not None
    assert label.numbers is not None
    missing = np.isnan(label.numbers)
    assert 0.6 < missing.mean() < 0.7
    assert {label.values[i] for i in np.flatnonzero(missing)} == {""}
    assert _ends(label) == ("0", "297")


def test_numbers_without_a_finite_one_have_no_ends() -> None:
    assert _ends(None) is None
    assert _ends(Label("l", ["a"])) is None
    assert _ends(Label("l", ["nan"], np.array([math.nan]))) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (7, "7"),
        ("a" * 99, "a" * 80),
        ("a\x1b[31mb\u202e", "a\\x1b[31mb\\u202e"),
        ("https://host/x?sig=abcdef0123", "https://host/x?sig=***"),
    ],
)
def test_keys_and_labels_are_fit_to_be_shown(value: object, text: str) -> None:
    assert text_of(value) == text


def statistics(values: np.ndarray, width: int | None = None) -> ColumnStatistics:
    """Statistics of rows of numbers; without dimensions if `width` is 0."""
    found = ColumnStatistics("c", None if width == 0 else values.shape[1])
    keys = pa.array([str(i) for i in range(len(values))])
    lists = pa.array(values.tolist(), pa.list_(pa.float64()))
    found.add(lists, keys, np.arange(len(values), dtype=np.uint64))
    return found


def moved(now: ColumnStatistics, before: ColumnStatistics | None) -> Any:
    """Compare one column with one of another table."""
    from pipeline.report import drift as panel

    return panel._moved("c", now, before)


def normal(rows: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 3))


def test_the_distance_is_that_of_the_gate() -> None:
    now = statistics(normal(seed=1) + np.array([0, 2, -4]))
    before = statistics(normal())
    found = moved(now, before)
    assert now.moments
    assert before.moments
    assert found.distance == drift(now.moments, before.moments)
    assert [dimension for dimension, _ in found.farthest][:2] == [2, 1]
    steps = dict(found.farthest)
    assert steps[2] == pytest.approx(-4, abs=0.6)
    assert steps[1] == pytest.approx(2, abs=0.6)


def test_dimensions_that_had_one_value_move_by_one() -> None:
    before = normal()
    before[:, 0] = 5
    now = before.copy()
    now[:, 0] = 4
    found = moved(statistics(now), statistics(before))
    assert found.farthest == [(0, -1.0)]
    same = moved(statistics(before), statistics(before))
    assert (same.distance, same.farthest) == (0, [])


@pytest.mark.parametrize(
    ("before", "why_not"),
    [
        (None, "the other table has no such column"),
        (statistics(normal(), 0), "rows differ in length, or are too wide"),
        (statistics(normal()[:, :2]), "the other one has 2 dimensions"),
        (statistics(normal() * np.nan), "one of them has no finite rows"),
    ],
)
def test_columns_that_cannot_be_compared_say_why(
    before: ColumnStatistics | None, why_not: str
) -> None:
    found = moved(statistics(normal()), before)
    assert (found.distance, found.farthest, found.why_not) == (None, (), why_not)


def test_only_columns_that_were_asked_for_are_compared(small: Job) -> None:
    subject = open_subject(str(small.table))
    columns = subject.described(["v3", "v1"])
    found = compare(columns, subject.statistics, str(small.table))
    assert [(one.name, one.distance) for one in found] == [("v3", 0), ("v1", 0)]


def test_a_subject_knows_its_columns_and_records(small: Job) -> None:
    subject = open_subject(str(small.table))
    assert subject.is_finished
    names = [column.name for column in subject.described()]
    assert names == [f"v{i}" for i in range(4)]
    assert all(isinstance(column, Column) for column in subject.described())
    assert sum(commit.part.rows for commit in subject.commits()) == ROWS
    assert subject.table == Table(str(small.table))
