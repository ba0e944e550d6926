"""Turn a model and taps into one compiled function; list what can be tapped.

While one tf.function is traced, every layer's `call` is wrapped on the instance, so
that what the layer really returns is seen with its structure. TensorFlow then prunes
what no tap needs. Addresses come from the tree of layers: it names sublayers of nested
models apart, where Keras's own `path` may be absent or the same twice.
"""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.lookup import ConfigError
from transforms.model import Model
from transforms.reductions import parse_reduction, reduce_chain
from transforms.taps import Activation, Tap

# A batch size that no other axis is likely to have, to tell the batch axis from others.
_LISTING_ROWS = 1009
_HALF = ("float16", "bfloat16")
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Output:
    """What one column holds.

    Attributes:
      column: name in the table.
      shape: without the batch axis.
      dtype: of the column.
    """

    column: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class CompiledTaps:
    """One compiled function from model inputs to columns, for one batch size.

    Attributes:
      outputs: the columns, in the order of the taps.
      batch_rows: rows in every batch.
    """

    outputs: tuple[Output, ...]
    batch_rows: int
    _function: Any
    _packed: tuple[Output, ...]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Compute the columns of one batch.

        Args:
          inputs: `{feature: tensor [batch_rows, ...]}`.

        Returns:
          `{column: array [batch_rows, *shape]}`; all but text share one buffer, copied
          from the device at once.
        """
        packed, texts = self._function(dict(inputs))
        buffer = packed.numpy()
        columns, start = {}, 0
        for output in self._packed:
            dtype = np.dtype(output.dtype)
            shape = (self.batch_rows, *output.shape)
            stop = start + int(np.prod(shape)) * dtype.itemsize
            columns[output.column] = buffer[start:stop].view(dtype).reshape(shape)
            start = stop
        for name, text in texts.items():
            columns[name] = text.numpy()
        return {output.column: columns[output.column] for output in self.outputs}


def list_activations(model: Model) -> list[Activation]:
    """List every address of a model, from tracing, without running it.

    Returns:
      In the order in which the layers are first called; the model's own result last.
    """
    rows = model.batch_rows or _LISTING_ROWS
    found: list[Activation] = []

    def body(inputs: Any) -> None:
        for address, value, refusal in _record(model, inputs):
            found.append(_activation(address, value, refusal, rows))

    _trace(model, rows, body)
    return found


def compile_taps(model: Model, taps: Sequence[Tap], batch_rows: int) -> CompiledTaps:
    """Compile the part of a model that the taps need, with their reductions.

    Raises:
      ConfigError: a tap's reduction does not fit its activation, or the model takes
        another batch size.
    """
    import tensorflow as tf

    if model.batch_rows not in (None, batch_rows):
        raise ConfigError(
            f"model.batch_rows must be {model.batch_rows}, the fixed batch size of the"
            f" model's input, got {batch_rows}"
        )
    chains = [
        [
            parse_reduction(text, f"{tap.place}.reduce[{i}]")
            for i, text in enumerate(tap.reduce)
        ]
        for tap in taps
    ]
    outputs: dict[str, Output] = {}

    def body(inputs: Any) -> Any:
        found = _find(model, inputs, [tap.address for tap in taps])
        columns = {}
        for tap, chain, value in zip(taps, chains, found, strict=True):
            if value.dtype.name in _HALF:
                value = tf.cast(value, tf.float32)
            value = reduce_chain(value, chain, f"{tap.place}.reduce")
            if tap.dtype:
                value = tf.cast(value, tap.dtype)
            elif value.dtype.name in _HALF:
                value = tf.cast(value, tf.float32)
            columns[tap.column] = value
            shape = tuple(value.shape.as_list()[1:])
            if value.shape[0] != batch_rows or None in shape:
                raise ConfigError(
                    f"{tap.place}: column {tap.column!r} must have one shape for all"
                    f" rows, got {value.shape} for batches of {batch_rows} rows"
                )
            outputs[tap.column] = Output(tap.column, shape, value.dtype.name)
        return _pack(columns)

    function = _trace(model, batch_rows, body)
    ordered = tuple(outputs[tap.column] for tap in taps)
    packed = tuple(sorted((o for o in ordered if o.dtype != "string"), key=_alignment))
    return CompiledTaps(ordered, batch_rows, function, packed)


def _alignment(output: Output) -> int:
    """Order by falling size of a value, so that each column starts aligned."""
    return -np.dtype(output.dtype).itemsize


def _pack(columns: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Lay all numbers out in one uint8 buffer; text cannot leave a device anyway."""
    import tensorflow as tf

    numbers = [value for value in columns.values() if value.dtype != tf.string]
    numbers.sort(key=lambda value: -value.dtype.size)
    flat = [
        tf.reshape(
            tf.cast(value, tf.uint8)
            if value.dtype in (tf.bool, tf.uint8)
            else tf.bitcast(value, tf.uint8),
            [-1],
        )
        for value in numbers
    ]
    packed = tf.concat(flat, 0) if flat else tf.zeros([0], tf.uint8)
    texts = {n: value for n, value in columns.items() if value.dtype == tf.string}
    return packed, texts


