"""Values of columns, batches of one size, chains of reductions, and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.clock import Clock
from transforms.lookup import ConfigError
from transforms.taps.chains import parse_reduction, reduce_chain, split_reduction
from transforms.taps.padding import in_batches
from transforms.values import (
    Values,
    join_rows,
    list_array,
    offsets_of,
    take_rows,
    text_array,
)

few = settings(max_examples=40)
rows_of_lists = st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=8)


def lists(rows: list[list[int]]) -> pa.ListArray:
    flat = np.array([value for row in rows for value in row], np.int64)
    return list_array(flat, np.array([len(row) for row in rows], np.int64))


@few
@given(rows_of_lists)
def test_lists_are_cut_where_their_lengths_say(rows: list[list[int]]) -> None:
    made = lists(rows)
    assert made.to_pylist() == rows
    assert made.type == pa.list_(pa.int64())


@pytest.mark.parametrize("rows", [[[b"\xff\x00", b""], [], [b"x"]], [[], []], []])
def test_lists_of_text_are_binary(rows: list[list[bytes]]) -> None:
    flat = np.array([value for row in rows for value in row], object)
    made = list_array(flat, np.array([len(row) for row in rows]))
    assert made.type == pa.list_(pa.binary())
    assert made.to_pylist() == rows


@few
@given(rows_of_lists.filter(len), st.data())
def test_rows_are_taken_by_index_in_any_order(
    rows: list[list[int]], data: st.DataObject
) -> None:
    indexes = st.lists(st.integers(0, len(rows) - 1), max_size=6)
    chosen = np.array(data.draw(indexes), np.int64)
    assert take_rows(lists(rows), chosen).to_pylist() == [rows[i] for i in chosen]
    dense = np.arange(len(rows) * 6).reshape(len(rows), 2, 3)
    assert take_rows(dense, chosen).tolist() == [dense[i].tolist() for i in chosen]


def test_rows_that_are_taken_do_not_hold_the_batch_in_memory() -> None:
    dense = np.zeros((1000, 10))
    taken = take_rows(dense, np.arange(2))
    assert isinstance(taken, np.ndarray)
    assert not np.shares_memory(taken, dense)
    assert taken.base is None or taken.base.nbytes == taken.nbytes


@few
@given(st.lists(rows_of_lists, min_size=1, max_size=4))
def test_joined_rows_are_behind_each_other(parts: list[list[list[int]]]) -> None:
    whole = [row for part in parts for row in part]
    assert join_rows([lists(part) for part in parts]).to_pylist() == whole
    dense = [np.arange(len(part) * 2).reshape(-1, 2) for part in parts]
    assert join_rows(dense).tolist() == [row.tolist() for d in dense for row in d]


class Doubling:
    """A compiled function that takes batches of one size, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Values]:
        x = np.asarray(inputs["x"])
        self.batches.append(x)
        ragged = list_array(np.repeat(x, x % 3), x % 3)
        return {"twice": np.stack([2 * x, 2 * x + 1], 1), "ragged": ragged}


@few
@given(st.integers(1, 40), st.integers(1, 12))
def test_any_number_of_rows_is_computed_in_calls_of_one_shape(
    rows: int, batch_rows: int
) -> None:
    function, x = Doubling(), np.arange(rows)
    values = in_batches(function, batch_rows, {"x": x, "mask": tf.ones([rows, 2])})
    assert values["twice"].tolist() == [[2 * i, 2 * i + 1] for i in range(rows)]
    assert values["ragged"].to_pylist() == [[i] * (i % 3) for i in range(rows)]
    assert {len(batch) for batch in function.batches} == {batch_rows}
    assert len(function.batches) == -(-rows // batch_rows)


@few
@given(st.integers(1, 20), st.integers(1, 20))
def test_short_batches_are_filled_with_copies_of_their_own_rows(
    rows: int, batch_rows: int
) -> None:
    function = Doubling()
    in_batches(function, batch_rows, {"x": np.arange(100, 100 + rows)})
    last = function.batches[-1]
    own = rows % batch_rows or batch_rows
    assert last.tolist() == [100 + rows - own + i % own for i in range(batch_rows)]


def test_a_whole_batch_is_passed_on_as_it_is() -> None:
    given = {"x": np.arange(3)}
    assert in_batches(lambda inputs: {"same": inputs is given}, 3, given) == {  # type: ignore[dict-item]
        "same": True
    }


def test_all_inputs_are_filled_alike_text_too() -> None:
    given = {"w": tf.constant(["a", "b"]), "m": tf.eye(2), "n": np.array([3, 4])}
    values = in_batches(
        lambda inputs: {name: np.asarray(value) for name, value in inputs.items()},
        2,
        {name: tf.concat([value, value[:1]], 0) for name, value in given.items()},
    )
    assert values["w"].tolist() == [b"a", b"b", b"a"]
    assert values["m"].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert values["n"].tolist() == [3, 4, 3]


def test_what_is_left_of_a_filled_batch_is_a_copy() -> None:
    made = np.zeros((64, 8))
    values = in_batches(lambda _: {"a": made}, 64, {"x": np.zeros(1)})
    assert values["a"].shape == (1, 8)
    assert not np.shares_memory(values["a"], made)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("mean", "mean", {}),
        (" mean ", "mean", {}),
        ("mean()", "mean", {}),
        ("mean (axis = 1)", "mean", {"axis": 1}),
        ("m.n:f(a='x, (y)', b=[1, -2.5], c={'d': None})", "m.n:f",
         {"a": "x, (y)", "b": [1, -2.5], "c": {"d": None}}),
        ("f(\n a=1,\n)", "f", {"a": 1}),
    ],
)  # fmt: skip
def test_a_reduction_is_a_name_with_literals(
    text: str, name: str, options: dict[str, Any]
) -> None:
    assert split_reduction(text) == (name, options)


