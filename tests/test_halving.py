"""Halves of what cannot be computed together, down to what is at fault."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors.halving import by_halves


class Computation:
    """Fails where a bad item is among those it is given."""

    def __init__(self, bad: set[int], error: Exception | None = None) -> None:
        self.bad = bad
        self.error = error or ValueError("bad")
        self.calls: list[list[int]] = []

    def __call__(self, items: np.ndarray) -> list[int]:
        self.calls.append(items.tolist())
        if self.bad & set(items.tolist()):
            raise self.error
        return items.tolist()


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_every_sound_item_is_computed_once_in_order(count: int, bad: set[int]) -> None:
    compute, blamed = Computation(bad), []
    found = list(
        by_halves(count, compute, (ValueError,), lambda i, _: blamed.append(i))
    )
    assert [i for one in found for i in one] == [
        i for i in range(count) if i not in bad
    ]
    assert blamed == [i for i in range(count) if i in bad]


@given(st.integers(1, 64), st.data())
def test_one_item_at_fault_costs_two_calls_a_halving(
    count: int, data: st.DataObject
) -> None:
    compute = Computation({data.draw(st.integers(0, count - 1))})
    list(by_halves(count, compute, (ValueError,), lambda *_: None))
    assert len(compute.calls) <= 1 + 2 * math.ceil(math.log2(count))
    assert all(call == list(range(call[0], call[-1] + 1)) for call in compute.calls)


def test_what_alone_returns_stands_in_the_items_place() -> None:
    compute = Computation({1, 4})
    found = by_halves(6, compute, (ValueError,), lambda item, _: [-item])
    assert [i for one in found for i in one] == [0, -1, 2, 3, -4, 5]


def test_a_false_result_is_still_a_result() -> None:
    assert list(by_halves(2, lambda items: [], (ValueError,), lambda *_: None)) == [[]]
    found = by_halves(1, Computation({0}), (ValueError,), lambda *_: [])
    assert list(found) == [[]]


def test_an_item_is_blamed_with_its_own_exception() -> None:
    def compute(items: np.ndarray) -> None:
        raise ValueError(f"{items.tolist()}")

    said: list[tuple[int, str]] = []
    list(by_halves(3, compute, (ValueError,), lambda i, e: said.append((i, str(e)))))
    assert said == [(0, "[0]"), (1, "[1]"), (2, "[2]")]
    assert all(type(item) is int for item, _ in said)


def test_of_nothing_nothing_is_computed() -> None:
    compute = Computation(set())
    assert list(by_halves(0, compute, (ValueError,), lambda *_: None)) == []
    assert compute.calls == []


def test_what_fits_is_computed_together_at_once() -> None:
    compute = Computation(set())
    assert list(by_halves(9, compute, (ValueError,), lambda *_: None)) == [[*range(9)]]
    assert compute.calls == [[*range(9)]]


def test_an_exception_that_blames_no_item_is_raised_at_once() -> None:
    compute = Computation({2}, KeyError("storage"))
    alone: list[int] = []
    with pytest.raises(KeyError, match="storage"):
        list(by_halves(4, compute, (ValueError,), lambda i, _: alone.append(i)))
    assert (compute.calls, alone) == ([[0, 1, 2, 3]], [])


def test_subclasses_of_what_blames_blame_too() -> None:
    compute = Computation({0}, UnicodeDecodeError("utf-8", b"", 0, 1, "bad"))
    assert list(by_halves(2, compute, (OSError, ValueError), lambda *_: None)) == [[1]]


def test_what_alone_raises_passes_through() -> None:
    def stop(item: int, error: Exception) -> None:
        raise RuntimeError(f"too many: {item}") from error

    with pytest.raises(RuntimeError, match="too many: 1"):
        list(by_halves(4, Computation({1, 2}), (ValueError,), stop))


def test_results_come_before_later_items_are_computed() -> None:
    compute = Computation({3})
    found = by_halves(4, compute, (ValueError,), lambda *_: None)
    assert next(found) == [0, 1]
    assert compute.calls == [[0, 1, 2, 3], [0, 1]]
