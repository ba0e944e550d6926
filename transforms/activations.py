"""Turn a model and taps into one compiled function; list what can be tapped.

One tf.function is traced that goes through the model as far as the taps need it and
reduces what it finds there. TensorFlow then prunes what no column needs.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from transforms.cost import flops_to_reach
from transforms.lookup import ConfigError
from transforms.models import Input, Model
from transforms.reductions import parse_reduction, reduce_chain
from transforms.taps import Activation, Tap

# A batch size that no other axis is likely to have, to tell the batch axis from others.
_LISTING_ROWS = 1009
_HALF = ("float16", "bfloat16")
_STORED = frozenset(
    [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [*_HALF, "float32", "float64", "bool", "string"]
)
_UNSURE = "has a first axis that cannot be told to be the batch"
_PROBES = (2, 3)
_lock = threading.Lock()

Values: TypeAlias = np.ndarray | pa.Array
"""Values of a column: an array `[rows, *shape]`, or a list array where the length
differs between rows."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one column holds.

    Attributes:
      column: name in the table.
      shape: without the batch axis; None where rows differ.
      dtype: of the column.
      shape_of: the column whose shapes this one holds, row by row; empty for features.
    """

    column: str
    shape: tuple[int | None, ...]
    dtype: str
    shape_of: str = ""


@dataclass(frozen=True, slots=True, weakref_slot=True)  # RunInference shares it weakly
class CompiledTaps:
    """One compiled function from model inputs to columns, for one batch size.

    Attributes:
      inputs: what it takes.
      outputs: the columns, in the order of the taps. Behind a column of tensors of rank
        2 and more whose shape differs between rows stands a column of shapes.
      batch_rows: rows that it computes at a time.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    batch_rows: int
    _function: Any
    _packed: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Values]:
        """Compute the columns of one batch.

        Args:
          inputs: `{feature: tensor [rows, ...]}`, at most `batch_rows` rows. Fewer are
            filled up with copies, so that the function always sees one shape.

        Returns:
          Values by column. All of fixed size but text share one buffer, copied from the
          device at once.
        """
        import tensorflow as tf

        rows = len(next(iter(inputs.values())))
        if rows == self.batch_rows:
            return self._compute(inputs)
        filled = np.arange(self.batch_rows) % rows
        columns = self._compute(
            {name: tf.gather(value, filled) for name, value in inputs.items()}
        )
        # A view would keep the whole batch in memory.
        return {n: take_rows(values, np.arange(rows)) for n, values in columns.items()}

    def _compute(self, inputs: Mapping[str, Any]) -> dict[str, Values]:
        packed, texts, lists = self._function(dict(inputs))
        buffer = packed.numpy()
        columns: dict[str, Values] = {}
        start = 0
        for name, dtype, shape in self._packed:
            stop = start + math.prod(shape) * dtype.itemsize
            columns[name] = buffer[start:stop].view(dtype).reshape(shape)
            start = stop
        for name, text in texts.items():
            columns[name] = text.numpy()
        for name, (values, lengths) in lists.items():
            columns[name] = _list_array(values.numpy(), lengths.numpy())
        return {output.column: columns[output.column] for output in self.outputs}


