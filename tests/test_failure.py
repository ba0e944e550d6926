"""What is said of a row that failed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from transforms.errors import failure, stages
from transforms.errors.failure import REST_LOST, Failure, clean_message, loses_rest

REST = "the rest of the file cannot be read"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(7), "7"),
        (np.asarray("häß"), "häß"),
        (np.asarray(b"ab\x00c", object), "ab\x00c"),
        (np.bool_(True), "True"),
        (np.float64(0.5), "0.5"),
        (np.uint64(2**64 - 1), "18446744073709551615"),
        (tf.constant("häß"), "häß"),
        (tf.constant(b"\xff1"), "\ufffd1"),
        (tf.constant(-3, tf.int8), "-3"),
    ],
)
def test_scalars_of_the_row_are_passed_as_text(value: Any, text: str) -> None:
    assert Failure.of(3, "read", ValueError("x"), {"id": value}).passed == {"id": text}


def test_what_is_no_scalar_is_not_passed() -> None:
    passed = {"v": np.zeros(1), "m": tf.zeros([2, 2]), "plain": 3, "id": np.int8(1)}
    assert Failure.of(0, "infer", ValueError("x"), passed).passed == {"id": "1"}


def test_a_failure_tells_place_stage_type_and_message() -> None:
    found = Failure.of(2**40 + 5, "encode", KeyError("k"), rest_lost=True)
    assert asdict(found) == {
        "position": 2**40 + 5,
        "stage": "encode",
        "exception": "KeyError",
        "message": "'k'",
        "passed": {},
        "rest_lost": True,
    }
    with pytest.raises(FrozenInstanceError):
        found.position = 0  # type: ignore[misc]


def test_a_failure_crosses_processes_whatever_was_raised() -> None:
    class LocalError(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("cannot be pickled")

    found = Failure.of(1, "crash", LocalError("x"), {"id": tf.constant(1)})
    assert pickle.loads(pickle.dumps(found)) == found


def test_the_mark_of_a_lost_rest_is_hidden_from_messages() -> None:
    found = clean_message(ValueError(f"line 3: {REST_LOST}"))
    assert found == f"line 3: {REST}"
    assert REST_LOST.removeprefix(REST).strip() not in found


def test_the_mark_of_a_lost_rest_is_another_in_each_process() -> None:
    code = "from transforms.errors.failure import REST_LOST; print(REST_LOST)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    other = done.stdout.strip()
    assert other.startswith(REST)
    assert other != REST_LOST
    assert not loses_rest(ValueError(other))


def test_only_the_mark_or_data_loss_mean_that_the_rest_is_lost() -> None:
    assert loses_rest(ValueError(f"a quote is open; {REST_LOST}"))
    assert loses_rest(tf.errors.DataLossError(None, None, "truncated"))
    assert not loses_rest(tf.errors.InvalidArgumentError(None, None, "shape"))
    assert not loses_rest(ValueError("data"))


@pytest.mark.parametrize("value", [REST, f"{REST} <{'0' * 32}>"])
def test_data_that_says_the_words_loses_nothing(value: str) -> None:
    error = ValueError(f"cannot parse {value!r}")
    assert not loses_rest(error)
    assert value in clean_message(error)


def test_a_shown_message_does_not_mean_that_the_rest_is_lost() -> None:
    shown = Failure.of(0, "read", ValueError(REST_LOST)).message
    assert not loses_rest(ValueError(shown))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\n  b\tc", "a b c"),
        ("{{node cast}} bad value [[{{node x}}]] [Op:Cast] name: ", "bad value"),
        ("assertion failed: [must be \\'a\\'] [got] [3]", "must be 'a' got 3"),
        ("ValueError: x\nTraceback (most recent call last):\n File", "ValueError: x"),
        (
            "Error in user-defined function passed to ParallelMapDatasetV2:3"
            " iterator: Iterator::Root: wrong",
            "wrong",
        ),
        (
            'Graph execution error:\n\nDetected at\n  File "a.py", line 3, in f\n'
            '  File "b.py", line 9, in g\nno such row',
            "no such row",
        ),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("password=hunter2; s3://k:hunter2@b", "password=***; s3://***@b"),
        ("", ""),
    ],
)
def test_messages_are_what_went_wrong_and_nothing_else(text: str, message: str) -> None:
    assert clean_message(ValueError(text)) == message


def test_a_secret_at_the_end_of_a_message_is_masked_whole() -> None:
    for before in range(960, 1010):
        said = clean_message(ValueError("x" * before + " s3://me:ZQJXZQJX@b"))
        assert not set("ZQJX") & set(said)


def test_messages_are_bounded() -> None:
    assert len(clean_message(ValueError("x" * 10**6))) == failure._MESSAGE_LENGTH


def test_tensorflow_errors_are_cleaned_of_their_node() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        tf.strings.to_number(tf.constant("no number"))
    message = Failure.of(0, "preprocess", caught.value).message
    assert message == "StringToNumberOp could not correctly convert string: no number"


def test_users_python_may_raise_anything_readers_may_not() -> None:
    assert set(stages.read_errors()) < set(stages.preprocess_errors())
    for unlike in (
        OSError,
        RuntimeError,
        MemoryError,
        tf.errors.ResourceExhaustedError,
    ):
        assert not issubclass(unlike, stages.preprocess_errors())
