"""What depends on random numbers or on changing state is found in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from transforms.taps.state import CHANGES, refusals_of

ONES = tf.TensorSpec([None, 2], name="x")


def refusals(function: Callable[[Any], Any]) -> list[str | None]:
    traced = tf.function(function, input_signature=[ONES]).get_concrete_function()
    return refusals_of(traced.graph, list(traced.structured_outputs))


def is_random(refusal: str | None) -> bool:
    return str(refusal).startswith("depends on random numbers (operation '")


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: tf.random.normal(tf.shape(x)),
        lambda x: tf.random.shuffle(x),
        lambda x: tf.random.categorical(x, 2),
        lambda x: tf.random.stateless_uniform(tf.shape(x), [1, 2]),
        lambda x: tf.random.truncated_normal([2]) + x,
        lambda x: tf.map_fn(lambda row: row + tf.random.uniform([]), x),
        lambda x: tf.cond(x[0, 0] > 0, lambda: tf.random.normal([2]), lambda: x[0]),
        lambda x: tf.nn.dropout(x, 0.5),
        lambda x: x + tf.function(lambda: tf.random.normal([]))(),
    ],
)
def test_random_numbers_are_found_at_any_depth(draw: Callable[[Any], Any]) -> None:
    drawn, beside = refusals(lambda x: (draw(x), x * 2))
    assert is_random(drawn)
    assert beside is None


def test_a_branch_that_is_never_taken_draws_nothing() -> None:
    def body(x: Any) -> list[Any]:
        draw, keep = (lambda: tf.random.normal([2])), (lambda: tf.ones([2]))
        return [
            x + tf.cond(tf.constant(False), draw, keep),
            x + tf.cond(tf.constant(True), draw, keep),
            x + tf.switch_case(tf.constant(1), [draw, keep]),
        ]

    never, always, other = refusals(body)
    assert never is None
    assert is_random(always)
    assert other is None


def test_of_a_function_each_result_has_its_own_origin() -> None:
    weight, count = tf.Variable([1.0, 2.0]), tf.Variable(0.0)

    @tf.function
    def three(x: Any) -> tuple[Any, Any, Any]:
        count.assign_add(1.0)
        return x * weight, x + count, x + tf.random.normal([])

    weighted, counted, drawn = refusals(lambda x: three(x))
    assert weighted is None
    assert counted == CHANGES
    assert is_random(drawn)


def test_a_variable_that_is_read_before_it_is_assigned_changes() -> None:
    mean, other = tf.Variable([0.0, 0.0]), tf.Variable([0.0, 0.0])

    def body(x: Any) -> list[Any]:
        before = x - mean
        mean.assign(0.9 * mean + 0.1 * tf.reduce_mean(x, 0))
        return [before, x - other]

    assert refusals(body) == [CHANGES, None]


def test_a_variable_that_only_a_loop_changes_changes() -> None:
    steps = tf.Variable(0.0)

    def body(x: Any) -> list[Any]:
        def count(i: Any) -> list[Any]:
            steps.assign_add(1.0)
            return [i + 1]

        tf.while_loop(lambda i: i < 3, count, [0])
        return [x + steps, x]

    assert refusals(body) == [CHANGES, None]


def test_a_table_that_the_model_fills_changes_and_a_full_one_does_not() -> None:
    def table() -> Any:
        return tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, 0.0)

    filled, full = table(), table()

    def body(x: Any) -> list[Any]:
        key = tf.constant(["a"])
        filled.insert(key, x[:1, 0])
        return [x + filled.lookup(key), x + full.lookup(key)]

    assert refusals(body) == [CHANGES, None]


def test_a_generator_of_random_numbers_is_random() -> None:
    generator = tf.random.Generator.from_seed(3)
    drawn, beside = refusals(lambda x: (x + generator.normal([2]), x))
    assert is_random(drawn)
    assert beside is None


def test_chance_comes_before_change_in_what_is_said() -> None:
    seed = tf.Variable([1, 2])

    def body(x: Any) -> list[Any]:
        seed.assign_add([1, 1])
        return [x + tf.random.stateless_normal([2], seed)]

    assert is_random(refusals(body)[0])


def test_the_arrays_of_a_loop_are_no_state() -> None:
    def body(x: Any) -> list[Any]:
        return [tf.map_fn(lambda row: row * 2, x), tf.scan(lambda a, b: a + b, x)]

    assert refusals(body) == [None, None]


def test_loops_of_tensorflow_1_are_searched() -> None:
    with tf.Graph().as_default() as graph:
        tf.compat.v1.disable_control_flow_v2()
        try:
            x = tf.compat.v1.placeholder(tf.float32, [None, 2])
            drawn = tf.while_loop(
                lambda i, s: i < 3,
                lambda i, s: (i + 1, s + tf.random.normal([])),
                [0, x[0, 0]],
            )[1]
        finally:
            tf.compat.v1.enable_control_flow_v2()
    graph.inputs, graph.outputs = [x], [drawn]
    assert is_random(refusals_of(graph, [drawn])[0])
