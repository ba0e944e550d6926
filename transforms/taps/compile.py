"""Compile a model and its taps into one function from inputs to columns.

One tf.function is traced that runs the model as far as the taps need it and reduces the
activations. TensorFlow then prunes the operations that no column needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transforms.casts import cast
from transforms.dtypes import column_dtype
from transforms.lookup import ConfigError
from transforms.models.inputs import Input, Shape
from transforms.models.model import Model
from transforms.taps.chains import parse_reduction, reduce_chain
from transforms.taps.language import Tap
from transforms.taps.masks import mask_of
from transforms.taps.padding import in_batches
from transforms.taps.probe import probe_shapes
from transforms.taps.trace import is_ragged, trace_model
from transforms.values import Values, list_array


@dataclass(frozen=True, slots=True)
class Output:
    """What one column holds.

    Attributes:
      column: name of the column in the table.
      shape: shape of one row's value; None for lengths that differ between rows.
      dtype: type of the values.
      shape_of: name of the column whose shapes this one holds, row by row; empty if
        this column holds activations.
    """

    column: str
    shape: tuple[int | None, ...]
    dtype: str
    shape_of: str = ""


@dataclass(frozen=True, slots=True, weakref_slot=True)  # RunInference shares it weakly
class CompiledTaps:
    """One compiled function from model inputs to columns, for one batch size.

    Attributes:
      inputs: the model's inputs and the features that go into them.
      outputs: the columns, in the order of the taps. A column whose values have rank 2
        or more and differ in shape between rows is followed by a column of shapes.
      batch_rows: number of rows in a call of the compiled function; other numbers are
        split or filled up to it.
      computes_in_16_bits: whether some values on the way are float16 or bfloat16.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    batch_rows: int
    computes_in_16_bits: bool
    _function: Any
    _packed: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Values]:
        """Compute the columns of any number of rows, at least one.

        Args:
          inputs: `{feature: tensor [rows, ...]}`.

        Returns:
          Values by column. Within a batch all columns of numbers of fixed size share
          one buffer, which is copied from the device in one go.
        """
        return in_batches(self._compute, self.batch_rows, inputs)

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
            columns[name] = list_array(values.numpy(), lengths.numpy())
        return {output.column: columns[output.column] for output in self.outputs}


def compiled_once(model: Model, taps: Sequence[Tap], batch_rows: int) -> CompiledTaps:
    """Compile taps as `compile_taps` does, or give what it has made of them before.

    So a process that plans a table and then computes it traces the model once less.
    """
    key = (*taps, batch_rows)
    if key not in model.compiled:
        model.compiled[key] = compile_taps(model, taps, batch_rows)
    made: CompiledTaps = model.compiled[key]
    return made


def compile_taps(
    model: Model,
    taps: Sequence[Tap],
    batch_rows: int,
    *last: Callable[[Any], Any],
) -> CompiledTaps:
    """Compile the part of a model that the taps need, with their reductions.

    Args:
      model: the model.
      taps: what to compute.
      batch_rows: number of rows in a call.
      last: reductions that follow those of each tap, from `[batch, ...]` to the same.

    Raises:
      ConfigError: a tap's reduction does not fit its activation, or the model has
        another fixed batch size.
    """
    if model.batch_rows not in (None, batch_rows):
        raise ConfigError(
            f"model.batch_rows must be {model.batch_rows}, the fixed batch size of the"
            f" model's input, got {batch_rows}"
        )
    body = _Body(model, taps, batch_rows, last)
    try:
        function = trace_model(model, batch_rows, body, jit=model.jit)
    except _UnsureError as unsure:
        body.shapes.update(probe_shapes(model, unsure.addresses))
        if missing := [a for a in unsure.addresses if a not in body.shapes]:
            raise ConfigError(
                f"cannot tell whether the first axis of {missing[0]!r} is the batch, so"
                " it cannot be tapped"
            ) from None
        function = trace_model(model, batch_rows, body, jit=model.jit)
    packed = [
        (name, np.dtype(value.dtype.name), tuple(value.shape.as_list()))
        for name, value in body.fixed.items()
        if value.dtype.name != "string"
    ]
    packed.sort(key=lambda place: -place[1].itemsize)
    halves = any(
        tensor.dtype.name in ("float16", "bfloat16")
        for op in function.graph.get_operations()
        for tensor in op.outputs
    )
    outputs = tuple(body.outputs)
    return CompiledTaps(
        model.inputs, outputs, batch_rows, halves, function, tuple(packed)
    )