def list_activations(model: Model) -> list[Activation]:
    """List every address of a model, from tracing, without running it.

    Returns:
      In the order in which they are computed; the model's own result last.
    """
    rows = model.batch_rows or _LISTING_ROWS
    found: list[Activation] = []
    tensors: list[Any] = []

    def body(inputs: Any) -> None:
        for address, value, refusal in model.form.record(model.tensors(inputs)):
            found.append(_activation(address, value, refusal, rows))
            tensors.append(value)

    graph = _trace(model, rows, body).graph
    unsure = {a.address for a in found if a.refusal == _UNSURE}
    if unsure:
        led = _led_by_batch(model, unsure)
        found = [replace(a, refusal=None) if a.address in led else a for a in found]
    results = [a.address[:1] in ("", ":") for a in found]
    needed, total = flops_to_reach(graph, tensors, results)
    return [
        replace(a, flops=flops // rows, flops_share=flops / total if total else 0.0)
        if a.refusal is None and flops is not None
        else a
        for a, flops in zip(found, needed, strict=True)
    ]


def compile_taps(model: Model, taps: Sequence[Tap], batch_rows: int) -> CompiledTaps:
    """Compile the part of a model that the taps need, with their reductions.

    Raises:
      ConfigError: a tap's reduction does not fit its activation, or the model takes
        another batch size.
    """
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
    addresses = [tap.address for tap in taps]
    outputs: list[Output] = []
    fixed_columns: set[str] = set()

    def body(inputs: Any) -> Any:
        outputs.clear()
        found = model.form.find(model.tensors(inputs), addresses)
        fixed: dict[str, Any] = {}
        lists: dict[str, Any] = {}
        for tap, chain, value in zip(taps, chains, found, strict=True):
            reduced = _reduce(value, tap, chain, batch_rows)
            shape = tuple(reduced.shape.as_list()[1:])
            outputs.append(Output(tap.column, shape, reduced.dtype.name))
            if None not in shape and not _is_ragged(reduced):
                fixed[tap.column] = reduced
                continue
            lists[tap.column], shapes = _split(reduced)
            if len(shape) > 1:
                name = f"{tap.column}_shape"
                outputs.append(Output(name, (len(shape),), "int32", tap.column))
                fixed[name] = shapes
        fixed_columns.update(fixed)
        return *_pack(fixed), lists

    function = _trace(model, batch_rows, body)
    packed = [
        (
            o.column,
            np.dtype(o.dtype),
            (batch_rows, *(n for n in o.shape if n is not None)),
        )
        for o in outputs
        if o.dtype != "string" and o.column in fixed_columns
    ]
    packed.sort(key=lambda place: -place[1].itemsize)
    return CompiledTaps(
        model.inputs, tuple(outputs), batch_rows, function, tuple(packed)
    )


def take_rows(values: Values, chosen: np.ndarray) -> Values:
    """Copy some rows of a column's values, by index."""
    if isinstance(values, pa.Array):
        return values.take(pa.array(chosen))
    picked: np.ndarray = values[chosen]
    return picked


def _reduce(
    value: Any, tap: Tap, chain: Sequence[Callable[[Any], Any]], rows: int
) -> Any:
    """Reduce and cast an activation, in the graph being traced."""
    import tensorflow as tf

    if value.dtype.name in _HALF:
        value = tf.cast(value, tf.float32)
    if value.shape[0] is None:  # known from running, see `_led_by_batch`
        value = _with_rows(value, rows)
    value = reduce_chain(value, chain, f"{tap.place}.reduce")
    if tap.dtype:
        value = tf.cast(value, tap.dtype)
    elif value.dtype.name in _HALF:
        value = tf.cast(value, tf.float32)
    if value.shape.rank is None or value.shape[0] != rows:
        raise ConfigError(
            f"{tap.place}: column {tap.column!r} must have a value for each row, got"
            f" {value.shape} for batches of {rows} rows"
        )
    return value


def _with_rows(value: Any, rows: int) -> Any:
    """Say how long the first axis is, and check it when running."""
    import tensorflow as tf

    if not _is_ragged(value):
        return tf.ensure_shape(value, [rows, *value.shape[1:]])
    splits = tf.ensure_shape(value.row_splits, [rows + 1])
    return tf.RaggedTensor.from_row_splits(value.values, splits, validate=False)


def _is_ragged(value: Any) -> bool:
    import tensorflow as tf

    return isinstance(value, tf.RaggedTensor)


def _split(value: Any) -> tuple[tuple[Any, Any], Any]:
    """Lay out rows of differing shape: `((values [n], lengths [batch]), shapes)`.

    The shapes are int32 `[batch, rank]`.
    """
    import tensorflow as tf

    if _is_ragged(value):
        lengths = tf.cast(value.row_lengths(), tf.int32)
        rows = tf.size(lengths)
        inner = tf.shape(value.flat_values)[1:]
        repeated = tf.tile(inner[None], [rows, 1])
        shapes = tf.concat([lengths[:, None], repeated], 1)
        flat = tf.reshape(value.flat_values, [-1])
    else:
        shapes = tf.tile(tf.shape(value)[None, 1:], [value.shape[0], 1])
        flat = tf.reshape(value, [-1])
    shapes = tf.ensure_shape(shapes, [value.shape[0], value.shape.rank - 1])
    return (flat, tf.reduce_prod(shapes, 1)), shapes


def _list_array(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    kind = pa.binary() if values.dtype == object else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))


def _pack(columns: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Lay all numbers out in one uint8 buffer; text cannot leave a device anyway.

    The order is by falling size of a value, so that each column starts aligned.
    """
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


def _led_by_batch(model: Model, addresses: set[str]) -> set[str]:
    """Find out which tensors have the batch in front where tracing has lost it.

    The model runs on a few rows of zeros, once for each of two sizes of batch.
    """
    import tensorflow as tf

    lengths: dict[str, list[int]] = {}
    for rows in _PROBES:

        def body(inputs: Any) -> dict[str, Any]:
            recorded = model.form.record(model.tensors(inputs))
            return {
                r.address: tf.shape(r.value)[0]
                for r in recorded
                if r.address in addresses
            }

        zeros = {
            i.feature: tf.zeros([rows, *i.shape], i.feature_dtype) for i in model.inputs
        }
        try:
            measured = _trace(model, rows, body)(zeros)
        except tf.errors.OpError:  # zeros are nothing for this model
            return set()
        for address, length in measured.items():
            lengths.setdefault(address, []).append(int(length))
    return {address for address, found in lengths.items() if found == [*_PROBES]}


def _activation(address: str, value: Any, refusal: str | None, rows: int) -> Activation:
    import tensorflow as tf

    if value is None:
        return Activation(address, (), "", refusal)
    if not isinstance(value, tf.Tensor | tf.RaggedTensor):
        refusal = refusal or f"is a {type(value).__name__}, not a tensor of the graph"
        return Activation(address, (), type(value).__name__, refusal)
    dtype = value.dtype.name
    if refusal is None and dtype not in _STORED:
        refusal = f"is of type {dtype}, which tables do not hold"
    if value.shape.rank is None:
        refusal = refusal or "has a rank that is not known before running"
        return Activation(address, (), dtype, refusal)
    lengths = tuple(value.shape.as_list())
    if refusal is None and not hasattr(value, "graph") and not _is_ragged(value):
        refusal = "is a constant, computed outside of the graph"
    if refusal is None and lengths[:1] == (None,):
        return Activation(address, lengths[1:], dtype, _UNSURE)
    if refusal is None and lengths[:1] != (rows,):
        refusal = "has no batch axis in front: it is not one value for each row"
        return Activation(address, lengths, dtype, refusal)
    if refusal is None and _is_ragged(value):
        inner = value.flat_values.shape[1:]
        if value.ragged_rank > 1 or not inner.is_fully_defined():
            refusal = "has more than one axis whose length differs between rows"
    return Activation(address, lengths[1:], dtype, refusal)
