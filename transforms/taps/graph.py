"""Walk the operations of a traced graph; find what depends on changing variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

CALLS = ("PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf", "Case")
LOOPS = ("While", "StatelessWhile")


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


def depend_on_changes(graph: Any, tensors: Sequence[Any]) -> list[bool]:
    """Tell which tensors need a variable that running the graph changes.

    Args:
      graph: the graph in which the tensors were traced.
      tensors: tensors of the graph; anything else counts as needing no variable.
    """
    changing: dict[Any, bool] = {}
    for op in sorted_operations(graph.get_operations()):
        before = any(changing.get(one, False) for one in operations_before(op))
        changing[op] = before or _assigns(op)
    flat = [getattr(tensor, "flat_values", tensor) for tensor in tensors]
    return [changing.get(getattr(tensor, "op", None), False) for tensor in flat]


def _assigns(op: Any) -> bool:
    if op.type in (*CALLS, *LOOPS):
        bodies = [body_of(op, name) for name in functions_of(op)]
        return any(_assigns(inner) for body in bodies for inner in body)
    return str(op.type).startswith(("Assign", "ResourceScatter"))


def functions_of(op: Any) -> list[str]:
    """Name the functions that an operation calls, branches and loop bodies included."""
    attributes = op.node_def.attr.values()
    names = [a.func.name for a in attributes if a.HasField("func")]
    return names + [f.name for a in attributes for f in a.list.func]


def body_of(op: Any, name: str) -> list[Any]:
    """List the operations of a function that an operation calls."""
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    function = op.graph._get_function(name)
    if (graph := getattr(function, "graph", None)) is None:  # of an imported graph
        shapes = [tensor.shape for tensor in op.inputs]
        shapes = shapes[-len(function.declared_input_types) :]  # a branch's come last
        graph = function_def_to_graph(function.definition, shapes)
    return list(graph.get_operations())
