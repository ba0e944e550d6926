"""Run a model eagerly on one example, and record what its layers return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from transforms.models.keras_layers import LayerForm
from transforms.models.saved_model import SavedForm

_FREEZABLE_BYTES = 2 << 30


def layer_activations(
    form: LayerForm, tensors: Mapping[str, Any], addresses: Sequence[str]
) -> list[Any]:
    """Run a Keras model, and give the activations at some addresses.

    Args:
      form: the model.
      tensors: `{input: tensor [1, ...]}`.
      addresses: addresses of activations, or of the model's result.
    """
    places = []
    for address in addresses:
        head, _, leaf = address.partition(":")
        path, _, call = head.partition("@")
        layer = _layer(form.model, path) if path else None
        places.append((layer, int(call or 0), leaf))
    layers = [layer for layer, _, _ in places if layer is not None]
    with _recording(layers) as recorded:
        positional, named = form.arrange(tensors)
        result = form.model(*positional, **named, training=False)
    found = []
    for layer, number, leaf in places:
        returned = [value for called, value in recorded if called is layer]
        entries = dict(leaves_of(returned[number] if layer is not None else result))
        found.append(entries[leaf])
    return found


@contextmanager
def _recording(layers: Sequence[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """Record what some layers return, as `(layer, result)`, by wrapping their classes.

    A layer whose `call` is an attribute of its own is wrapped itself.
    """
    recorded: list[tuple[Any, Any]] = []
    places: dict[tuple[int, str], tuple[Any, str]] = {}
    for layer in layers:
        name = "quantized_call" if getattr(layer, "quantization_mode", 0) else "call"
        owner = layer if name in vars(layer) else type(layer)
        places[id(owner), name] = (owner, name)
    own = {key: vars(owner).get(name) for key, (owner, name) in places.items()}

    def wrapped(owner: Any, name: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            layer = args[0] if isinstance(owner, type) else owner
            # A class and its subclass may both be wrapped, and super() calls both.
            kinds = [kind for kind in type(layer).__mro__ if (id(kind), name) in places]
            if not isinstance(owner, type) or kinds[:1] == [owner]:
                recorded.append((layer, result))
            return result

        return call

    for owner, name in places.values():
        _set(owner, name, wrapped(owner, name, getattr(owner, name)))
    try:
        yield recorded
    finally:
        for key, (owner, name) in places.items():
            if own[key] is None:
                delattr(owner, name)
            else:
                _set(owner, name, own[key])


def _set(owner: Any, name: str, value: Any) -> None:
    """Set an attribute of a class, or of a layer without Keras noticing it."""
    if isinstance(owner, type):
        setattr(owner, name, value)
    else:
        object.__setattr__(owner, name, value)


def _layer(model: Any, path: str) -> Any:
    """Find the layer of a path; names of layers may hold slashes themselves.

    Raises:
      LookupError: no layer, or more than one, has this path.
    """
    below = model._flatten_layers(recursive=False, include_self=False)
    found: dict[int, Any] = {}
    for child in [*below, *getattr(model, "operations", ())]:
        if path == child.name:
            found[id(child)] = child
        elif path.startswith(f"{child.name}/") and hasattr(child, "_flatten_layers"):
            with suppress(LookupError):
                deeper = _layer(child, path[len(child.name) + 1 :])
                found[id(deeper)] = deeper
    if len(found) != 1:
        raise LookupError(f"{len(found)} layers are called {path!r}")
    return next(iter(found.values()))


def leaves_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a structure, as `(path/of/keys, value)`."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, list | tuple):
        value = {str(index): entry for index, entry in enumerate(value)}
    if not isinstance(value, Mapping):
        yield "", value
        return
    for key, entry in value.items():
        for leaf, inner in leaves_of(entry):
            yield f"{key}/{leaf}" if leaf else str(key), inner


def cut_signature(
    form: SavedForm, addresses: Sequence[str]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Make a function of a signature's inputs that gives some of its operations.

    Variables become constants of the graph, which limits their size to 2 GB.

    Args:
      form: the signature.
      addresses: addresses of operations.

    Returns:
      A function from `{input: tensor}` to `{address: tensor}`.

    Raises:
      RuntimeError: the signature's variables are larger than that.
    """
    from tensorflow.python.framework import convert_to_constants

    if not addresses:
        return lambda tensors: {}
    size = sum(v.dtype.size * v.shape.num_elements() for v in form.variables())
    if size >= _FREEZABLE_BYTES:
        raise RuntimeError(
            "operations of a SavedModel can be checked up to 2 GB of weights, it has"
            f" {size}; check a table of the signature's outputs instead"
        )
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        form.model, lower_control_flow=False, aggressive_inlining=True
    )
    by_name: dict[str, str] = {}
    for op in frozen.graph.get_operations():
        by_name[op.name] = op.name
        short = re.sub(r"^((Stateful)?PartitionedCall/)+", "", op.name)
        by_name.setdefault(short, op.name)
    fetched = []
    for address in addresses:
        head, _, index = address.partition(":")
        name = f"{by_name[head]}:{index or 0}"
        fetched.append(frozen.graph.get_tensor_by_name(name))
    pruned = frozen.prune(frozen.inputs, fetched)
    names = sorted(form.model.structured_input_signature[1])
    inputs = {t.op.name: n for t, n in zip(form.model.inputs, names, strict=False)}
    handles = {p.op.name: handle for handle, p in form.model.graph.captures}  # tables

    def run(tensors: Mapping[str, Any]) -> dict[str, Any]:
        nodes = [tensor.op.name for tensor in frozen.inputs]
        fed = [tensors[inputs[n]] if n in inputs else handles[n] for n in nodes]
        return dict(zip(addresses, pruned(*fed), strict=True))

    return run
