"""SavedModel directories: outputs of a signature, and the operations of its graph.

The signature's function is inlined into one graph definition. Variables stay outside
of it and are captured where it is imported, so that the 2 GB limit of a graph
definition holds for the graph alone, never for the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from transforms.lookup import ConfigError, nearest
from transforms.models.inputs import Declared, Input
from transforms.models.model import INSIDE, Recorded

_DEFAULT_SIGNATURE = "serving_default"
_CALLS = ("StatefulPartitionedCall/", "PartitionedCall/")
_PLUMBING = ("Const", "Identity", "NoOp", "ReadVariableOp")
_VALUE_FREE = ("OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike")
_UNNAMED = re.compile(r"Identity(_\d+)?")
_HELPERS = "Func/"  # nodes that inlining puts in at the borders of functions


class SavedForm:
    """One signature of a SavedModel.

    Attributes:
      model: the signature, a concrete function.
    """

    def __init__(self, loaded: Any, signature: Any) -> None:
        self.model = signature
        self._loaded = loaded  # holds variables and tables

    def declared(self) -> list[Declared]:
        """Give the signature's inputs."""
        _, specs = self.model.structured_input_signature
        return [
            Declared(
                name,
                None if spec.shape.rank is None else tuple(spec.shape),
                spec.dtype.name,
            )
            for name, spec in specs.items()
        ]

    def build(self, inputs: Sequence[Input]) -> None:
        """Do nothing: a SavedModel is complete."""

    def variables(self) -> Sequence[Any]:
        """Give the variables that the signature uses."""
        return list(self.model.variables)

    def record(self, tensors: Mapping[str, Any]) -> Iterator[Recorded]:
        """Yield the operations that depend on an input; the signature's outputs last.

        Operations from which no output follows are refused: a loop leaves a copy of its
        first round behind, which looks like the loop and is not.
        """
        import tensorflow as tf

        fed = self._placeholders()
        reached = _reached(self._nodes, fed)
        leads = _ancestors(self._nodes, self._results.values(), _VALUE_FREE)
        branched = self._branched
        names = [
            name
            for name in self._nodes
            if name in reached and name not in fed and not self._is_helper(name)
        ]
        results = {name: _split(tensor) for name, tensor in self._results.items()}
        fetched = [*names, *(node for node, _ in results.values())]
        tensors_of = self._import(self._nodes, fetched, tensors)
        for name in names:
            for address in self._inside(name):
                yield Recorded(address, None, INSIDE)
            values = tensors_of[name]
            for index, value in enumerate(values):
                if value.dtype in (tf.resource, tf.variant):
                    continue
                leaf = f":{index}" if len(values) > 1 else ""
                refusal = INSIDE if name in branched else None
                if refusal is None and name not in leads:
                    refusal = "leads to no output: tracing a loop or branch left it"
                yield Recorded(f"{self._addresses[name]}{leaf}", value, refusal)
        for output, (node, index) in results.items():
            yield Recorded(f":{output}", tensors_of[node][index], None)

    def find(self, tensors: Mapping[str, Any], addresses: Sequence[str]) -> list[Any]:
        """Import what the addresses need and nothing else."""
        wanted = [self._tensor_name(address) for address in addresses]
        nodes = _ancestors(self._nodes, wanted)
        places = [_split(tensor) for tensor in wanted]
        tensors_of = self._import(nodes, [node for node, _ in places], tensors)
        return [tensors_of[node][index] for node, index in places]

    @cached_property
    def _graph_def(self) -> Any:
        """The signature's graph with all functions inlined that are just called."""
        from tensorflow.python.framework import convert_to_constants

        return convert_to_constants._run_inline_graph_optimization(
            self.model, lower_control_flow=False, aggressive_inlining=True
        )

    @cached_property
    def _nodes(self) -> dict[str, Any]:
        return {node.name: node for node in self._graph_def.node}

    @cached_property
    def _results(self) -> dict[str, str]:
        """The tensor in which each output of the signature is computed."""
        names = sorted(self.model.structured_outputs)  # the order of flattening
        return {
            name: self._behind_calls(tensor.name)
            for name, tensor in zip(names, self.model.outputs, strict=True)
        }

    @cached_property
    def _addresses(self) -> dict[str, str]:
        """Addresses of nodes: their names without the calls that were inlined."""
        short = {name: _without_calls(name) for name in self._nodes}
        times = Counter(short.values())
        return {name: s if times[s] == 1 else name for name, s in short.items()}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {address: name for name, address in self._addresses.items()}

    def _tensor_name(self, address: str) -> str:
        head, _, leaf = address.partition(":")
        if not head:
            return self._results[leaf]
        name = self._names[head]
        return f"{name}:{leaf}" if leaf else name

    def _behind_calls(self, tensor: str) -> str:
        """Go back through what merely passes a result out of an inlined function.

        Those nodes wait for everything that the function does, also for what the result
        does not need.
        """
        node = self._nodes[_node(tensor)]
        passed = [name for name in node.input if not name.startswith("^")]
        unnamed = _UNNAMED.fullmatch(_without_calls(node.name))
        if node.op == "Identity" and (unnamed or node.name.startswith(_HELPERS)):
            return self._behind_calls(passed[0])
        return tensor

    def _is_helper(self, name: str) -> bool:
        node = self._nodes[name]
        passes_out = node.op == "Identity" and self._behind_calls(name) != name
        return name.startswith(_HELPERS) or passes_out or node.op == "NoOp"

    def _inside(self, name: str) -> Iterator[str]:
        """Addresses in the functions that a loop or a branch runs."""
        node = self._nodes[name]
        called = {v.func.name for v in node.attr.values() if v.HasField("func")}
        called |= {f.name for v in node.attr.values() for f in v.list.func}
        loop = self._addresses[name]
        found: dict[str, None] = {}
        for function in self._graph_def.library.function:
            if function.signature.name in called:
                for inner in function.node_def:
                    if inner.op not in _PLUMBING:
                        below = inner.name.removeprefix(f"{loop}/")
                        found[f"{loop}/{below}"] = None
        return iter(found)

    @property
    def _branched(self) -> set[str]:
        """Nodes in branches and loops of TensorFlow 1, which are no functions."""

        def of(*kinds: str) -> set[str]:
            return {name for name, node in self._nodes.items() if node.op in kinds}

        exits, merges = of("Exit", "RefExit"), of("Merge", "RefMerge")
        loops = _reached(self._nodes, of("Enter", "RefEnter"), exits)
        branches = _reached(self._nodes, of("Switch", "RefSwitch"), exits | merges)
        return loops | branches

    def _placeholders(self) -> dict[str, str]:
        """Nodes that stand for inputs: `{node: input}`; both are in flattened order."""
        _, specs = self.model.structured_input_signature
        nodes = [tensor.op.name for tensor in self.model.inputs]
        return dict(zip(nodes, sorted(specs), strict=False))  # captures come behind

    def _import(
        self, nodes: Iterable[str], fetched: Sequence[str], tensors: Mapping[str, Any]
    ) -> dict[str, list[Any]]:
        """Put nodes into the graph being traced; give the outputs of the fetched."""
        import tensorflow as tf

        graph = tf.compat.v1.get_default_graph()
        chosen = set(nodes)
        part = tf.compat.v1.GraphDef()
        part.node.extend(node for name, node in self._nodes.items() if name in chosen)
        part.library.CopyFrom(self._graph_def.library)
        part.versions.CopyFrom(self._graph_def.versions)
        fed = {
            node: tensors[name]
            for node, name in self._placeholders().items()
            if node in chosen
        }
        for value, placeholder in self.model.graph.captures:
            if placeholder.op.name in chosen:
                fed[placeholder.op.name] = graph.capture(value)
        wanted = [name for name in fetched if name not in fed]
        operations = tf.graph_util.import_graph_def(
            part, input_map=fed, return_elements=wanted, name="saved"
        )
        found = {
            name: list(operation.outputs)
            for name, operation in zip(wanted, operations, strict=True)
        }
        return {name: found.get(name) or [fed[name]] for name in fetched}


