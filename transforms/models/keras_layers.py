"""Models of Keras 3 and Keras 2 (tf_keras): their addresses are what layers return.

While a graph is traced, the `call` of each layer object is wrapped, so that whatever
the layer returns is seen with its structure. Addresses are made of names in the tree of
layers, which tells the sublayers of nested models apart; Keras's own `path` of a layer
may be absent, or the same for two layers.
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from transforms.lookup import ConfigError
from transforms.models.explain import explain_sequential, whole_tracebacks
from transforms.models.inputs import Declared, Input, automatic_number, parameters
from transforms.models.model import (
    INSIDE,
    Recorded,
    gathered,
    leaves,
    misfit,
    trace_once,
)
from transforms.models.stock import is_stock

_ANYTHING = Declared("inputs", None, "", is_open=True)
_UNCLEAR = "stands for more than one activation; name the layers apart"


class LayerForm:
    """A Keras model: functional, sequential or subclassed.

    Attributes:
      model: the Keras model.
      keras3: whether it is a model of Keras 3, not of Keras 2.
      stock: whether all its layers are Keras's own.

    Raises:
      ConfigError: the inputs are nested, or a layer keeps state from batch to batch.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.keras3 = hasattr(model, "_layers")
        self._symbolic = self._symbolic_inputs()  # building adds names made by Keras
        self.stock = all(map(is_stock, [model, *(one for _, one in _layers(model))]))
        for path, layer in _layers(model):
            if getattr(layer, "stateful", False) is True:
                raise ConfigError(
                    "a row's values must not depend on the batches before, but layer"
                    f" {path!r} is stateful; make it with stateful=False"
                )

    def declared(self) -> list[Declared]:
        """Give the inputs; of a subclassed model the parameters of its `call`."""
        return self._symbolic or parameters(self.model.call) or [_ANYTHING]

    def _symbolic_inputs(self) -> list[Declared]:
        """Give the inputs of a functional or built sequential model; none of others."""
        try:
            tensors = self.model.inputs
        except (AttributeError, ValueError):
            return []
        struct = getattr(self.model, "input", None) if tensors else None
        if isinstance(struct, dict):
            named = dict(struct)
            if not all(hasattr(tensor, "shape") for tensor in named.values()):
                raise ConfigError(
                    "a model's inputs must be tensors, a list or a dict of them, but"
                    f" they are nested ({', '.join(map(str, named))}); wrap the model"
                    " in one with flat inputs"
                )
        elif self.keras3:
            named = {
                str(at) if automatic_number(one.name) is not None else one.name: one
                for at, one in enumerate(tensors or [])
            }
        else:
            names = self.model.input_names if tensors else []
            named = dict(zip(names, tensors or [], strict=True))
        return [
            Declared(name, tuple(tensor.shape), _dtype_name(tensor.dtype))
            for name, tensor in named.items()
        ]

    def build(self, inputs: Sequence[Input]) -> None:
        """Build a subclassed model and all its sublayers, by tracing it once.

        Keras's own way to build, a symbolic call, refuses models that return None or
        ragged tensors.

        Raises:
          ConfigError: the model does not take these inputs.
        """
        if self._symbolic:
            return
        try:
            with whole_tracebacks():
                trace_once(self._call, inputs)
        except Exception as error:
            raise ConfigError(
                explain_sequential(error) or misfit("model", inputs, error)
            ) from error

    def record(self, tensors: Mapping[str, Any]) -> Iterator[Recorded]:
        """Yield what each call of each layer returns; the model's own result last."""
        import tensorflow as tf

        graph = tf.compat.v1.get_default_graph()
        layers = list(_layers(self.model))
        times = Counter(path for path, _ in layers)
        unclear = tuple(f"{path}/" for path, count in times.items() if count > 1)
        with _recording(layers, ()) as calls:
            result = self._call(tensors)
        found = []
        for path, returned in [*calls, ("", [result])]:
            nested = any(_graph(v, graph) is not graph for v in _tensors(returned))
            for call, value in enumerate(returned):
                head = f"{path}@{call}" if len(returned) > 1 else path
                for leaf, tensor in leaves(value):
                    refusal = INSIDE if nested else None
                    if f"{path}/".startswith(unclear):
                        refusal = refusal or _UNCLEAR
                    found.append((f"{head}:{leaf}" if leaf else head, tensor, refusal))
        times = Counter(address for address, _, _ in found)
        for address, tensor, refusal in found:
            if times[address] > 1:
                refusal = refusal or _UNCLEAR
            yield Recorded(address, tensor, refusal)

    def find(self, tensors: Mapping[str, Any], addresses: Sequence[str]) -> list[Any]:
        """Trace the model up to the call that gives the last of the addresses.

        Later layers are not traced at all: TensorFlow would prune their arithmetic, but
        not their assertions and prints, nor what those depend on.
        """
        places = [_parse(address) for address in addresses]
        wanted = {(path, call) for path, call, _ in places}
        result = None
        layers = list(_layers(self.model))
        with _recording(layers, wanted) as calls, suppress(_AllFoundError):
            result = self._call(tensors)
        returned = {**dict(calls), "": [result]}
        return [dict(leaves(returned[path][call]))[leaf] for path, call, leaf in places]

    def variables(self) -> Sequence[Any]:
        """Give the model's weights."""
        return list(self.model.weights)

    def arrange(self, tensors: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Put inputs into the model's arguments: `(positional, by keyword)`.

        A subclassed model gets several by keyword if its `call` has parameters of those
        names, else as a dict, or as a list if they go by position.
        """
        symbolic = self._symbolic
        if symbolic and isinstance(getattr(self.model, "input", None), dict):
            return [dict(tensors)], {}
        if len(tensors) == 1:
            return list(tensors.values()), {}
        if symbolic:
            return [[tensors[one.name] for one in symbolic]], {}
        if set(tensors) <= set(inspect.signature(self.model.call).parameters):
            return [], dict(tensors)
        return [gathered(tensors)], {}

    def _call(self, tensors: Mapping[str, Any]) -> Any:
        """Call the model for inference, with `training=False`."""
        positional, named = self.arrange(tensors)
        return self.model(*positional, **named, training=False)

    def set_precision(self, precision: str) -> None:
        """Make every layer compute in another precision; weights keep their type.

        Raises:
          ConfigError: the model is quantized, or of Keras 2.
        """
        if not self.keras3:
            raise ConfigError(
                f"model.precision can be set for models of Keras 3, got {precision!r}"
                " for one of Keras 2; leave it out"
            )
        name = "float32" if precision == "float32" else f"mixed_{precision}"
        for layer in self.model._flatten_layers():
            if getattr(layer, "quantization_mode", None):
                raise ConfigError(
                    f"model.precision cannot be set for a quantized model, got"
                    f" {precision!r}; leave it out"
                )
        for layer in self.model._flatten_layers():
            if layer.compute_dtype in ("float32", "bfloat16", "float16"):
                layer.dtype_policy = name


def _dtype_name(dtype: Any) -> str:
    return str(getattr(dtype, "name", dtype))


def _tensors(structure: Any) -> list[Any]:
    return [tensor for _, tensor in leaves(structure)]


def _graph(value: Any, default: Any) -> Any:
    value = getattr(value, "flat_values", value)  # of a ragged tensor
    return getattr(value, "graph", default)


def _parse(address: str) -> tuple[str, int, str]:
    """Split an address into layer path, number of the call, and leaf."""
    head, _, leaf = address.partition(":")
    path, _, call = head.partition("@")
    return path, int(call or 0), leaf


class _AllFoundError(BaseException):
    """Ends a model's call early.

    It is a BaseException, so that no layer catches it as an error.
    """


@contextmanager
def _recording(
    named: Sequence[tuple[str, Any]], wanted: Collection[tuple[str, int]]
) -> Iterator[list[tuple[str, list[Any]]]]:
    """Collect what each of some layers returns, as `(path, [one value for each call])`.

    Raises:
      _AllFoundError: inside the model's call, as soon as all the calls in `wanted`, if
        there are any, have returned.
    """
    calls: list[tuple[str, list[Any]]] = []
    missing = set(wanted)
    layers = [(path, layer, call_name(layer)) for path, layer in named]

    def recorded(path: str, layer: Any, call: Any) -> Any:
        mine: list[Any] = []

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            returned = call(*args, **kwargs)
            if not mine:
                calls.append((path, mine))
            mine.append(returned)
            missing.discard((path, len(mine) - 1))
            if wanted and not missing:
                _mask_outputs(layer, args, kwargs, returned)
                raise _AllFoundError
            return returned

        return wrapper

    own = {
        id(layer): vars(layer)[name] for _, layer, name in layers if name in vars(layer)
    }
    for path, layer, name in layers:
        object.__setattr__(layer, name, recorded(path, layer, getattr(layer, name)))
    try:
        yield calls
    finally:
        for _, layer, name in layers:
            if id(layer) in own:
                object.__setattr__(layer, name, own[id(layer)])
            else:
                object.__delattr__(layer, name)


def _mask_outputs(
    layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], returned: Any
) -> None:
    """Attach masks to what a layer returned, as Keras does once its call is over."""
    import tensorflow as tf

    set_masks = getattr(layer, "_set_mask_metadata", None)
    if set_masks is None or not layer.supports_masking:
        return
    inputs = args[0] if args else next(iter(kwargs.values()), None)
    given = kwargs.get("mask")
    if given is None:
        given = tf.nest.map_structure(lambda x: getattr(x, "_keras_mask", None), inputs)
    if any(mask is not None for mask in tf.nest.flatten(given)) or hasattr(
        layer, "mask_zero"
    ):
        is_keras2 = not hasattr(layer, "_layers")
        set_masks(inputs, returned, given, *([False] if is_keras2 else []))


def call_name(layer: Any) -> str:
    """Name the method in which a layer computes."""
    return "quantized_call" if getattr(layer, "quantization_mode", None) else "call"


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Walk the tree of layers; yield each once, with its path below the model."""
    seen = {id(model)}

    def below(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for child in _children(layer):
            if id(child) not in seen:
                seen.add(id(child))
                yield f"{prefix}{child.name}", child
                yield from below(child, f"{prefix}{child.name}/")

    return below(model, "")


def _children(layer: Any) -> list[Any]:
    """List the layers that a layer holds, and the operations of a functional model."""
    if hasattr(layer, "_layers"):
        return [*layer._layers, *getattr(layer, "operations", ())]
    if hasattr(layer, "_flatten_layers"):  # of Keras 2
        return list(layer._flatten_layers(recursive=False, include_self=False))
    return []
