"""Are blocks read without tf.data, ahead of who takes them, as a dataset gives them?"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import Job

from pipeline import run_plan
from transforms import device
from transforms.dtypes import Feature
from transforms.preprocess.steps import Step
from transforms.shard import Piece
from transforms.sources import batches as batches_module
from transforms.sources.batches import InputPipeline
from transforms.sources.blocks import Batches, Block, dataset, leaving_out
from transforms.sources.prepared import Preparation
from transforms.sources.read_ahead import read_ahead

FEATURES = {"x": Feature("int64", (2,))}
PIECE = Piece("file", "file", 0, 10)


def block(first: int, rows: int, *bad: int) -> Block:
    at = np.arange(first, first + rows)
    faults = np.array(["bad" if i in bad else "" for i in at], object)
    return Block(at, {"x": np.stack([at, -at], 1)}, {}, faults)


def test_items_are_made_before_they_are_asked_for_and_no_more_than_so_many() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for i in range(1, 100):
            made.append(i)
            if i == 4:
                enough.set()
            yield i

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 1
    assert enough.wait(60)  # the three behind it
    assert len(made) == 4
    assert list(ahead) == list(range(2, 100))


def test_an_error_comes_where_its_item_would_come() -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("storage")

    ahead = read_ahead(items(), 5)
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(OSError, match="storage"):
        next(ahead)


def test_whoever_stops_asking_ends_the_thread() -> None:
    at_work: list[threading.Thread] = []

    def items() -> Iterator[int]:
        at_work.append(threading.current_thread())
        yield from range(1, 1000)

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 1
    assert at_work[0] is not threading.current_thread()
    assert at_work[0].is_alive()
    del ahead
    assert not at_work[0].is_alive()


def test_batches_are_blocks_and_a_dataset() -> None:
    def read(piece: Piece) -> Iterator[Block]:
        yield block(0, 5, 1)
        yield block(5, 5)

    with leaving_out(10) as faults:
        found = dataset([PIECE], FEATURES, 4, read)
    assert isinstance(found, Batches)
    rows = [one.rows.tolist() for one in found.blocks()]
    assert rows == [[0, 2, 3, 4], [5, 6, 7, 8], [9]]
    assert list(faults.before(99)) == [(1, "bad")]
    assert [at.numpy().tolist() for at, _ in found] == rows
    doubled = found.map(lambda at, example: (at, {"x": example["x"] * 2}))
    assert isinstance(doubled, tf.data.Dataset)
    assert [e["x"][0].numpy().tolist() for _, e in doubled] == [
        [0, 0],
        [10, -10],
        [18, -18],
    ]
    assert found.element_spec[1]["x"].shape.as_list() == [None, 2]


class Blocks:
    """A source of two blocks; fails behind the first, if it is to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.threads: set[str] = set()

    def read(self, pieces: list[Piece], features: object, rows: int | None) -> object:
        def blocks(piece: Piece) -> Iterator[Block]:
            self.threads.add(threading.current_thread().name)
            for first in range(piece.start, piece.start + (piece.rows or 0), 5):
                if first and self.error:
                    raise self.error
                yield Block(*_counted(piece, first))

        return dataset(pieces, FEATURES, rows, blocks)


def _counted(piece: Piece, first: int) -> tuple[np.ndarray, dict, dict, np.ndarray]:
    made = block(first, 5)
    return made.rows - piece.start, dict(made.values), {}, made.faults


def pipeline(source: Blocks) -> InputPipeline:
    inputs: dict[str, tuple[int | None, ...]] = {"x": (2,)}
    preparation = Preparation(FEATURES, [], inputs, {"x": ("int32",)}, ["x"])
    return InputPipeline(source, preparation, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2])
def test_both_ways_give_the_same_batches(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(device, "reader_threads", lambda: threads)
    made: list[int] = []
    ahead = batches_module.read_ahead
    monkeypatch.setattr(
        batches_module, "read_ahead", lambda *a: made.append(1) or ahead(*a)
    )
    found = list(pipeline(Blocks()).batches([PIECE], pytest.fail))
    assert bool(made) == (threads == 1)  # one thread a shard is what a CPU has
    assert [one.positions.tolist() for one in found] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]
    for one in found:
        rows = one.positions
        wanted = np.stack([rows, -rows], 1)
        np.testing.assert_array_equal(one.inputs["x"].numpy(), wanted)
        np.testing.assert_array_equal(one.passed["x"].numpy(), wanted)


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError("none left")])
def test_what_is_no_fault_of_a_row_is_raised(error: Exception) -> None:
    kinds = (tf.errors.OpError, MemoryError)
    with pytest.raises(kinds, match=str(error)):
        list(pipeline(Blocks(error)).batches([PIECE], pytest.fail))


def test_a_run_of_a_reader_of_blocks_traces_its_steps_once(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    np.save(tmp_path / "vec.npy", np.arange(120, dtype=np.float32).reshape(20, 6))
    traced: list[int] = []
    chosen = Preparation._chosen

    def counting(*args: object, **kwargs: object) -> object:
        traced.append(1)
        return chosen(*args, **kwargs)  # type: ignore[arg-type]

    source = {"reader": "numpy", "path": str(tmp_path / "vec.npy"), "feature": "vec"}
    few = {"model": {"batch_rows": 3}, "table": {"rows_per_part": 4}}
    plan = job.plan(source={**source, "key": None}, **few)
    monkeypatch.setattr(Preparation, "_chosen", counting)
    assert run_plan(plan)["rows"] == 20
    assert len(plan.shards) == 5
    assert len(traced) <= 2  # by two threads at the same time at most


def test_steps_that_draw_random_numbers_begin_each_shard_anew() -> None:
    def drawn(features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        found = features["x"]
        noise = tf.random.uniform([tf.shape(found)[0], 2], 0, 99, tf.int64, seed=3)
        return {"x": found * 0 + noise}

    inputs: dict[str, tuple[int | None, ...]] = {"x": (2,)}
    steps = [Step(drawn, batched=True, reads=frozenset({"x"}))]
    preparation = Preparation(FEATURES, steps, inputs, {}, [])
    assert preparation.keeps_state
    read = InputPipeline(Blocks(), preparation, 4)  # type: ignore[arg-type]
    once, again = (
        [one.inputs["x"].numpy().tolist() for one in read.batches([PIECE], pytest.fail)]
        for _ in range(2)
    )
    assert once == again
    assert not pipeline(Blocks()).preparation.keeps_state


def test_a_gpu_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "reader_threads", lambda: 1)
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(batches_module, "read_ahead", pytest.fail)
    assert len(list(pipeline(Blocks()).batches([PIECE], pytest.fail))) == 3


def test_batches_can_be_copied() -> None:
    with leaving_out(10):
        found = dataset([PIECE], FEATURES, 4, lambda piece: iter(()))
    assert isinstance(copy.copy(found), Batches)
