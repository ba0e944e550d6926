"""Find what depends on random numbers, or on state that changes from batch to batch.

Both are read off the graph, through all functions, branches and loops that it runs:
made-up rows need not show them.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transforms.taps.graph import (
    BRANCHES,
    CALLS,
    functions_of,
    graph_of,
    is_tensor_of,
    sorted_operations,
)

CHANGES = "depends on a variable or table that the model changes from batch to batch"
_RANDOM = re.compile(
    "Random|Multinomial|TruncatedNormal|DistortedBoundingBox|CandidateSampler"
    "|^Rng|^Stateful(Standard|Uniform)|^StatelessShuffle"
)
_CHANGE = re.compile("Assign|Scatter|Apply|^LookupTable(Insert|Remove|Import)|^Rng")


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a tensor depends on.

    Attributes:
      sources: a bit for each input of the graph and each handle made in it.
      refusal: why it depends on more than these; None if it does not.
    """

    sources: int = 0
    refusal: str | None = None

    def __or__(self, other: _Origin) -> _Origin:
        both = self.refusal, other.refusal
        chance = next((why for why in both if why not in (None, CHANGES)), None)
        refusal = chance or self.refusal or other.refusal
        return _Origin(self.sources | other.sources, refusal)


class _Walk:
    """A walk through one graph, in the order in which it is computed.

    Attributes:
      changed: bits of the handles whose variables or tables the graph changes.
      results: origins of the graph's outputs.
    """

    def __init__(self, graph: Any, known: dict[str, _Walk]) -> None:
        """Walk; `known` holds the functions that were walked before, by name."""
        self._known = known
        self._origins = {
            tensor.op: [_Origin(1 << bit)] for bit, tensor in enumerate(graph.inputs)
        }
        self.inputs = len(graph.inputs)
        self._sources = self.inputs
        self.changed = 0
        operations = [
            op
            for op in sorted_operations(graph.get_operations())
            if op not in self._origins
        ]
        circles = any(op.type == "NextIteration" for op in operations)
        for op in operations * (2 if circles else 1):
            self._origins[op] = self._outputs(op)
        self.results = [self.of(tensor) for tensor in graph.outputs]

    def of(self, tensor: Any) -> _Origin:
        """Give a tensor's origin; nothing is known of what comes only later."""
        found = self._origins.get(tensor.op)
        origin = found[tensor.value_index] if found else _Origin()
        if origin.sources & self.changed:
            origin |= _Origin(0, CHANGES)
        return origin

    def _outputs(self, op: Any) -> list[_Origin]:
        """Give the origins of an operation's outputs; note what it changes."""
        given = [self.of(tensor) for tensor in op.inputs]
        together = _union(given)
        if functions_of(op):
            return self._call(op, given)
        if not op.inputs and any(map(_is_handle, op.outputs)):
            together |= _Origin(1 << self._sources)
            self._sources += 1
        if _RANDOM.search(op.type):
            why = f"depends on random numbers (operation {op.name!r} is a {op.type})"
            together = _Origin(together.sources, why)
        if given and _is_handle(op.inputs[0]) and _CHANGE.search(op.type):
            self.changed |= given[0].sources
        return [together] * len(op.outputs)

    def _call(self, op: Any, given: Sequence[_Origin]) -> list[_Origin]:
        """Give the origins of the results of functions; note what these change.

        If it is not clear which of an operation's inputs are the function's, as in
        operations of tf.data, all results depend on all of them. So do those of loops.
        """
        handles = [
            _Origin(origin.sources if _is_handle(tensor) else 0)
            for origin, tensor in zip(given, op.inputs, strict=True)
        ]
        found = [given[0] if op.type in BRANCHES else _Origin()] * len(op.outputs)
        for name in _called(op):
            if name not in self._known:
                self._known[name] = _Walk(graph_of(op, name), self._known)
            inner = self._known[name]
            arguments = given[len(given) - inner.inputs :]
            clear = op.type in CALLS and len(inner.results) == len(found)
            if clear:
                changed = _outside(_Origin(inner.changed), arguments)
                results = [_outside(result, arguments) for result in inner.results]
            else:
                changed = _union(handles) if inner.changed else _Origin()
                refused = [_Origin(0, result.refusal) for result in inner.results]
                results = [_union([*given, *refused])] * len(found)
            self.changed |= changed.sources
            found = [a | b for a, b in zip(found, results, strict=True)]
        return found


def refusals_of(graph: Any, tensors: Sequence[Any]) -> list[str | None]:
    """Say of tensors why they cannot be tapped, if they depend on chance or state.

    Args:
      graph: the graph in which the tensors were traced.
      tensors: tensors of the graph; of anything else nothing is said.
    """
    walk = _Walk(graph, {})
    flat = [getattr(tensor, "flat_values", tensor) for tensor in tensors]
    return [
        walk.of(tensor).refusal if is_tensor_of(graph, tensor) else None
        for tensor in flat
    ]


def _union(origins: Iterable[_Origin]) -> _Origin:
    return functools.reduce(operator.or_, origins, _Origin())


def _is_handle(tensor: Any) -> bool:
    """Whether a tensor stands for a variable or table; arrays of loops do not."""
    is_array = tensor.op.type.startswith("TensorArray")
    return tensor.dtype._is_ref_dtype or (
        tensor.dtype.name == "resource" and not is_array
    )


def _called(op: Any) -> Sequence[str]:
    """Name the functions that an operation calls, without branches never taken."""
    import tensorflow as tf

    if op.type not in BRANCHES or (taken := tf.get_static_value(op.inputs[0])) is None:
        return functions_of(op)
    if op.type.endswith("If"):
        return [op.get_attr("then_branch" if taken else "else_branch").name]
    branches = op.get_attr("branches")
    return [branches[int(taken) if 0 <= taken < len(branches) else -1].name]


def _outside(origin: _Origin, arguments: Sequence[_Origin]) -> _Origin:
    """Turn what depends on a function's inputs into what depends on its arguments."""
    used = (a for bit, a in enumerate(arguments) if origin.sources >> bit & 1)
    return _union([_Origin(0, origin.refusal), *used])
