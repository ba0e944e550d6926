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

from transforms.graph import depend_on_changes, flops_to_reach
from transforms.lookup import ConfigError
from transforms.models import Input, Model
from transforms.models.base import Shape
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
_MIXES = "has the batch elsewhere than in front, or mixes its rows"
_CHANGES = "depends on a variable that the model changes from batch to batch"
_PROBES = (2, 3)
_DRAWS = 4
_MADE_UP_LENGTH = 32
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
    """List every address of a model, from tracing.

    Only where tracing cannot tell the batch axis the model runs, on made-up rows.

    Returns:
      In the order in which they are computed; the model's own result last.
    """
    rows = model.batch_rows or _LISTING_ROWS
    found: list[Activation] = []
    tensors: list[Any] = []

    def body(inputs: Any) -> None:
        found.clear()  # a function that makes variables is traced twice
        tensors.clear()
        for address, value, refusal in model.form.record(model.tensors(inputs)):
            found.append(_activation(address, value, refusal, rows))
            tensors.append(value)

    graph = _trace(model, rows, body).graph
    for index, changes in enumerate(depend_on_changes(graph, tensors)):
        if changes:
            refusal = found[index].refusal or _CHANGES
            found[index] = replace(found[index], refusal=refusal)
    _check_batch_axes(model, found)
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
    shapes: dict[str, Shape] = {}
    outputs: list[Output] = []
    fixed: dict[str, Any] = {}

    def body(inputs: Any) -> Any:
        outputs.clear()
        fixed.clear()
        lists: dict[str, Any] = {}
        found = model.form.find(model.tensors(inputs), addresses)
        if unsure := [
            address
            for address, value in zip(addresses, found, strict=True)
            if address not in shapes and _is_unsure(value)
        ]:
            raise _UnsureError(unsure)
        for tap, chain, value in zip(taps, chains, found, strict=True):
            if tap.address in shapes:
                value = _with_shape(value, batch_rows, shapes[tap.address])
            reduced = _reduce(value, tap, chain, batch_rows)
            shape = tuple(reduced.shape.as_list()[1:])
            outputs.append(Output(tap.column, shape, reduced.dtype.name))
            if None not in shape and not _is_ragged(reduced):
                fixed[tap.column] = reduced
                continue
            lists[tap.column], row_shapes = _split(reduced)
            if len(shape) > 1:
                name = f"{tap.column}_shape"
                outputs.append(Output(name, (len(shape),), "int32", tap.column))
                fixed[name] = row_shapes
        return *_pack(fixed), lists

    try:
        function = _trace(model, batch_rows, body)
    except _UnsureError as unsure:
        shapes.update(_probe(model, unsure.addresses))
        if missing := [a for a in unsure.addresses if a not in shapes]:
            raise ConfigError(
                f"{missing[0]!r} {_UNSURE}: it cannot be tapped"
            ) from None
        function = _trace(model, batch_rows, body)
    packed = [
        (name, np.dtype(value.dtype.name), tuple(value.shape.as_list()))
        for name, value in fixed.items()
        if value.dtype.name != "string"
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


def in_pieces(compiled: CompiledTaps, inputs: Mapping[str, Any]) -> dict[str, Values]:
    """Compute any number of rows but none, as many at a time as the function takes."""
    rows, most = len(next(iter(inputs.values()))), compiled.batch_rows
    if rows <= most:
        return compiled(inputs)
    computed = [
        compiled({name: values[at : at + most] for name, values in inputs.items()})
        for at in range(0, rows, most)
    ]
    return {n: join_rows([columns[n] for columns in computed]) for n in computed[0]}


def join_rows(parts: Sequence[Values]) -> Values:
    """Put rows of a column behind each other."""
    if isinstance(parts[0], pa.Array):
        return pa.concat_arrays(parts)
    return np.concatenate(parts)


def _reduce(
    value: Any, tap: Tap, chain: Sequence[Callable[[Any], Any]], rows: int
) -> Any:
    """Reduce and cast an activation, in the graph being traced."""
    import tensorflow as tf

    if value.dtype.name in _HALF:
        value = tf.cast(value, tf.float32)
    value = reduce_chain(value, chain, f"{tap.place}.reduce")
    if tap.dtype and value.dtype == tf.string:
        raise ConfigError(f"{tap.place}.dtype must be left out, the activation is text")
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


class _UnsureError(Exception):
    """Tracing cannot tell the batch axis of some addresses."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(addresses)
        self.addresses = addresses


def _is_unsure(value: Any) -> bool:
    return value.shape.rank is None or value.shape[0] is None


def _with_shape(value: Any, rows: int, shape: Shape) -> Any:
    """Say what shape a tensor has, and check it when running."""
    import tensorflow as tf

    if not _is_ragged(value):
        return tf.ensure_shape(value, [rows, *shape])
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


def _check_batch_axes(model: Model, found: list[Activation]) -> None:
    """Run the model where tracing cannot tell whether the batch is in front."""
    if model.batch_rows is not None:
        # Any axis may be as long as the batch.
        addresses = [a.address for a in found if a.refusal is None]
        refusals = _mixing_rows(model, addresses)
        for index, a in enumerate(found):
            found[index] = replace(a, refusal=a.refusal or refusals.get(a.address))
        return
    unsure = [a.address for a in found if a.refusal == _UNSURE]
    shapes = _probe(model, unsure) if unsure else {}
    for index, a in enumerate(found):
        if a.address in shapes:
            found[index] = replace(a, refusal=None, shape=shapes[a.address])


def _probe(model: Model, addresses: Sequence[str]) -> dict[str, Shape]:
    """Find the shapes without batch of those tensors that have the batch in front.

    The model runs on two and on three made-up rows. Where not even the rank is known, a
    length that comes out the same is taken for fixed.
    """
    few, more = (_measure(model, addresses, rows) for rows in _PROBES)
    shapes: dict[str, Shape] = {}
    for address in addresses:
        if address not in few or address not in more:
            continue
        (two, static), (three, _) = few[address], more[address]
        if (two[0], three[0]) != _PROBES or len(two) != len(three):
            continue
        same = (a if a == b and a else None for a, b in zip(two, three, strict=True))
        shapes[address] = tuple(same if static is None else static)[1:]
    return shapes


def _measure(
    model: Model, addresses: Sequence[str], rows: int
) -> dict[str, tuple[list[int], Shape | None]]:
    """Run the model and give the shapes of tensors, measured and as tracing knows them.

    Those that fail have none.
    """
    import tensorflow as tf

    static: dict[str, Shape | None] = {}

    def body(inputs: Any) -> list[Any]:
        values = model.form.find(model.tensors(inputs), addresses)
        for address, value in zip(addresses, values, strict=True):
            rank = value.shape.rank
            static[address] = None if rank is None else tuple(value.shape.as_list())
        return [v.nrows()[None] if _is_ragged(v) else tf.shape(v) for v in values]

    try:
        measured = _trace(model, rows, body)(_made_up(model, rows, seed=rows))
    except tf.errors.OpError:
        return _halved(addresses, lambda half: _measure(model, half, rows), {})
    return {
        address: ([int(n) for n in lengths.numpy()], static[address])
        for address, lengths in zip(addresses, measured, strict=True)
    }


def _mixing_rows(model: Model, addresses: Sequence[str]) -> dict[str, str]:
    """Refuse tensors in which changing one row of the inputs changes others.

    They have the batch elsewhere than in front, or mix it. What never changes, or
    cannot be computed from made-up rows, cannot be told.
    """
    import tensorflow as tf

    def body(inputs: Any) -> list[Any]:
        return model.form.find(model.tensors(inputs), addresses)

    if not addresses:
        return {}
    rows = model.batch_rows or 1
    function = _trace(model, rows, body)
    changed: set[str] = set()
    mixed: set[str] = set()
    try:
        for seed in range(_DRAWS):
            row = seed % rows
            given, other = (_made_up(model, rows, s) for s in (seed, seed + _DRAWS))
            mask = np.arange(rows) == row
            turned = {
                name: tf.tensor_scatter_nd_update(t, [[row]], other[name][row][None])
                for name, t in given.items()
            }
            results = zip(addresses, function(given), function(turned), strict=True)
            for address, before, after in results:
                if _is_ragged(before):
                    changed.add(address)
                    continue
                one, two = before.numpy(), after.numpy()
                if not _equal(one[mask], two[mask]):
                    changed.add(address)
                if not _equal(one[~mask], two[~mask]):
                    mixed.add(address)
    except tf.errors.OpError:
        alone = {addresses[0]: _UNSURE}
        return _halved(addresses, lambda half: _mixing_rows(model, half), alone)
    unsure = dict.fromkeys(set(addresses) - changed, _UNSURE)
    return unsure | dict.fromkeys(mixed, _MIXES)


def _halved(
    addresses: Sequence[str],
    function: Callable[[Sequence[str]], dict[str, Any]],
    alone: dict[str, Any],
) -> dict[str, Any]:
    """Try halves where made-up rows are nothing for the model, or for a part of it.

    Args:
      addresses: at least one of them failed.
      function: from addresses to what is found of them.
      alone: what is said of an address that fails by itself.
    """
    if len(addresses) == 1:
        return alone
    middle = len(addresses) // 2
    return function(addresses[:middle]) | function(addresses[middle:])


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _made_up(model: Model, rows: int, seed: int) -> dict[str, Any]:
    """Make examples: small numbers of both signs, or a few letters."""
    import tensorflow as tf

    random = np.random.default_rng(seed)
    examples = {}
    for i in model.inputs:
        shape = (rows, *(_MADE_UP_LENGTH if n is None else n for n in i.shape))
        if i.feature_dtype == "string":
            letters = random.integers(97, 123, (rows, 3)).astype(np.uint8)
            words = np.array([b" ".join(map(bytes, row[:, None])) for row in letters])
            column = words.reshape([rows, *[1] * len(i.shape)])
            examples[i.feature] = tf.constant(np.broadcast_to(column, shape))
        elif i.feature_dtype.startswith(("int", "uint", "bool")):
            bits = random.integers(0, 2, shape)
            examples[i.feature] = tf.cast(bits, i.feature_dtype)
        else:
            values = random.standard_normal(shape) * 2
            examples[i.feature] = tf.cast(values, i.feature_dtype)
    return examples


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
        return Activation(address, (), dtype, refusal or _UNSURE)
    lengths = tuple(value.shape.as_list())
    if refusal is None and not hasattr(value, "graph") and not _is_ragged(value):
        refusal = "is a constant, computed outside of the graph"
    if refusal is None and _is_ragged(value):
        inner = value.flat_values.shape[1:]
        if value.ragged_rank > 1 or not inner.is_fully_defined():
            refusal = "has more than one axis whose length differs between rows"
    if refusal is None and lengths[:1] == (None,):
        return Activation(address, lengths[1:], dtype, _UNSURE)
    if refusal is None and lengths[:1] != (rows,):
        refusal = "has no batch axis in front: it is not one value for each row"
        return Activation(address, lengths, dtype, refusal)
    return Activation(address, lengths[1:], dtype, refusal)
