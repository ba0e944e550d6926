"""Bad rows of a shard: counted, told apart from a bad config, and put into words."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors.failure import Failure, clean_message
from transforms.errors.quarantine import ERROR_SCHEMA, BadRow, Quarantine, bad_row
from transforms.errors.stages import Stage
from transforms.shard import Piece, Shard, position

UNKNOWN = Shard(4, (Piece("/a", "a"), Piece("/b", "b", 0, 3), Piece("/c", "c")))
KNOWN = Shard(4, (Piece("/a", "a", 10, 3), Piece("/b", "b", 0, 2)))


def quarantine(
    shard: Shard = KNOWN, batch_rows: int = 100, *, judges: bool = False
) -> Quarantine:
    return Quarantine(shard, "", batch_rows, judges=judges)


def failure(
    at: int = 0, stage: Stage = "read", error: Exception | None = None, **others: Any
) -> Failure:
    return Failure.of(at, stage, error or ValueError("it is bad"), **others)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 9), st.booleans()), unique=True
    )
)
def test_rows_are_counted_by_piece_where_the_plan_does_not_know_them(
    places: list[tuple[int, int, bool]],
) -> None:
    kept = quarantine(UNKNOWN)
    for index, row, sound in places:
        if sound:
            kept.passed(1, np.array([position(index, row)]))
        else:
            kept.add(failure(position(index, row)))
    rows = [[row for index, row, _ in places if index == piece] for piece in range(3)]
    assert kept.piece_rows() == tuple(max(found, default=-1) + 1 for found in rows)
    assert kept.sound == sum(sound for *_, sound in places)
    assert len(kept.rows) == len(places) - kept.sound


def test_a_batch_counts_each_of_its_pieces_and_a_known_shard_none() -> None:
    positions = [position(*place) for place in itertools.product((0, 2), range(4))]
    for shard, expected in ((UNKNOWN, (4, 0, 4)), (KNOWN, None)):
        kept = quarantine(shard)
        kept.passed(8, np.array(positions if shard is UNKNOWN else positions[:3]))
        kept.passed(0, np.array([], np.int64))
        assert kept.piece_rows() == expected
        assert kept.sound == 8


def test_that_the_rest_of_a_file_is_lost_is_not_forgotten() -> None:
    kept = quarantine(UNKNOWN)
    found = []
    for at, lost in enumerate([False, True, False]):
        kept.add(failure(at, rest_lost=lost))
        found.append(kept.rest_lost)
    assert found == [False, True, True]


@pytest.mark.parametrize("bad", [0, 1, 4])
@pytest.mark.parametrize("total", [0, 4, 5, 6])
def test_a_shard_accounts_for_each_of_its_planned_rows(bad: int, total: int) -> None:
    sound = max(total - bad, 0)
    kept = quarantine()
    kept.passed(sound, np.arange(sound))
    for at in range(bad):
        kept.add(failure(at))
    if sound + bad == 5:
        kept.close()
        return
    expected = (
        f"shard 4 must account for 5 planned rows, got {sound} sound and {bad} bad ones"
    )
    with pytest.raises(RuntimeError, match=expected):
        kept.close()


def test_a_shard_of_unknown_rows_may_have_any_number() -> None:
    quarantine(UNKNOWN).close()
    kept = quarantine(UNKNOWN)
    kept.passed(1000, np.arange(1000))
    kept.close()


ALIKE = [failure(at, "infer") for at in range(4)]
VERDICTS: dict[str, tuple[list[Failure], int, bool]] = {
    "alike": (ALIKE, 0, True),
    "two alike": (ALIKE[:2], 0, True),
    "alike in kind, not in words": (
        [failure(at, error=ValueError(f"row {at}")) for at in range(4)],
        0,
        True,
    ),
    "one row": (ALIKE[:1], 0, False),
    "none": ([], 0, False),
    "a sound row": (ALIKE, 1, False),
    "two stages": ([*ALIKE, failure(4, "read")], 0, False),
    "two exceptions": ([*ALIKE, failure(4, "infer", KeyError())], 0, False),
    "crash": ([failure(at, "crash") for at in range(4)], 0, False),
    "damage": (
        [failure(at, error=tf.errors.DataLossError(None, None, "")) for at in range(4)],
        0,
        False,
    ),
    "ends early": ([failure(at, error=EOFError()) for at in range(4)], 0, False),
    "crashes and others": ([failure(0, "crash"), *ALIKE], 0, False),
}


@pytest.mark.parametrize("judges", [True, False])
@pytest.mark.parametrize("case", VERDICTS)
def test_rows_that_fail_alike_from_the_first_on_are_no_bad_rows(
    case: str, judges: bool
) -> None:
    failures, sound, alike = VERDICTS[case]
    kept = quarantine(UNKNOWN, judges=judges)
    kept.passed(sound, np.arange(sound))
    for one in failures:
        kept.add(one)
    if alike and judges:
        with pytest.raises(RuntimeError, match="failed alike in"):
            kept.close()
    else:
        kept.close()


def test_the_verdict_names_the_first_row_and_what_it_said() -> None:
    kept = quarantine(batch_rows=2, judges=True)
    kept.add(failure(1, "preprocess", ValueError("no size")))
    with pytest.raises(
        RuntimeError,
        match=r"^all 2 rows of the first batch failed alike in preprocess, which means"
        r" a wrong config or model rather than bad rows: ValueError: no size \(first:"
        r" row 11 of /a\)\. Correct the config; or",
    ):
        kept.add(failure(2, "preprocess", ValueError("none either")))


def test_the_verdict_comes_with_a_full_batch() -> None:
    kept = quarantine(UNKNOWN, 3, judges=True)
    for at in range(2):
        kept.add(failure(at))
    with pytest.raises(RuntimeError, match="all 3 rows of the first batch"):
        kept.add(failure(2))


def test_a_batch_that_began_with_a_sound_row_is_not_judged() -> None:
    kept = quarantine(UNKNOWN, 3, judges=True)
    kept.passed(1, np.array([0]))
    for at in range(1, 9):
        kept.add(failure(at))
    kept.close()
    assert (kept.sound, len(kept.rows)) == (1, 8)


def test_rows_known_from_another_process_count_alike() -> None:
    kept = quarantine(UNKNOWN, 2, judges=True)
    sent = failure(position(2, 6), "infer", rest_lost=True)
    kept.add(pickle.loads(pickle.dumps(sent)))
    (row,) = kept.rows
    assert row == BadRow("c#6", 4, "/c", 6, "infer", "ValueError", "it is bad")
    assert (kept.rest_lost, kept.piece_rows()) == (True, (0, 0, 7))
    with pytest.raises(RuntimeError, match=r"failed alike .* \(first: row 6 of /c\)"):
        kept.add(failure(position(2, 7), "infer"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (tf.constant("ü"), "ü"),
        (tf.constant(b"a\xffb"), "a\ufffdb"),
        (tf.constant(7, tf.int64), "7"),
        (np.uint8(7), "7"),
        (b"", ""),
        (None, None),
    ],
)
def test_a_bad_row_has_its_key_as_text(value: Any, expected: str | None) -> None:
    other = tf.constant([1.0, 2.0])
    known = {} if value is None else {"id": tf.constant(value)}
    passed = {**known, "other": other}
    found = bad_row(KNOWN, "id", failure(position(1, 1), passed=passed))
    assert found.example_id == expected


def test_a_bad_row_without_a_key_is_a_row_of_a_file() -> None:
    lost = failure(position(0, 2), "encode", tf.errors.DataLossError(None, None, "x"))
    assert bad_row(KNOWN, "", lost) == BadRow(
        "a#12", 4, "/a", 12, "encode", "DataLossError", "x"
    )


def test_the_table_of_errors_is_ordered_by_file_and_row() -> None:
    kept = quarantine(
        Shard(1, (Piece("/b", "b"), Piece("/a", "a", 5), Piece("/b", "")))
    )
    places = [(0, 10), (1, 3), (2, 9), (0, 2), (1, 0)]
    for place in places:
        kept.add(failure(position(*place)))
    table = kept.table()
    assert table.schema.equals(ERROR_SCHEMA)
    found = list(zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert found == [("/a", 5), ("/a", 8), ("/b", 2), ("/b", 9), ("/b", 10)]
    assert table["example_id"].to_pylist() == ["a#5", "a#8", "b#2", "#9", "b#10"]
    assert quarantine().table().schema.equals(ERROR_SCHEMA)


RAW = "{{function_node __wrapped__IteratorGetNext_device_/job:localhost/task:0/CPU:0}} "
STAGE = (
    "Error in user-defined function passed to MapDataset:3 transformation with"
    " iterator: Iterator::Root::Prefetch::Map: "
)
GRAPH = (
    "Graph execution error:\n\nDetected at node a/Assert defined at (most recent call"
    ' last):\n  File "/home/me/run.py", line 10, in <module>\n\n  File "/lib/layer.py",'
    " line 1002, in __call__\n\n"
)
WORDS: dict[str, tuple[str, str]] = {
    "plain": ("no such label", "no such label"),
    "place of an operation": (RAW + "why [Op:CheckNumerics] name: ", "why"),
    "operation without a name": ("why [Op:__inference_g_27]", "why"),
    "iterator": (RAW + STAGE + "bad\n\t [[{{node Raw}}]] [Op:Next] name: ", "bad"),
    "two nodes": ("bad\n\t [[{{function_node a_1}}{{node b/c}}]]", "bad"),
    "graph": (GRAPH + "bad value\n\t [[{{node a}}]] [Op:g_2]", "bad value"),
    "assertion": (r"assertion failed: [not so:] [-1 2] [it\'s]", "not so: -1 2 it's"),
    "assertion in a graph": (
        GRAPH + "assertion failed: [a] [1]\n\t [[{{node b/Assert}}]] [Op:g_2]",
        "a 1",
    ),
    "traceback": (
        STAGE + 'ValueError: 7\nTraceback (most recent call last):\n\n  File "/x.py"'
        ", line 1, in f\n\nValueError: 7\n\n\n\t [[{{node P}}]]",
        "ValueError: 7",
    ),
    "lines": ("  one\n\ttwo   three\r\n", "one two three"),
    "control characters": ("a\x1b[31mb\u202ec", "a\\x1b[31mb\\u202ec"),
    "credentials": ("cannot open https://me:hunter2@host/a", "https://***@host/a"),
    "brackets of the message": ("In[0]: [2,3], In[1]: [2,3]", "In[0]: [2,3], In[1]"),
    "length": ("x" * 2000, "x" * 1000),
}


@pytest.mark.parametrize("form", WORDS)
@pytest.mark.parametrize("kind", [ValueError, tf.errors.InvalidArgumentError])
def test_what_an_exception_says_is_left_and_where_is_not(
    kind: type[Exception], form: str
) -> None:
    said, expected = WORDS[form]
    is_graph = kind is not ValueError
    error = kind(None, None, said) if is_graph else kind(said)
    found = clean_message(error)
    if form in ("credentials", "brackets of the message"):
        assert expected in found
    else:
        assert found == expected


def positive(values: tf.Tensor) -> tf.Tensor:
    tf.debugging.Assert(tf.reduce_all(values > 0), ["not positive:", values])
    return values


def test_what_tensorflow_says_of_a_row_is_the_same_wherever_it_fails() -> None:
    data = tf.data.Dataset.from_tensors([2.0, -1.0])
    graph = tf.function(positive)
    runs: list[Callable[[], Any]] = [
        lambda: graph(tf.constant([2.0, -1.0])),
        lambda: list(data.map(graph)),
        lambda: list(data.map(graph).batch(2).prefetch(1)),
    ]
    said = []
    for run in runs:
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            run()
        said.append(clean_message(raised.value))
    assert said == ["not positive: 2 -1"] * 3


def test_nested_values_in_a_message_are_not_taken_for_noise() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[\[-1\]\]") as raised:
        tf.function(positive)(tf.constant([[-1]]))
    assert "-1" in clean_message(raised.value)
    assert clean_message(ValueError("got [[1, 2]]")) == "got [[1, 2]]"
