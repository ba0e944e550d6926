"""Find what a SavedModel would do besides computing, before any of it is loaded.

Looked at is what TensorFlow runs: the signature; what initializes and restores
variables and tables as the model is loaded; the functions that these call; and what
depends on constants alone, which TensorFlow computes as it loads any graph, to know
shapes. The rest, such as the functions that save the model again, may do anything,
since nobody calls it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from transforms.models.nodes import ancestors, dependents, node_of, split_tensor
from transforms.models.operations import READS, is_harmless, is_known, is_stateless

DEFAULT_SIGNATURE = "serving_default"
_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_NODES = ("saved_model_main_op", "legacy_init_op", "table_initializer")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_PLAIN = ("user_object", "function", "bare_concrete_function")
_IMPLEMENTS = "api_implements"  # TensorFlow swaps functions of one name of these


def foreign_files(path: Path, stored: Any) -> Iterator[str]:
    """Yield the files of a SavedModel that lie outside of its directory.

    Args:
      path: local path of the directory.
      stored: its `SavedModel` message.
    """
    here = path.resolve()
    for file in sorted(path.rglob("*")):
        if file.is_symlink() and not file.resolve().is_relative_to(here):
            yield file.relative_to(path).as_posix()
    for graph in stored.meta_graphs:
        for asset in _assets(graph):
            if not (here / "assets" / asset.filename).resolve().is_relative_to(here):
                yield f"assets/{asset.filename}"


def unsafe_operations(stored: Any, signature: str | None) -> Iterator[str]:
    """Yield which operations do more than compute, in words.

    Args:
      stored: the `SavedModel` message.
      signature: name of the signature that will be called; None stands for the default
        one, or for all if there is none of that name.
    """
    for graph in stored.meta_graphs:
        walk = _Walk(graph.graph_def)
        if len(stored.meta_graphs) == 1 and graph.HasField("object_graph_def"):
            yield from _of_objects(graph.object_graph_def, walk, signature)
        else:
            yield from _of_graph(graph, walk, signature)
        yield from walk.check_constants()


class _Walk:
    """The functions of a graph definition, each to be checked once.

    Args:
      graph_def: the graph definition.
    """

    def __init__(self, graph_def: Any) -> None:
        self.nodes = {node.name: node for node in graph_def.node}
        self.functions = {f.signature.name: f for f in graph_def.library.function}
        self._seen: set[tuple[str, frozenset[int]]] = set()

    def check(self, nodes: Iterable[Any], own_files: Collection[str]) -> Iterator[str]:
        """Yield what is unsafe about nodes, and about the functions that they call.

        Args:
          nodes: nodes that TensorFlow runs.
          own_files: names of nodes or arguments that give paths of the model's files.
        """
        open_bodies = [(list(nodes), set(own_files))]
        while open_bodies:
            body, paths = open_bodies.pop()
            paths |= dependents(
                {node.name: node for node in body if node.op == "Identity"}, paths
            )
            for node in body:
                read = READS.get(node.op)
                reads_own = read is not None and node_of(node.input[read]) in paths
                if not (reads_own or node.op in self.functions or is_harmless(node)):
                    yield _in_words(node)
                for name in _called(node, self.functions):
                    open_bodies += self._bodies(name, _given(node, paths, name))

    def check_function(self, name: str, own_files: Iterable[int]) -> Iterator[str]:
        """Yield what is unsafe about a function.

        Args:
          name: its name.
          own_files: indexes of the arguments that are paths of the model's files.
        """
        for body, paths in self._bodies(name, frozenset(own_files)):
            yield from self.check(body, paths)

    def check_constants(self) -> Iterator[str]:
        """Yield what is unsafe of what TensorFlow computes as it loads any function."""
        graphs: list[tuple[dict[str, Any], list[str]]] = [(self.nodes, [])]
        for function in self.functions.values():
            arguments = [argument.name for argument in function.signature.input_arg]
            graphs.append(({n.name: n for n in function.node_def}, arguments))
        for nodes, arguments in graphs:
            varying = [n for n, node in nodes.items() if not is_stateless(node.op)]
            depend = dependents(nodes, [*varying, *arguments])
            constant = (node for name, node in nodes.items() if name not in depend)
            yield from self.check(constant, ())

    def _bodies(
        self, name: str, own_files: frozenset[int]
    ) -> Iterator[tuple[list[Any], set[str]]]:
        """Give the nodes of a function, unless they have been given before.

        Those of the functions that TensorFlow may put in its place are given too.
        """
        for called in self._implementations(name):
            if (called, own_files) in self._seen:
                continue
            self._seen.add((called, own_files))
            function = self.functions[called]
            arguments = [argument.name for argument in function.signature.input_arg]
            known = {arguments[i] for i in own_files if 0 <= i < len(arguments)}
            yield list(function.node_def), known

    def _implementations(self, name: str) -> list[str]:
        if name not in self.functions:
            return []
        interface = self.functions[name].attr[_IMPLEMENTS].s
        others = [
            other
            for other, function in self.functions.items()
            if interface and function.attr[_IMPLEMENTS].s == interface
        ]
        return [name, *(other for other in others if other != name)]


def _of_objects(objects: Any, walk: _Walk, signature: str | None) -> Iterator[str]:
    """Yield what is unsafe about a model of TensorFlow 2, a graph of objects."""
    for node in _called_objects(objects, signature):
        for name in _functions_of(node):
            bound = objects.concrete_functions[name].bound_inputs
            function = walk.functions.get(name)
            first = len(function.signature.input_arg) - len(bound) if function else 0
            own = [
                first + index
                for index, captured in enumerate(bound)
                if objects.nodes[captured].WhichOneof("kind") == "asset"
            ]
            yield from walk.check_function(name, own)


def _called_objects(objects: Any, signature: str | None) -> Iterator[Any]:
    """Yield the objects that TensorFlow calls as it loads a model; the signature last.

    It calls functions in the place of its own objects' methods.
    """
    nodes = objects.nodes
    for node in nodes:
        for saved in node.saveable_objects.values():
            yield nodes[saved.save_function]
            yield nodes[saved.restore_function]
        plain = node.WhichOneof("kind") in _PLAIN
        for edge in chain(node.children, node.dependencies):
            if not plain or edge.local_name in _methods():
                yield nodes[edge.node_id]
    for edge in nodes[0].children if nodes else ():
        if edge.local_name == "signatures":
            children = nodes[edge.node_id].children
            chosen = _chosen([child.local_name for child in children], signature)
            for child in children:
                if child.local_name in chosen:
                    yield nodes[child.node_id]


def _of_graph(graph: Any, walk: _Walk, signature: str | None) -> Iterator[str]:
    """Yield what is unsafe about a model of TensorFlow 1, one graph."""

    def needed(tensors: Iterable[str], fed: Collection[str]) -> list[Any]:
        given = {split_tensor(tensor) for tensor in fed}
        names = ancestors(walk.nodes, tensors, fed=given)
        return [node for name, node in walk.nodes.items() if name in names]

    def with_files(tensors: Iterable[str], files: Collection[str]) -> Iterator[str]:
        body = needed(tensors, files)
        computed = {node.name for node in body}  # by another output than the file's
        yield from walk.check(body, {node_of(file) for file in files} - computed)

    for name in _chosen(list(graph.signature_def), signature):
        stored = graph.signature_def[name]
        inputs = list(chain(*map(_tensors, stored.inputs.values())))
        outputs = chain(*map(_tensors, stored.outputs.values()))
        yield from walk.check(needed(outputs, inputs), ())
    assets = [asset.tensor_info.name for asset in _assets(graph)]
    yield from with_files(_initializers(graph), assets)
    saver = graph.saver_def
    yield from with_files([saver.restore_op_name], [saver.filename_tensor_name])


def _initializers(graph: Any) -> Iterator[str]:
    """Name the nodes that TensorFlow runs before it calls a signature."""
    from tensorflow.core.framework import variable_pb2

    for info in graph.signature_def[_INIT_SIGNATURE].outputs.values():
        yield from _tensors(info)
    for key in _INIT_NODES:
        yield from graph.collection_def[key].node_list.value
    for stored in graph.collection_def["local_variables"].bytes_list.value:
        yield variable_pb2.VariableDef.FromString(stored).initializer_name


def _assets(graph: Any) -> Iterator[Any]:
    """Yield the files that a graph names as its own."""
    from tensorflow.core.protobuf import meta_graph_pb2

    yield from graph.asset_file_def
    for stored in graph.collection_def["saved_model_assets"].any_list.value:
        asset = meta_graph_pb2.AssetFileDef()
        if not graph.asset_file_def and stored.Unpack(asset):
            yield asset


def _tensors(info: Any) -> list[str]:
    """Name the tensors that an input or output of a signature is made of."""
    sparse, parts = info.coo_sparse, info.composite_tensor.components
    names = [info.name, sparse.values_tensor_name, sparse.indices_tensor_name]
    names += [sparse.dense_shape_tensor_name, *(part.name for part in parts)]
    return [name for name in names if name]


def _chosen(names: list[str], signature: str | None) -> list[str]:
    wanted = signature or DEFAULT_SIGNATURE
    return [wanted] if wanted in names else names


def _functions_of(node: Any) -> list[str]:
    bare = node.bare_concrete_function.concrete_function_name
    return [*node.function.concrete_functions, *([bare] if bare else [])]


def _called(node: Any, functions: Collection[str]) -> Iterator[str]:
    """Name the functions that a node may call."""
    if node.op in functions:
        yield node.op
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _given(node: Any, paths: Collection[str], called: str) -> frozenset[int]:
    """Give the indexes of the arguments of a call that are in `paths`."""
    if node.op not in (*_CALLS, called):
        return frozenset()
    tensors = [tensor for tensor in node.input if not tensor.startswith("^")]
    return frozenset(i for i, t in enumerate(tensors) if node_of(t) in paths)


def _in_words(node: Any) -> str:
    what = f"operation {node.name!r} is a {node.op}"
    if not is_known(node.op):
        return f"{what}, of a package that model.imports does not name"
    return (
        f"{what} of a file that is none of the model's own"
        if node.op in READS
        else what
    )


@cache
def _methods() -> frozenset[str]:
    """Name the methods of TensorFlow's objects that make up a loaded model."""
    from tensorflow.python.saved_model import function_deserialization, load
    from tensorflow.python.trackable import autotrackable, data_structures, resource

    kinds = (
        *(autotrackable.AutoTrackable, resource.RestoredResource),
        *(function_deserialization.RestoredFunction, load._WrapperFunction),
        *(data_structures.ListWrapper, data_structures._DictWrapper),
    )
    return frozenset(name for kind in kinds for name in dir(kind))
