"""How two tables differ, as people see it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_verdict import (
    COLUMN,
    DIFFERENT,
    EQUAL,
    NEAR,
    OF_OTHER_WIDTH,
    diff_of,
)

from pipeline.diff.columns import MovedRow, Pairs
from pipeline.diff.kept import KeptDiff
from pipeline.diff.rows import Rows
from pipeline.diff.schema import SchemaDifference
from pipeline.diff.tables import Diff
from pipeline.show_diff import print_diff


def shown(diff: Diff, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_diff(diff)
    return capsys.readouterr().out.splitlines()


def test_columns_are_a_table_with_the_answer_below(
    capsys: pytest.CaptureFixture[str],
) -> None:
    columns = (
        replace(COLUMN, pairs=NEAR),
        replace(COLUMN, name="x", widths=(64, 32), drift=None, auc=None),
        replace(COLUMN, name="far", widths=(None, 9000), norms=(None, 1.0)),
    )
    pairs = (NEAR, OF_OTHER_WIDTH, Pairs())
    columns = tuple(replace(c, pairs=p) for c, p in zip(columns, pairs, strict=True))
    diff = diff_of(columns=columns)
    head, *rows = [line.split() for line in shown(diff, capsys)[4:8]]
    assert head == [
        *("column", "width", "rows", "equal", "cosine", "lowest", "1", "%", "moved"),
        *("norm", "overlap", "CKA", "drift", "AUC", "verdict"),
    ]
    assert rows == [
        [
            *("hidden", "64", "100", "25", "%", "1.0000", "0.9999", "0.0054", "x"),
            *("2.5", "99", "%", "1.000", "0.1", "0.55", "interchangeable"),
        ],
        ["x", "64", "/", "32", "100", "x", "2.5", "62", "%", "0.957", "different"],
        ["far", "?", "/", "9000", "0.1", "0.55", "unknown"],
    ]
    assert shown(diff, capsys)[-1] == diff.sentence


def test_rows_of_one_table_are_counted_with_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = Rows(100, 98, 7, 5, ["a", "b\x1b[31m"], ["c"], 40)
    lines = shown(diff_of(EQUAL, rows=rows), capsys)
    assert lines[:5] == [
        "A is out/a: 100 rows",
        "B is out/b: 98 rows",
        "93 rows in both, 40 in parts that are equal",
        r"7 rows only in A: 'a', 'b\x1b[31m'",
        "5 rows only in B: 'c'",
    ]


def test_nothing_from_data_reaches_the_terminal_as_it_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    moved = (
        MovedRow("\x1b]0;k\x07", 0.5, 0.25, 0.0),
        MovedRow("\u202ek", None, None, 0.123),
        MovedRow("n", 3.0, None, None),
    )
    diff = diff_of(
        replace(DIFFERENT, moved=moved),
        a="gs://bucket/x?token=abc\x1b[2J",
        schema=(SchemaDifference("w\x1b", "source", "'f\x1b'", "'g'", False),),
        kept=(KeptDiff("label", 100, 2, ("p\x1b", "q")),),
        beyond=("cosine of column w\x1b must be",),
    )
    text = "\n".join(shown(diff, capsys))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert (
        r"moved most in hidden: '\x1b]0;k\x07' (moved 0.5, cosine 0.250, overlap 0 %),"
        r" '\u202ek' (overlap 12.3 %), 'n' (moved 3)" in text
    )
    assert r"label differs in 2 of 100 sampled rows: 'p\x1b', 'q'" in text
    assert r"column w\x1b has source 'f\x1b' in A, 'g' in B" in text
    assert r"BEYOND: cosine of column w\x1b must be" in text


def test_what_does_not_differ_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    kept = (KeptDiff("label", 100, 0, ()),)
    lines = shown(diff_of(EQUAL, kept=kept), capsys)
    assert len(lines) == 8
    assert not any("label" in line or "moved most" in line for line in lines)
    assert shown(diff_of(), capsys)[3:] == [diff_of().sentence]
