"""Turn computed batches into record batches of the table's schema."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.batch import Batch, Uneven
from transforms.dtypes import null_name
from transforms.errors.failure import Failure
from transforms.errors.halving import by_halves
from transforms.shard import Shard, split_positions
from transforms.table.columns import Column
from transforms.table.timestamps import microseconds, parse_timestamps
from transforms.values import Values, list_array, offsets_of, take_rows, text_array


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows of the table look.

    Attributes:
      columns: of the table, the key first.
      schema: of every part.
      timestamp: constant event timestamp, None if there is none.
    """

    columns: tuple[Column, ...]
    schema: pa.Schema
    timestamp: datetime.datetime | None


def encode(
    layout: Layout,
    shard: Shard,
    batch: Batch,
    values: Mapping[str, Values],
    on_failure: Callable[[Failure], None],
) -> pa.RecordBatch:
    """Make a record batch; rows whose text or time cannot be stored are left out.

    Args:
      layout: how rows look.
      shard: whose rows.
      batch: the rows, for keys and what is passed through.
      values: of the activations, by column.
      on_failure: called with each row that is left out.
    """

    def make(rows: np.ndarray) -> pa.RecordBatch:
        if len(rows) == len(batch):
            return _record_batch(layout, shard, batch, values)
        some = {name: take_rows(column, rows) for name, column in values.items()}
        return _record_batch(layout, shard, batch.take(rows), some)

    def alone(row: int, error: Exception) -> None:
        at, passed = int(batch.positions[row]), batch.passed_of(row)
        on_failure(Failure.of(at, "encode", error, passed))

    nothing = pa.RecordBatch.from_pylist([], schema=layout.schema)
    if not len(batch):
        return nothing
    made = list(by_halves(len(batch), make, (ValueError,), alone))
    return made[0] if len(made) == 1 else pa.concat_batches([nothing, *made])


def _record_batch(
    layout: Layout, shard: Shard, batch: Batch, values: Mapping[str, Values]
) -> pa.RecordBatch:
    arrays = []
    for column in layout.columns:
        if column.is_computed:
            arrays.append(to_array(column, values[column.name]))
        elif column.source:
            made = to_array(column, _passed(batch.passed[column.source]))
            arrays.append(_with_nulls(column, made, batch.passed))
        elif column.role == "key":
            arrays.append(_default_keys(shard, batch.positions))
        else:
            constant = pa.scalar(layout.timestamp, column.arrow_type)
            arrays.append(pa.repeat(constant, len(batch.positions)))
    return pa.RecordBatch.from_arrays(arrays, schema=layout.schema)


def _passed(values: Any) -> Values:
    """Take what is passed through out of TensorFlow; rows of differing length as lists.

    Elements of text are still bytes.
    """
    if not isinstance(values, Uneven):
        array: np.ndarray = values.numpy()
        return array
    filled, lengths = values.values.numpy(), values.shapes[:, 0]
    return list_array(filled[np.arange(filled.shape[1]) < lengths[:, None]], lengths)


def _with_nulls(column: Column, array: pa.Array, passed: Mapping[str, Any]) -> pa.Array:
    """Put nulls where a nullable column has no value."""
    if not column.nullable:
        return array
    nulls = passed[null_name(column.source)].numpy()
    if not nulls.any():
        return array
    nothing = pa.scalar(None, array.type)
    return pc.if_else(pa.array(nulls), nothing, array).cast(array.type)


def _default_keys(shard: Shard, positions: np.ndarray) -> pa.Array:
    """Make `<file>#<row>` for rows that are in order."""
    pieces, rows = split_positions(positions)
    keys = []
    for index in np.unique(pieces):
        piece = shard.pieces[index]
        inside = pa.array(rows[pieces == index] + piece.start).cast(pa.string())
        keys.append(pc.binary_join_element_wise(piece.name, inside, "#"))
    return pa.concat_arrays(keys)


def to_array(column: Column, values: Values) -> pa.Array:
    """Make an Arrow array from a batch of values, over the same memory where it can be.

    Args:
      column: the column's type.
      values: `[rows, *shape]`; object arrays of bytes for text; a list array where the
        length differs between rows.

    Raises:
      pa.ArrowInvalid, ValueError: a value does not fit, such as text that is not UTF-8.
      RuntimeError: there are more values than an Arrow array can hold.
    """
    kind = column.arrow_type
    if isinstance(values, pa.Array):
        flat = values.values.cast(kind.value_type)
        return pa.ListArray.from_arrays(values.offsets, flat, type=kind)
    rows, width = len(values), column.width or 0
    flat = np.ascontiguousarray(values).reshape(-1)
    element = kind.value_type if column.is_vector else kind
    if column.family == "text":
        array = text_array(flat)
        array = array.cast(pa.string()) if column.dtype == "string" else array
    elif column.dtype == "timestamp" and flat.dtype == object:
        array = parse_timestamps(flat)
    elif column.dtype == "timestamp":
        array = pa.array(microseconds(flat, column.unit), pa.int64()).cast(element)
    else:
        array = pa.array(flat, element)
    if not column.is_vector:
        return array
    offsets = offsets_of(np.full(rows, width))
    return pa.ListArray.from_arrays(offsets, array, type=kind)
