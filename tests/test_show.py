"""Plans, taps, progress and errors as people and programs see them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import commit, planned, table_plan

from pipeline import show, show_taps
from pipeline.busy import Busy
from pipeline.earlier import Outlook
from pipeline.list_taps import TapListing
from pipeline.show import last_words, size_text, table_lines
from pipeline.show_taps import tree_rows
from pipeline.status import Status, Watch
from transforms import storage
from transforms.credentials import mask
from transforms.table.commit_record import Made
from transforms.table.directory import Table
from transforms.table.plan_file import claim_table, read_claim, write_plan
from transforms.table.verdicts import Verdict
from transforms.taps.language import Activation


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "?"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 * 2**20, "5.0 MiB"),
        (3 * 2**30, "3.0 GiB"),
        (2**40, "1.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_sizes_are_said_in_units_of_1024(count: int | None, text: str) -> None:
    assert size_text(count) == text


@given(st.integers(0, 2**50))
def test_a_size_is_what_it_says_to_a_decimal(count: int) -> None:
    number, unit = size_text(count).split()
    scale = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB").index(unit)
    assert abs(float(number) * scale - count) <= 0.0501 * scale


cells = st.text("ab é日", max_size=5)


@given(st.lists(st.tuples(cells, cells, cells), max_size=4))
def test_columns_begin_at_one_place_and_hold_all_text(rows: Any) -> None:
    head = ("one", "second", "3")
    lines = list(table_lines(head, rows))
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    starts = [0, widths[0] + 2, widths[0] + widths[1] + 4]
    assert len(lines) == len(rows) + 1
    for line, row in zip(lines, [head, *rows], strict=True):
        assert line == line.rstrip()
        padded = line.ljust(starts[2] + widths[2])
        for start, width, cell in zip(starts, widths, row, strict=True):
            assert padded[start : start + width] == cell.ljust(width)


def test_a_table_without_rows_is_its_head() -> None:
    assert list(table_lines(("a", ""), [])) == ["a"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=json_values)
def test_printed_json_is_printable_and_says_the_same(
    document: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    show.print_json(document)
    text = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in text)
    assert json.loads(text) == show._masked(document)


def test_printed_json_holds_no_credentials(capsys: pytest.CaptureFixture[str]) -> None:
    uri = "s3://k:hunter2@b/x"
    show.print_json({uri: [uri, {"a": (uri, 3, None)}], "日": "\u202e\U000e0001"})
    text = capsys.readouterr().out
    assert "hunter2" not in text
    assert json.loads(text) == {
        mask(uri): [mask(uri), {"a": [mask(uri), 3, None]}],
        "日": "\u202e\U000e0001",
    }
    assert '"日": "\\u202e\\udb40\\udc01"' in text


def test_printed_tables_hold_no_credentials_nor_controls(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.print_table(("a", "b"), [("\x1b[2J", "s3://k:hunter2@b"), ("x\r", "")])
    assert capsys.readouterr().out == "a        b\n\\x1b[2J  s3://***@b\nx\\r\n"


def test_what_is_said_goes_where_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    show.say("\x07 password=hunter2", err=True)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "\\x07 password=***\n")


BEAM = """Error processing instruction 3. Original traceback is
Traceback (most recent call last):
  File "a.py", line 1, in f
    raise ValueError("inner")