@pytest.mark.parametrize(
    "text", ["f(axis=1)(axis=2)", "f(axis=1).g(k=3)", "f(axis=1, axis=2)"]
)
def test_options_are_not_dropped(text: str) -> None:
    with pytest.raises(ConfigError, match="here must be a name with keyword arguments"):
        split_reduction(text, "here")


def test_an_empty_chain_leaves_values_alone() -> None:
    values = tf.ones([2, 3])
    assert reduce_chain(values, [], "r") is values


def test_a_chain_goes_from_left_to_right_and_names_the_place_of_a_fault() -> None:
    chain = [parse_reduction(text, "r") for text in ("mean(axis=1)", "max(axis=2)")]
    with pytest.raises(
        ConfigError, match=r"r\[1\] must fit an activation of shape \[batch, 4\]"
    ):
        reduce_chain(tf.ones([2, 3, 4]), chain, "r")
    found = reduce_chain(tf.ones([2, 3, 4, 5]), chain, "r")
    assert found.shape == [2, 4]


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows next, each time that it is looked at."""
    shown: list[float] = []
    monkeypatch.setattr(time, "perf_counter", lambda: shown.pop(0))
    return shown


def test_the_time_of_blocks_is_added_up_by_phase(ticks: list[float]) -> None:
    clock = Clock()
    ticks += [10, 12, 20, 20.5, 30, 31]
    for phase in ("compute", "write", "compute"):
        with clock.during(phase):
            pass
    assert clock.seconds(total=40) == {
        "read": 0.0,
        "compute": 3.0,
        "describe": 0.0,
        "write": 0.5,
        "total": 40,
    }


def test_a_block_that_fails_has_taken_time_too(ticks: list[float]) -> None:
    clock = Clock()
    ticks += [1, 4]
    with pytest.raises(ValueError, match="x"), clock.during("write"):
        raise ValueError("x")
    assert clock.seconds(5)["write"] == 3


def test_only_getting_items_counts_and_not_what_is_done_with_them(
    ticks: list[float],
) -> None:
    ticks += [0, 1, 100, 102, 200, 204]
    clock = Clock()
    got: list[str] = []
    for item in clock.timed("read", iter("ab")):
        got.append(item)
        assert clock.seconds(0)["read"] == len(got) * 2 - 1
    assert got == ["a", "b"]
    assert clock.seconds(0)["read"] == 1 + 2 + 4  # the look at the end counts


def test_what_a_reader_raises_passes_and_counts(ticks: list[float]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    ticks += [0, 1, 5, 7]
    clock = Clock()
    items = clock.timed("read", broken())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)
    assert clock.seconds(0)["read"] == 3


def test_a_block_inside_of_another_counts_for_its_own_phase(
    ticks: list[float],
) -> None:
    clock = Clock()
    ticks += [0, 1, 4, 10]
    with clock.during("compute"), clock.during("read"):
        pass
    found = clock.seconds(0)
    assert found == {"read": 3, "compute": 7, "describe": 0, "write": 0, "total": 0}


def test_clocks_do_not_share_their_seconds(ticks: list[float]) -> None:
    ticks += [0, 0.00049, 1, 1.0006]
    first, second = Clock(), Clock()
    for clock in (first, second):
        with clock.during("compute"):
            pass
    assert first.seconds(0.12345) == {
        "read": 0,
        "compute": 0,
        "describe": 0,
        "write": 0,
        "total": 0.123,
    }
    assert second.seconds(0)["compute"] == 0.001


def test_more_values_than_arrow_can_hold_are_refused_with_what_fits() -> None:
    with pytest.raises(
        RuntimeError, match=r"got 2147483648 in 4 rows; .* to 3 or less"
    ):
        offsets_of(np.full(4, 1 << 29))
    with pytest.raises(RuntimeError, match="to 1 or less, or reduce the column"):
        offsets_of(np.array([1 << 31]))
    assert offsets_of(np.array([2**31 - 1])).to_pylist() == [0, 2**31 - 1]
    assert offsets_of(np.array([], np.int64)).to_pylist() == [0]


@pytest.mark.heavy
def test_more_text_than_arrow_can_hold_is_refused() -> None:
    """Needs some 5 GB of memory."""
    texts = np.array([b"x" * (1 << 26)] * 33, object)
    with pytest.raises(RuntimeError, match=r"got 2214592512 in 33 texts; set model\."):
        text_array(texts)
    assert text_array(texts[:2]).to_pylist() == texts[:2].tolist()
