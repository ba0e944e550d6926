"""Batches that are computed several at a time: same values, same order, bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import tensorflow as tf
from conftest import Job
from test_extract import contents

from pipeline import run_plan
from transforms import device
from transforms.batch import Batch
from transforms.errors.failure import Failure
from transforms.taps.ahead import OnFailure, infer_ahead
from transforms.taps.device_memory import FittingTaps

ROWS = 4


def at_once(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    monkeypatch.setattr(device, "batches_at_once", lambda: batches)


def batch(number: int) -> Batch:
    positions = np.arange(number * ROWS, (number + 1) * ROWS)
    return Batch(positions, {"x": tf.constant(positions)}, {})


def failed(position: int, stage: Any = "read") -> Failure:
    return Failure.of(position, stage, ValueError("bad"))


def events(
    read: Callable[[OnFailure], Iterator[Batch]], compiled: Callable[..., Any]
) -> list[tuple[str, list[int]]]:
    """What comes out, in order: rows that were computed, and rows that failed."""
    found: list[tuple[str, list[int]]] = []
    for rows, values in infer_ahead(
        cast(FittingTaps, compiled),
        read,
        lambda failure: found.append((failure.stage, [failure.position])),
        check_first=False,
    ):
        np.testing.assert_array_equal(values["y"], rows.positions * 2)
        found.append(("computed", rows.positions.tolist()))
    return found


def double(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"y": inputs["x"].numpy() * 2}


def refuse_five(inputs: dict[str, Any]) -> dict[str, Any]:
    if 5 in inputs["x"]:
        raise tf.errors.InvalidArgumentError(None, None, "five")
    return double(inputs)


def broken_reading(on_failure: OnFailure) -> Iterator[Batch]:
    """Batches 0 to 3; before, between and behind them rows that cannot be read."""
    for number in range(4):
        on_failure(failed(100 + number))
        yield batch(number)
    on_failure(failed(104))


@pytest.mark.parametrize("batches", [1, 2, 3, 9])
def test_values_and_failures_come_in_the_order_of_the_rows(
    monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    at_once(monkeypatch, batches)
    assert events(broken_reading, refuse_five) == [
        ("read", [100]),
        ("computed", [0, 1, 2, 3]),
        ("read", [101]),
        ("computed", [4]),
        ("infer", [5]),
        ("computed", [6, 7]),
        ("read", [102]),
        ("computed", [8, 9, 10, 11]),
        ("read", [103]),
        ("computed", [12, 13, 14, 15]),
        ("read", [104]),
    ]


def test_as_many_batches_as_asked_are_computed_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch, 3)
    together = threading.Barrier(3, timeout=60)

    def compiled(inputs: dict[str, Any]) -> dict[str, Any]:
        together.wait()  # fails unless three are at it
        return double(inputs)

    found = events(lambda _: map(batch, range(6)), compiled)
    assert [rows[0] for _, rows in found] == [n * ROWS for n in range(6)]


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_no_more_batches_are_in_memory_than_are_computed(
    monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    at_once(monkeypatch, batches)
    read: list[int] = []

    def reading(_: OnFailure) -> Iterator[Batch]:
        for number in range(12):
            read.append(number)
            yield batch(number)

    taken = 0
    for _ in infer_ahead(
        cast(FittingTaps, double), reading, lambda _: None, check_first=False
    ):
        taken += 1
        assert len(read) - taken < batches
    assert taken == 12


def test_what_the_device_raises_comes_out_and_ends_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_once(monkeypatch, 2)

    def compiled(inputs: dict[str, Any]) -> dict[str, Any]:
        if 9 in inputs["x"]:
            raise tf.errors.InternalError(None, None, "device lost")
        return double(inputs)

    numbers = iter(range(100))
    with pytest.raises(tf.errors.InternalError, match="device lost"):
        events(lambda _: map(batch, numbers), compiled)
    assert next(numbers) == 4  # 0 to 3 had been read


def test_a_table_is_the_same_however_many_batches_are_computed_at_once(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {
        "source": {"preprocess": ["toolbox:refuse_thirteen"]},
        "model": {"batch_rows": 4},
        "errors": {"max_fraction": 0.5},
    }
    tables = []
    for batches in (1, 4):
        at_once(monkeypatch, batches)
        run_plan(job.plan(**sections), overwrite=True)
        tables.append(contents(job.table))
    for table in tables:  # they hold a random id
        del table["_SUCCESS"], table["_featuretap/config.json"]
    assert tables[0] == tables[1]
    assert any("errors" in name for name in tables[0])