def _trace(model: Model, rows: int, body: Any) -> Any:
    """Trace `body` for batches of `rows` rows, one thread at a time."""
    import tensorflow as tf

    signature = {
        i.feature: tf.TensorSpec([rows, *i.shape], i.feature_dtype)
        for i in model.inputs
    }
    unconverted = tf.autograph.experimental.do_not_convert(body)
    with _lock:
        return tf.function(unconverted).get_concrete_function(signature)


def _record(
    model: Model, inputs: Mapping[str, Any]
) -> Iterator[tuple[str, Any, str | None]]:
    """Run the model in the graph being traced; yield address, value, refusal."""
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    with _recording(model.keras, ()) as calls:
        result = model.call(inputs)
    found = []
    for path, returned in [*calls, ("", [result])]:
        nested = any(
            getattr(value, "graph", graph) is not graph
            for value in tf.nest.flatten(returned)
        )
        for call, value in enumerate(returned):
            head = f"{path}@{call}" if len(returned) > 1 else path
            for leaf, tensor in _leaves(value):
                found.append((f"{head}:{leaf}" if leaf else head, tensor, nested))
    times = Counter(address for address, _, _ in found)
    for address, tensor, nested in found:
        if nested:
            refusal = "is computed inside a loop, a branch or a function of its own"
        elif times[address] > 1:
            refusal = "stands for more than one activation; name the layers apart"
        elif not isinstance(tensor, tf.Tensor) or not hasattr(tensor, "graph"):
            refusal = f"is a {type(tensor).__name__}, not a tensor of the graph"
        else:
            refusal = None
        yield address, tensor, refusal


def _find(model: Model, inputs: Mapping[str, Any], addresses: list[str]) -> list[Any]:
    """Run the model in the graph being traced as far as the addresses need it.

    What comes later is not even traced: TensorFlow would leave out its arithmetic, but
    not its assertions and prints, nor what those depend on.
    """
    places = [_parse(address) for address in addresses]
    wanted = {(path, call) for path, call, _ in places}
    result = None
    with _recording(model.keras, wanted) as calls, suppress(_AllFoundError):
        result = model.call(inputs)
    returned = {**dict(calls), "": [result]}
    return [dict(_leaves(returned[path][call]))[leaf] for path, call, leaf in places]


def _parse(address: str) -> tuple[str, int, str]:
    """Split an address into layer path, number of the call, and leaf."""
    head, _, leaf = address.partition(":")
    path, _, call = head.partition("@")
    return path, int(call or 0), leaf


class _AllFoundError(BaseException):
    """Ends a model's call early; no error, so that nothing in between handles it."""


@contextmanager
def _recording(
    model: Any, wanted: Collection[tuple[str, int]]
) -> Iterator[list[tuple[str, list[Any]]]]:
    """Collect what each layer below the model returns: its path, call after call.

    Raises:
      _AllFoundError: inside the model's call, as soon as all the calls in `wanted`, if
        there are any, have returned.
    """
    calls: list[tuple[str, list[Any]]] = []
    missing = set(wanted)
    layers = list(_layers(model))

    def recorded(path: str, call: Any) -> Any:
        mine: list[Any] = []

        @functools.wraps(call)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            returned = call(*args, **kwargs)
            if not mine:
                calls.append((path, mine))
            mine.append(returned)
            missing.discard((path, len(mine) - 1))
            if wanted and not missing:
                raise _AllFoundError
            return returned

        return wrapper

    own = {
        id(layer): vars(layer)["call"] for _, layer in layers if "call" in vars(layer)
    }
    for path, layer in layers:
        object.__setattr__(layer, "call", recorded(path, layer.call))
    try:
        yield calls
    finally:
        for _, layer in layers:
            if id(layer) in own:
                object.__setattr__(layer, "call", own[id(layer)])
            else:
                object.__delattr__(layer, "call")


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Walk the tree of layers; yield each once, with its path below the model."""
    seen = {id(model)}

    def below(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for child in layer._layers:
            if id(child) not in seen:
                seen.add(id(child))
                yield f"{prefix}{child.name}", child
                yield from below(child, f"{prefix}{child.name}/")

    return below(model, "")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk what a layer returned; yield slash-joined keys and indexes with tensors."""
    items: Iterator[tuple[Any, Any]]
    if value is None:
        return
    if isinstance(value, Mapping):
        items = iter(value.items())
    elif isinstance(value, list | tuple):
        items = iter(enumerate(value))
    else:
        yield path, value
        return
    for key, child in items:
        yield from _leaves(child, f"{path}/{key}" if path else str(key))


def _activation(address: str, value: Any, refusal: str | None, rows: int) -> Activation:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        return Activation(address, (), type(value).__name__, refusal)
    shape, dtype = value.shape, getattr(value.dtype, "name", str(value.dtype))
    if shape.rank is None:
        refusal = refusal or "has a rank that is not known before running"
        return Activation(address, (), dtype, refusal)
    lengths = tuple(shape.as_list())
    if refusal is None and lengths[:1] != (rows,):
        refusal = "has no batch axis in front: it is not one value for each row"
        return Activation(address, lengths, dtype, refusal)
    if refusal is None and None in lengths[1:]:
        refusal = "has a shape that is not known before running"
    return Activation(address, lengths[1:], dtype, refusal)