def load_saved(path: Path, signature: str | None, uri: str) -> SavedForm:
    """Load a SavedModel and choose its signature.

    Raises:
      ConfigError: there is no such signature.
    """
    import tensorflow as tf

    return choose_signature(tf.saved_model.load(str(path)), signature, uri)


def choose_signature(loaded: Any, signature: str | None, uri: str) -> SavedForm:
    """Choose a signature of a loaded SavedModel.

    Raises:
      ConfigError: there is no such signature.
    """
    signatures = dict(loaded.signatures)
    known = ", ".join(sorted(signatures))
    if not signatures:
        raise ConfigError(
            f"a SavedModel must have a signature, {uri!r} has none; give signatures to"
            " tf.saved_model.save"
        )
    if signature is None:
        single = len(signatures) == 1
        signature = next(iter(signatures)) if single else _DEFAULT_SIGNATURE
        if signature not in signatures:
            raise ConfigError(f"model.signature is required, {uri!r} has {known}")
    if signature not in signatures:
        raise ConfigError(
            f"model.signature must name a signature of {uri!r}, got {signature!r}"
            f"{nearest(signature, signatures)} (signatures: {known})"
        )
    chosen = signatures[signature]
    if chosen.structured_input_signature[0]:
        raise ConfigError(
            f"model.signature must take its inputs by name, {signature!r} of {uri!r}"
            " takes some by position"
        )
    return SavedForm(loaded, chosen)


def _without_calls(name: str) -> str:
    """Cut off the names of the functions that merely wrap the whole."""
    while name.startswith(_CALLS):
        name = name.partition("/")[2]
    return name


def _split(tensor: str) -> tuple[str, int]:
    """Split a tensor's name, as graph definitions write it, into node and output."""
    node, _, index = tensor.removeprefix("^").partition(":")
    return node, int(index or 0)


def _node(tensor: str) -> str:
    return _split(tensor)[0]


def _ancestors(
    nodes: Mapping[str, Any], tensors: Iterable[str], ends: Sequence[str] = ()
) -> set[str]:
    """Names of the nodes that some tensors need; operations in `ends` need nothing."""
    open_names = [_node(tensor) for tensor in tensors]
    found: set[str] = set()
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            if nodes[name].op not in ends:
                open_names += [_node(tensor) for tensor in nodes[name].input]
    return found


def _reached(
    nodes: Mapping[str, Any], start: Iterable[str], ends: Collection[str] = ()
) -> set[str]:
    """Names of the nodes whose values depend on some nodes, up to the ends."""
    users: dict[str, list[str]] = {}
    for name, node in nodes.items():
        for tensor in node.input:
            if not tensor.startswith("^"):
                users.setdefault(_node(tensor), []).append(name)
    open_names, found = list(start), set(start)
    while open_names:
        for user in users.get(open_names.pop(), ()):
            if user not in found and user not in ends:
                found.add(user)
                open_names.append(user)
    return found
