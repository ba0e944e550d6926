"""SavedModels: their addresses are a signature's outputs and its graph's operations.

All functions that the signature calls are inlined into one graph definition. Variables
stay outside of it and are captured when it is imported, so that the limit of 2 GB for a
graph definition holds for the operations alone, not for the weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

from transforms.models.inputs import Declared, Input, automatic_number
from transforms.models.model import INSIDE, Recorded
from transforms.models.nodes import ancestors, dependents, node_of, split_tensor
from transforms.models.signature_parts import output_parts, put_together

_CALLS = ("StatefulPartitionedCall/", "PartitionedCall/")
_PLUMBING = ("Const", "Identity", "NoOp", "ReadVariableOp")
_VALUE_FREE = ("OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike")
_SPARSE = "is sparse; export it as a dense tensor (tf.sparse.to_dense)"
_EMPTY = (
    "needs the {}, which loading leaves empty; export the model with a main_op that"
    " initializes it"
)
_UNNAMED = re.compile(r"Identity(_\d+)?")
_LOOKUPS = ("LookupTableFind", "LookupTableFindV2")
_FILLED_ONCE = ("HashTable", "HashTableV2")
_HELPERS = "Func/"  # nodes that inlining adds at the inputs and outputs of functions


class SavedForm:
    """One signature of a SavedModel.

    Attributes:
      model: the signature, a concrete function of TensorFlow.
      stock: False, since the graph may use the number of rows.
    """

    stock = False

    def __init__(self, loaded: Any, signature: Any) -> None:
        self.model = signature
        self._loaded = loaded  # keeps its variables and tables alive
        for key in signature.graph.get_all_collection_keys():
            signature.graph.clear_collection(key)  # loading has run what they name

    def declared(self) -> list[Declared]:
        """Give the signature's inputs."""
        _, specs = self.model.structured_input_signature
        return [
            Declared(
                name,
                None if spec.shape.rank is None else tuple(spec.shape),
                spec.dtype.name,
            )
            for name, spec in sorted(specs.items(), key=_number)
        ]

    def build(self, inputs: Sequence[Input]) -> None:
        """Do nothing: a SavedModel has all its variables when it is loaded."""

    def variables(self) -> Sequence[Any]:
        """Give the variables that the signature uses."""
        return list(self.model.variables)

    def record(self, tensors: Mapping[str, Any]) -> Iterator[Recorded]:
        """Yield the operations that depend on an input; the signature's outputs last.

        Operations that no output needs are refused: tracing a loop leaves a copy of its
        first round in the graph, which looks like the loop's body but is not run.
        """
        import tensorflow as tf

        fed = self._placeholders()
        reached = dependents(self._nodes, fed)
        leads = ancestors(self._nodes, chain(*self._results.values()), _VALUE_FREE)
        branched, empty = self._branched, self._need_what_is_empty()
        names = [
            name
            for name in self._nodes
            if name in reached and name not in fed and not self._is_helper(name)
        ]
        parts = [node_of(part) for part in chain(*self._results.values())]
        tensors_of = self._import(self._nodes, [*names, *parts], tensors)
        for name in names:
            for address in self._inside(name):
                yield Recorded(address, None, INSIDE)
            values = tensors_of[name]
            for index, value in enumerate(values):
                if value.dtype in (tf.resource, tf.variant):
                    continue
                leaf = f":{index}" if len(values) > 1 else ""
                refusal = INSIDE if name in branched else empty.get(name)
                if refusal is None and name not in leads:
                    refusal = "leads to no output: tracing a loop or branch left it"
                yield Recorded(f"{self._addresses[name]}{leaf}", value, refusal)
        for output, tensors_in in self._results.items():
            value = self._value(f":{output}", tensors_of)
            refusals = (empty.get(node_of(tensor)) for tensor in tensors_in)
            refusal = _SPARSE if isinstance(value, tf.SparseTensor) else None
            yield Recorded(
                f":{output}", value, refusal or next(filter(None, refusals), None)
            )

    def find(self, tensors: Mapping[str, Any], addresses: Sequence[str]) -> list[Any]:
        """Import just the operations that the addresses need."""
        wanted = list(chain(*map(self._tensor_names, addresses)))
        nodes = ancestors(self._nodes, wanted)
        tensors_of = self._import(nodes, [node_of(one) for one in wanted], tensors)
        return [self._value(address, tensors_of) for address in addresses]

    @cached_property
    def _graph_def(self) -> Any:
        """The signature's graph, with the functions inlined that it calls directly.

        Bodies of loops and branches stay functions.
        """
        from tensorflow.python.framework import convert_to_constants

        return convert_to_constants._run_inline_graph_optimization(
            self.model, lower_control_flow=False, aggressive_inlining=True
        )

    @cached_property
    def _nodes(self) -> dict[str, Any]:
        return {node.name: node for node in self._graph_def.node}

    @cached_property
    def _outputs(self) -> dict[str, tuple[Any, list[Any]]]:
        return output_parts(self.model)

    @cached_property
    def _results(self) -> dict[str, list[str]]:
        """`{output of the signature: names of the tensors that it is made of}`."""
        return {
            name: [self._computed_by(tensor.name) for tensor in tensors]
            for name, (_, tensors) in self._outputs.items()
        }

    @cached_property
    def _addresses(self) -> dict[str, str]:
        """`{node: address}`: names of nodes without the calls that were inlined."""
        short = {name: _without_calls(name) for name in self._nodes}
        times = Counter(short.values())
        return {name: s if times[s] == 1 else name for name, s in short.items()}

    @cached_property
    def _names(self) -> dict[str, str]:
        return {address: name for name, address in self._addresses.items()}

    def _tensor_names(self, address: str) -> list[str]:
        head, _, leaf = address.partition(":")
        if not head:
            return self._results[leaf]
        name = self._names[head]
        return [f"{name}:{leaf}" if leaf else name]

    def _value(self, address: str, tensors_of: Mapping[str, list[Any]]) -> Any:
        """Pick the value of an address from `{node: its outputs}`."""
        places = [split_tensor(name) for name in self._tensor_names(address)]
        values = [tensors_of[node][index] for node, index in places]
        if address.startswith(":"):
            structure, _ = self._outputs[address.removeprefix(":")]
            return put_together(structure, values)
        return values[0]

    def _computed_by(self, tensor: str) -> str:
        """Go back from a tensor to the one it copies out of an inlined function.

        The copying nodes wait for everything that the function does, also for what the
        result does not need.
        """
        node = self._nodes[node_of(tensor)]
        passed = [name for name in node.input if not name.startswith("^")]
        unnamed = _UNNAMED.fullmatch(_without_calls(node.name))
        if node.op == "Identity" and (unnamed or node.name.startswith(_HELPERS)):
            return self._computed_by(passed[0])
        return tensor

    def _is_helper(self, name: str) -> bool:
        node = self._nodes[name]
        passes_out = node.op == "Identity" and self._computed_by(name) != name
        return name.startswith(_HELPERS) or passes_out or node.op == "NoOp"

    def _inside(self, name: str) -> Iterator[str]:
        """Give the addresses in the functions that a loop or a branch runs."""
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
        """Nodes in branches and loops as TensorFlow 1 makes them, without functions."""

        def of(*kinds: str) -> set[str]:
            return {name for name, node in self._nodes.items() if node.op in kinds}

        exits, merges = of("Exit", "RefExit"), of("Merge", "RefMerge")
        loops = dependents(self._nodes, of("Enter", "RefEnter"), exits)
        branches = dependents(self._nodes, of("Switch", "RefSwitch"), exits | merges)
        return loops | branches

    def _need_what_is_empty(self) -> dict[str, str]:
        """Give `{node: why it has no value}` where loading left something empty."""
        import tensorflow as tf

        with tf.init_scope():
            named = {
                id(variable.handle): f"variable {variable.name!r}"
                for variable in self.model.variables
                if not variable.is_initialized()
            }
            empty = {
                placeholder.op.name: named[id(handle)]
                for handle, placeholder in self.model.graph.captures
                if id(handle) in named
            }
            for node in self._nodes.values():
                if node.op in _LOOKUPS and self._is_empty(node):
                    empty[node.name] = f"table {node_of(node.input[0])!r}"
        return {
            needing: _EMPTY.format(what)
            for node, what in empty.items()
            for needing in dependents(self._nodes, [node])
        }

    def _is_empty(self, lookup: Any) -> bool:
        """Whether a lookup fails for any keys, since nothing has filled its table."""
        import tensorflow as tf

        table, _, default = lookup.input[:3]
        nodes = ancestors(self._nodes, [table, default])
        fixed = self._nodes[node_of(table)].op in _FILLED_ONCE
        if not fixed or not nodes.isdisjoint(self._placeholders()):
            return False

        def find_nothing() -> Any:
            found = self._import(nodes, [node_of(table), node_of(default)], {})
            handle, value = (
                found[node][index]
                for node, index in map(split_tensor, (table, default))
            )
            none = tf.zeros([0], tf.as_dtype(lookup.attr["Tin"].type))
            find = getattr(tf.raw_ops, lookup.op)
            return find(table_handle=handle, keys=none, default_value=value)

        try:
            tf.function(find_nothing, autograph=False)()
        except tf.errors.FailedPreconditionError:
            return True
        return False

    def _placeholders(self) -> dict[str, str]:
        """`{node: input}` of the nodes that stand for inputs, which come sorted."""
        _, specs = self.model.structured_input_signature
        nodes = [tensor.op.name for tensor in self.model.inputs]
        return dict(zip(nodes, sorted(specs), strict=False))  # captures come after them

    def _import(
        self, nodes: Iterable[str], fetched: Sequence[str], tensors: Mapping[str, Any]
    ) -> dict[str, list[Any]]:
        """Import nodes into the graph that is being traced.

        Returns:
          `{node: its outputs}` of the nodes in `fetched`.
        """
        import tensorflow as tf

        graph = tf.compat.v1.get_default_graph()
        chosen = set(nodes)
        fed = {
            node: tensors[name]
            for node, name in self._placeholders().items()
            if node in chosen
        }
        for value, placeholder in self.model.graph.captures:
            if placeholder.op.name in chosen:
                fed[placeholder.op.name] = graph.capture(value)
        part = tf.compat.v1.GraphDef()
        for name, node in self._nodes.items():
            if name in fed:  # only others' places go by it, and XLA has no Placeholder
                part.node.add(name=name, op="NoOp")
            elif name in chosen:
                part.node.append(node)
        part.library.CopyFrom(self._graph_def.library)
        part.versions.CopyFrom(self._graph_def.versions)
        wanted = [name for name in fetched if name not in fed]
        operations = tf.graph_util.import_graph_def(
            part, input_map=fed, return_elements=wanted, name="saved"
        )
        found = {
            name: list(operation.outputs)
            for name, operation in zip(wanted, operations, strict=True)
        }
        return {name: found.get(name) or [fed[name]] for name in fetched}


def _number(named: tuple[str, Any]) -> int:
    """Sort inputs that Keras has named by its count, which their names are not."""
    number = automatic_number(named[0])
    return -1 if number is None else number


def _without_calls(name: str) -> str:
    """Cut the names of calls that wrap the whole graph off a node's name."""
    while name.startswith(_CALLS):
        name = name.partition("/")[2]
    return name