class _Body:
    """What is traced: the model as far as the taps need it, and their reductions.

    Attributes:
      outputs: what each column holds, filled by tracing.
      fixed: `{column: tensor}` of the columns whose rows all have one shape, filled by
        tracing.
      shapes: `{address: shape without batch}` of the activations whose shape tracing
        alone does not tell; entered before tracing a second time.
    """

    def __init__(
        self,
        model: Model,
        taps: Sequence[Tap],
        batch_rows: int,
        last: Sequence[Callable[[Any], Any]],
    ) -> None:
        self.outputs: list[Output] = []
        self.fixed: dict[str, Any] = {}
        self.shapes: dict[str, Shape] = {}
        self._model = model
        self._taps = taps
        self._rows = batch_rows
        self._chains = [
            [
                *(
                    parse_reduction(text, f"{tap.place}.reduce[{i}]")
                    for i, text in enumerate(tap.reduce)
                ),
                *last,
            ]
            for tap in taps
        ]

    def __call__(self, inputs: Any) -> Any:
        """Compute `(numbers in one buffer, {column: text}, {column: lists})`.

        Raises:
          _UnsureError: the batch axis of some activation is neither clear nor given.
        """
        self.outputs.clear()
        self.fixed.clear()
        lists: dict[str, Any] = {}
        addresses = [tap.address for tap in self._taps]
        found = self._model.form.find(self._model.tensors(inputs), addresses)
        if unsure := [
            address
            for address, value in zip(addresses, found, strict=True)
            if address not in self.shapes and _is_unsure(value)
        ]:
            raise _UnsureError(unsure)
        for tap, chain, value in zip(self._taps, self._chains, found, strict=True):
            if tap.address in self.shapes:
                value = _with_shape(value, self._rows, self.shapes[tap.address])
            self._add(tap, _reduce(value, tap, chain, self._rows), lists)
        return *_pack(self.fixed), lists

    def _add(self, tap: Tap, reduced: Any, lists: dict[str, Any]) -> None:
        """Make a tap's column, and a column of shapes if rows differ in shape."""
        shape = tuple(reduced.shape.as_list()[1:])
        self.outputs.append(Output(tap.column, shape, reduced.dtype.name))
        if None not in shape and not is_ragged(reduced):
            self.fixed[tap.column] = reduced
            return
        lists[tap.column], row_shapes = _split(reduced)
        if len(shape) > 1:
            name = f"{tap.column}_shape"
            self.outputs.append(Output(name, (len(shape),), "int32", tap.column))
            self.fixed[name] = row_shapes


def _reduce(
    value: Any, tap: Tap, chain: Sequence[Callable[[Any], Any]], rows: int
) -> Any:
    """Reduce and cast an activation, in the graph that is being traced."""
    import tensorflow as tf

    widened = _widened(value)
    if widened is not value and (mask := mask_of(value)) is not None:
        widened._keras_mask = mask
    value = reduce_chain(widened, chain, f"{tap.place}.reduce")
    if tap.dtype and value.dtype == tf.string:
        raise ConfigError(f"{tap.place}.dtype must be left out, the activation is text")
    value = (
        cast(value, tap.dtype, f"column {tap.column!r}")
        if tap.dtype
        else _widened(value)
    )
    if value.shape.rank is None or value.shape[0] != rows:
        raise ConfigError(
            f"{tap.place}: column {tap.column!r} must have a value for each row, got"
            f" {value.shape} for batches of {rows} rows"
        )
    return value


def _widened(value: Any) -> Any:
    """Cast float16 and bfloat16 to float32, so that reductions lose no precision."""
    import tensorflow as tf

    wanted = column_dtype(value.dtype.name)
    return value if wanted in (None, value.dtype.name) else tf.cast(value, wanted)


class _UnsureError(Exception):
    """Tracing cannot tell whether some addresses have the batch as first axis."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(addresses)
        self.addresses = addresses


def _is_unsure(value: Any) -> bool:
    return value.shape.rank is None or value.shape[0] is None


def _with_shape(value: Any, rows: int, shape: Shape) -> Any:
    """Declare the shape of a tensor's rows, which is checked when the graph runs."""
    import tensorflow as tf

    if not is_ragged(value):
        return tf.ensure_shape(value, [rows, *shape])
    splits = tf.ensure_shape(value.row_splits, [rows + 1])
    return tf.RaggedTensor.from_row_splits(value.values, splits, validate=False)


def _split(value: Any) -> tuple[tuple[Any, Any], Any]:
    """Flatten rows of differing shape: `((values [n], lengths [batch]), shapes)`.

    The shapes are those of the rows before flattening, int32 `[batch, rank]`.
    """
    import tensorflow as tf

    if is_ragged(value):
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


def _pack(columns: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Put all numbers into one uint8 buffer; text, which is on no device, stays apart.

    Columns are sorted by falling size of a value, so that each of them starts aligned.

    Returns:
      The buffer, and `{column: tensor}` of the text columns.
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