ValueError: inner

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "b.py", line 2, in g
    raise RuntimeError("outer")
{last}
"""
HINT = "set FEATURETAP_DEBUG=1 to see where"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(BEAM.format(last="RuntimeError: a [while running 'A/B']")), "a"),
        (RuntimeError(BEAM.format(last="OSError: disk\n  planned: 1\n  now:     2")),
         "OSError: disk\n  planned: 1\n  now:     2"),
        (RuntimeError(BEAM.format(last="m.MyError: x")), "m.MyError: x"),
        (ValueError("wrong"), "ValueError: wrong"),
        (ValueError("one\ntwo"), "ValueError: one\ntwo"),
        (KeyError("k"), "KeyError: 'k'"),
        (OSError(), "OSError"),
        (RuntimeError("  \n "), "RuntimeError"),
        (RuntimeError("a\n\n   \nb  "), "a\nb"),
        (RuntimeError("RuntimeError: said twice"), "said twice"),
        (NotImplementedError("later"), "later"),
        (RuntimeError("bad [[{{node x}}]] [Op:Cast] name: "), "bad"),
        (RuntimeError("row [[1]] of 3"), "row [[1]] of 3"),
    ],
)  # fmt: skip
def test_last_words_are_what_was_raised_in_the_end(
    error: Exception, words: str
) -> None:
    assert last_words(error) == f"{words}\n{HINT}"


@given(st.text(max_size=200))
def test_any_error_has_last_words(text: str) -> None:
    for error in (RuntimeError(text), ValueError(text)):
        assert last_words(error).endswith(f"\n{HINT}")
        raised = BEAM.format(last=f"m.MyError: {text}")
        assert last_words(RuntimeError(raised)).startswith("m.MyError:")


def activation(address: str, **values: Any) -> Activation:
    return replace(Activation(address, (2, None), "float32", None), **values)


LISTING = TapListing(
    activations=(
        activation("stem"),
        activation("body/block/attn"),
        activation("body/block/attn:scores/0", flops=3, flops_share=0.254),
        activation("tail@1", refusal="a loop"),
        activation(""),
    ),
    columns={"stem": ["a", "b"]},
    rows=10,
    complaints=(),
)


def test_a_tree_has_a_branch_for_what_only_holds_others() -> None:
    assert [(row[0], row[1]) for row in tree_rows(LISTING)] == [
        ("*", "├─ stem"),
        ("", "├─ body"),
        ("", "│  └─ block"),
        ("", "│     └─ attn"),
        ("", "│        └─ :scores/0"),
        ("", "├─ tail@1"),
        ("", "└─ '' (the model's result)"),
    ]


def test_each_activation_has_a_row_with_all_that_is_known() -> None:
    rows = list(show_taps.table_rows(LISTING))
    assert all(len(row) == len(show_taps.HEAD) for row in [*rows, *tree_rows(LISTING)])
    each = LISTING.activations[0].bytes_per_row
    total = LISTING.bytes(LISTING.activations[0])
    assert rows[0] == (
        "*",
        "stem",
        "[2, ?]",
        "float32",
        size_text(each),
        size_text(total),
        "?",
        "a, b",
    )
    assert rows[2][6] == "25%"
    assert rows[3][7] == "a loop"
    assert rows[4][1] == "'' (the model's result)"


def test_documents_of_activations_are_json() -> None:
    found = json.loads(json.dumps(show_taps.documents(LISTING)))
    assert [one["address"] for one in found] == [a.address for a in LISTING.activations]
    assert found[0]["columns"] == ["a", "b"]
    assert found[0]["shape"] == [2, None]
    assert (found[2]["flops_per_row"], found[2]["rows"]) == (3, 10)
    unknown = show_taps.documents(replace(LISTING, rows=None))
    assert {one["bytes"] for one in unknown} == {None}


@pytest.mark.parametrize(
    ("rows", "said", "count"),
    [
        (12, "12 rows, 1088 bytes a row, 12.8 KiB before", 13056),
        (None, "unknown rows, 1088 bytes a row, unknown before", None),
    ],
)
def test_a_plan_is_shown_with_its_size_if_it_is_known(
    rows: int | None, said: str, count: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planned(rows=rows)
    ahead: dict[Made, Outlook] = {
        "carried": Outlook(2, rows, 4.5),
        "computed": Outlook(1, rows, 0),
    }
    show.print_plan(plan, ahead)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["column", "role", "type", "shape", "a", "row", "from"]
    assert lines[4].endswith("1.0 KiB  'head' | mean(axis=1) | n:f")
    assert f"3 shards, {said} compression" in "\n".join(lines)
    assert lines[-4:-2] == [f"fingerprint {'f' * 64}", "table out"]
    number = "unknown" if rows is None else rows
    assert lines[-2:] == [
        f"carried: 2 shards, {number} rows, saves 4.5 s of workers",
        f"computed: 1 shards, {number} rows",
    ]
    document = json.loads(json.dumps(show.plan_json(plan, ahead)))
    assert document["made"]["carried"] == {"shards": 2, "rows": rows, "seconds": 4.5}
    assert (document["rows"], document["bytes"], document["shards"]) == (rows, count, 3)
    assert [c["bytes_per_row"] for c in document["columns"]] == [8, 8, 32, 1024, 16]


SUMMARY: Any = {
    **{"rows": 7, "parts": 2, "bytes": 2048, "quarantined": 0},
    **{"made": {}, "saved_seconds": 0.0, "saved_bytes": 0},
    "phases": {"read": 9.0, "compute": 0.5, "cores": 5.0, "total": 10.0},
}


@pytest.mark.parametrize(
    ("summary", "finished", "text"),
    [
        (SUMMARY, False, "t: 7 rows in 2 parts, 2.0 KiB\nthe cores were busy 50% of"
         " the time; reading did not keep up: its storage may be slow, or a step"
         " (featuretap tune CONFIG tells which)"),
        ({**SUMMARY, "phases": {}}, False, "t: 7 rows in 2 parts, 2.0 KiB"),
        (SUMMARY, True, "t: was finished before: 7 rows in 2 parts, 2.0 KiB"),
        ({**SUMMARY, "phases": {}, "quarantined": 3}, False,
         "t: 7 rows in 2 parts, 2.0 KiB, 3 bad rows set apart"),
        ({}, False, "t: handed over; featuretap status follows it"),
    ],
)  # fmt: skip
def test_a_summary_says_what_was_made_and_how_busy_the_machine_was(
    summary: dict[str, Any],
    finished: bool,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.print_summary("t", summary, finished=finished)
    assert capsys.readouterr().out == f"{text}\n"


def test_columns_with_nan_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    show.warn_of_non_finite({})
    show.warn_of_non_finite({"non_finite": {"head": 3}})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("featuretap: 3 rows have NaN or infinite values in")
    assert captured.err.count("\n") == 1


def status(**changes: Any) -> Status:
    seconds = {"read": 1.0, "compute": 2.0, "describe": 0.2, "write": 0.5, "total": 4.0}
    made: Any = {"computed": {"shards": 1, "rows": 10}}
    found = Status("t", False, 3, 1, 10, 30, 2, 2048, seconds, made, 0.0, 0)
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (status(), [
            "t: not finished, 1 of 3 shards, 10 of 30 rows, 2 bad rows, 2.0 KiB",
            "workers spent 4.0 s: waiting for the reader 25%, computing 50%,"
            " statistics 5%, waiting for the writer 12%",
        ]),
        (status(finished=True, planned_rows=None, seconds=dict.fromkeys(
            ("read", "compute", "describe", "write", "total"), 0.0)), [
            "t: finished, 1 of 3 shards, 10 rows, 2 bad rows, 2.0 KiB",
            "workers spent 1.0 s: waiting for the reader 0%, computing 0%,"
            " statistics 0%, waiting for the writer 0%",
        ]),
        (status(made={"carried": {"shards": 2, "rows": 7}, "computed": {"shards": 1,
            "rows": 3}}, saved_seconds=2.0, saved_bytes=1024), [
            "t: not finished, 1 of 3 shards, 10 of 30 rows, 2 bad rows, 2.0 KiB",
            "carried 7 rows, computed 3 rows; saved 2.0 s of workers, 1.0 KiB",
            "workers spent 4.0 s: waiting for the reader 25%, computing 50%,"
            " statistics 5%, waiting for the writer 12%",
        ]),
        (status(busy=Busy("gpu", 0.251, "do this")), [
            "t: not finished, 1 of 3 shards, 10 of 30 rows, 2 bad rows, 2.0 KiB",
            "workers spent 4.0 s: waiting for the reader 25%, computing 50%,"
            " statistics 5%, waiting for the writer 12%",
            "the GPU was at work 25% of the time; do this",
        ]),
        (status(committed=0), [
            "t: not finished, 0 of 3 shards, 10 of 30 rows, 2 bad rows, 2.0 KiB",
        ]),
    ],
)  # fmt: skip
def test_a_status_tells_how_far_and_where_the_time_went(
    found: Status, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    show.print_status(found)
    assert capsys.readouterr().out.splitlines() == lines


def test_a_watch_reads_each_record_once(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("memory://direct/watched")
    storage.remove_tree(table.uri)
    claim_table(table, table_plan())
    write_plan(table, table_plan(), planned().shards, read_claim(table))
    read: list[str] = []
    look = storage.read
    monkeypatch.setattr(
        storage, "read", lambda uri, **kw: read.append(uri) or look(uri, **kw)
    )
    watch, seconds = (
        Watch(table),
        {"read": 1.0, "compute": 0.25, "describe": 0, "write": 0, "total": 2},
    )
    assert watch.status().committed == 0
    for shard, bad in ((2, 0), (0, 4)):
        table.create_commit(commit(shard, bad, seconds=seconds))
        found = watch.status()
    assert (found.committed, found.rows, found.quarantined, found.bytes) == (
        2,
        16,
        4,
        200,
    )
    phases = {"read": 2.0, "compute": 0.5, "describe": 0, "write": 0}
    assert found.seconds == {**phases, "total": 4}
    assert sum("/commits/" in uri for uri in read) == 2
    assert sum("schema.json" in uri for uri in read) == 1
    assert not found.finished


def test_gates_that_failed_are_told_from_those_that_warned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate = Verdict("zero_rows", "c", 0.5, 0.1, 0.4, "failed", "half are zero", ("k",))
    show.warn_of_gates(
        [gate, replace(gate, outcome="warned"), replace(gate, outcome="passed")]
    )
    assert capsys.readouterr().err.splitlines() == [
        "featuretap: FAILED: gate zero_rows of column 'c': half are zero (such as 'k');"
        " the limit is 0.4",
        "featuretap: gate zero_rows of column 'c': half are zero (such as 'k');"
        " the limit is 0.1",
    ]
