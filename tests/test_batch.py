"""Batches of rows whose shapes may differ, against lists of their rows."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.batch import Batch, Uneven

Rows: TypeAlias = list[np.ndarray]
few = settings(max_examples=40)
DTYPES = ["int64", "float32", "bool", "string"]


def row_of(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """Values that tell one row, and one place in it, from others."""
    numbers = np.arange(1, np.prod(shape, dtype=int) + 1) + 100 * seed
    if dtype == "string":
        numbers = np.array([b"%d" % n for n in numbers], object)
    return numbers.astype(object if dtype == "string" else dtype).reshape(shape)


def uneven(rows: Rows, margin: int = 0, fill: Any = 0) -> Uneven:
    """Rows filled up, with what means nothing, to more than the largest if need be."""
    shapes = np.array([row.shape for row in rows], np.int64).reshape(len(rows), -1)
    largest = shapes.max(0) + margin
    filler = b"-" if rows[0].dtype == object else fill
    filled = np.full((len(rows), *largest), filler, rows[0].dtype)
    for values, row in zip(filled, rows, strict=True):
        values[tuple(slice(n) for n in row.shape)] = row
    return Uneven(tf.constant(filled.tolist(), tf_type(rows[0]), filled.shape), shapes)


def tf_type(row: np.ndarray) -> tf.DType:
    return tf.string if row.dtype == object else tf.as_dtype(row.dtype)


def same(found: Any, expected: Rows) -> None:
    """Compare rows in values, shape and type."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        array = one.numpy()
        assert (array.shape, array.dtype) == (other.shape, other.dtype)
        np.testing.assert_array_equal(array, other)


def listed(values: Uneven) -> list[Any]:
    return [values[row] for row in range(len(values))]


@st.composite
def row_lists(draw: st.DrawFn, lists: int = 1) -> list[Rows]:
    """Some lists of rows of one type and rank."""
    dtype, rank = draw(st.sampled_from(DTYPES)), draw(st.integers(1, 2))
    shapes = st.tuples(*[st.integers(0, 3)] * rank)
    return [
        [row_of(s, dtype, 10 * part + i) for i, s in enumerate(some)]
        for part in range(lists)
        for some in [draw(st.lists(shapes, min_size=1, max_size=4))]
    ]


@few
@given(row_lists(), st.integers(0, 2), st.data())
def test_rows_of_different_shapes_come_out_as_they_were(
    lists: list[Rows], margin: int, data: st.DataObject
) -> None:
    (rows,) = lists
    values = uneven(rows, margin, fill=1)
    same(listed(values), rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    taken = values.take(np.array(chosen, np.int64))
    same(listed(taken), [rows[i] for i in chosen])


@few
@given(row_lists(lists=3), st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_uneven_rows_behind_each_other_are_the_rows_of_all(
    lists: list[Rows], margins: list[int]
) -> None:
    parts = [uneven(rows, n) for rows, n in zip(lists, margins, strict=True)]
    same(listed(Uneven.concatenate(parts)), [row for rows in lists for row in rows])
    same(listed(Uneven.concatenate(parts[:1])), lists[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2,), (0,), (2, 0), (1, 3)])
def test_rows_of_one_shape_are_cut_to_it(shape: tuple[int, ...], dtype: str) -> None:
    rows = [row_of(shape, dtype, i) for i in range(3)]
    found = uneven(rows, margin=2, fill=1).even()
    assert found.shape == (3, *shape)
    same(found, rows)


def batch_of(inputs: dict[str, Rows], passed: dict[str, Rows], first: int) -> Batch:
    """Rows in a batch: tensors of those called `even`, `Uneven` of the others."""

    def made(features: dict[str, Rows]) -> dict[str, Any]:
        return {
            name: tf.constant(np.stack(rows).tolist(), tf_type(rows[0]))
            if name.startswith("even")
            else uneven(rows, 1)
            for name, rows in features.items()
        }

    count = len(next(iter(inputs.values())))
    return Batch(np.arange(count) * 2 + first, made(inputs), made(passed))


sizes = st.tuples(st.integers(0, 2), st.integers(0, 2))
lengths = st.lists(sizes, min_size=1, max_size=6)


def features_of(sizes: list[tuple[int, int]], seed: int = 0) -> dict[str, Rows]:
    numbered = list(enumerate(sizes, seed))
    return {
        "words": [row_of((one,), "string", i) for i, (one, _) in numbered],
        "even": [row_of((2,), "float32", i) for i, _ in numbered],
        "image": [row_of((two, 2), "int64", i) for i, (_, two) in numbered],
    }


def check(batch: Batch, inputs: dict[str, Rows], passed: dict[str, Rows]) -> None:
    for found, expected in ((batch.inputs, inputs), (batch.passed, passed)):
        assert list(found) == list(expected)
        for name, values in found.items():
            assert isinstance(values, Uneven) == (not name.startswith("even"))
            rows = listed(values) if isinstance(values, Uneven) else list(values)
            same(rows, expected[name])


@few
@given(lengths)
def test_groups_of_one_shape_cover_a_batch_and_go_through_the_model(
    sizes: list[tuple[int, int]],
) -> None:
    inputs = features_of(sizes)
    passed = {"text": [row_of((i % 3,), "string", i) for i in range(len(sizes))]}
    batch = batch_of(inputs, passed, 5)
    groups = [group.tolist() for group in batch.by_shape()]
    assert sorted(row for group in groups for row in group) == list(range(len(sizes)))
    assert all(group == sorted(group) for group in groups)
    shapes = [{sizes[row] for row in group} for group in groups]
    assert [len(shape) for shape in shapes] == [1] * len(set(sizes))
    for group in groups:
        part = batch.take(np.array(group))
        assert part.positions.tolist() == [5 + 2 * row for row in group]
        for name, values in part.even_inputs().items():
            same(list(values), [inputs[name][row] for row in group])


def test_rows_of_one_shape_are_one_group_and_taken_as_they_are() -> None:
    rows = {"even": [row_of((2,), "float32", i) for i in range(4)]}
    differing = {"text": [row_of((i,), "string", i) for i in range(4)]}
    batch = batch_of(rows, differing, 0)
    (group,) = batch.by_shape()
    assert group.tolist() == [0, 1, 2, 3]
    assert batch.even_inputs()["even"] is batch.inputs["even"]


@few
@given(st.lists(lengths, min_size=1, max_size=3), st.data())
def test_rows_of_batches_behind_each_other_can_be_taken_apart(
    parts: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    made = [
        (features_of(s, 7 * i), features_of(s, 50 + i)) for i, s in enumerate(parts)
    ]
    batches = [batch_of(*features, 100 * i) for i, features in enumerate(made)]
    inputs, passed = (
        {name: [r for one in made for r in one[which][name]] for name in made[0][0]}
        for which in (0, 1)
    )
    whole = Batch.concatenate(batches)
    positions = [int(at) for batch in batches for at in batch.positions]
    assert whole.positions.tolist() == positions
    check(whole, inputs, passed)
    rows = st.integers(0, len(positions) - 1)
    chosen = data.draw(st.lists(rows, max_size=4, unique=True).map(sorted))
    part = whole.take(np.array(chosen, np.int64))
    assert part.positions.tolist() == [positions[i] for i in chosen]
    check(
        part,
        {name: [rows[i] for i in chosen] for name, rows in inputs.items()},
        {name: [rows[i] for i in chosen] for name, rows in passed.items()},
    )
