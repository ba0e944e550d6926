"""Walk the operations of a traced graph, and of the functions that they call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
CALLS = ("PartitionedCall", "StatefulPartitionedCall", *BRANCHES)
LOOPS = ("While", "StatelessWhile")


def is_tensor_of(graph: Any, value: Any) -> bool:
    """Whether a value is a tensor of a graph, and not one of several parts."""
    return hasattr(value, "value_index") and value.graph is graph


def operations_before(op: Any) -> list[Any]:
    """List the operations whose results an operation needs or that it waits for."""
    return [*(tensor.op for tensor in op.inputs), *op.control_inputs]


def sorted_operations(operations: Iterable[Any]) -> Iterator[Any]:
    """Sort operations so that each comes after all that it needs.

    The operations of imported graphs come in any order. Loops of TensorFlow 1 are
    circles in the graph: they and all that follows them come at the end, unsorted.
    """
    waiting = {op: len(set(operations_before(op))) for op in operations}
    users: dict[Any, list[Any]] = {}
    for op in waiting:
        for before in set(operations_before(op)):
            users.setdefault(before, []).append(op)
    ready = [op for op, count in waiting.items() if count == 0]
    while ready:
        op = ready.pop()
        yield op
        for user in users.get(op, ()):
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    yield from (op for op, count in waiting.items() if count > 0)


def functions_of(op: Any) -> list[str]:
    """Name the functions that an operation calls, branches and loop bodies included."""
    attributes = op.node_def.attr.values()
    names = [a.func.name for a in attributes if a.HasField("func")]
    return names + [f.name for a in attributes for f in a.list.func]


def graph_of(op: Any, name: str) -> Any:
    """Give the graph of a function that an operation calls, with inputs and outputs."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    function = op.graph._get_function(name)
    if (graph := getattr(function, "graph", None)) is None:  # of an imported graph
        shapes = [tensor.shape for tensor in op.inputs]
        shapes = shapes[-len(function.declared_input_types) :]  # a branch's come last
        graph = function_def_to_graph(function.definition, shapes)
    return graph


def body_of(op: Any, name: str) -> list[Any]:
    """List the operations of a function that an operation calls."""
    return list(graph_of(op, name).get_operations())
