"""Turn Arrow tables into blocks of rows, and Arrow types into features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.dtypes import DTYPES, Feature, null_name
from transforms.sources.blocks import Block, nothing

_OPEN_ROWS = 64


def feature_of(kind: pa.DataType, length: int | None = None) -> Feature | None:
    """Give the feature that holds a column's values; None if tensors cannot hold them.

    Args:
      kind: the column's Arrow type.
      length: length of the column's lists if its type does not say it; None if the
        lengths differ between rows.
    """
    if _is_list(kind):
        element = feature_of(kind.value_type)
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else length
        if element is None or None in element.shape:
            return None
        return Feature(element.dtype, (size, *element.shape))
    if pa.types.is_dictionary(kind):
        return feature_of(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Feature("string")
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Feature("bytes")
    if pa.types.is_fixed_size_binary(kind):
        return Feature("bytes")
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Feature("timestamp")
    if pa.types.is_boolean(kind):
        return Feature("bool")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Feature(np.dtype(kind.to_pandas_dtype()).name)
    return None


def features_of(
    schema: pa.Schema, lengths: Mapping[str, int | None]
) -> dict[str, Feature]:
    """Give the features of a schema; columns that tensors cannot hold are left out.

    Args:
      schema: of the file.
      lengths: `{list column: length of its lists}`, as `list_lengths` gives it.
    """
    found = {f.name: feature_of(f.type, lengths.get(f.name)) for f in schema}
    return {
        name: replace(feature, nullable=schema.field(name).nullable)
        for name, feature in found.items()
        if feature
    }


def list_lengths(sample: pa.Table) -> dict[str, int | None]:
    """Give the length of each list column's lists; None if it differs between rows."""
    lengths = {}
    for field in sample.schema:
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            found = pc.unique(pc.list_value_length(sample[field.name])).drop_null()
            lengths[field.name] = found[0].as_py() if len(found) == 1 else None
    return lengths


def arrow_type(feature: Feature) -> pa.DataType:
    """Give the Arrow type that a column is converted to before it becomes a feature."""
    kind = DTYPES[feature.dtype].arrow
    for _ in feature.shape:
        kind = pa.list_(kind)
    return kind


def blocks_of(
    table: pa.Table, rows: np.ndarray, features: Mapping[str, Feature]
) -> Iterator[Block]:
    """Convert an Arrow table into blocks, small ones where lengths differ between rows.

    Rows are filled up to the longest row of their block, so in a large block one long
    row would make many others long.
    """
    is_open = any(None in feature.shape for feature in features.values())
    step = _OPEN_ROWS if is_open else max(len(rows), 1)
    for start in range(0, len(rows), step):
        chosen = slice(start, start + step)
        yield block_of(table[chosen], rows[chosen], features)


def block_of(
    table: pa.Table,
    rows: np.ndarray,
    features: Mapping[str, Feature],
) -> Block:
    """Convert an Arrow table into one block.

    Args:
      table: the rows. If it lacks a column or holds another type than planned, all of
        its rows get a fault. So does a row with a null, except in a nullable feature.
      rows: numbers of the rows within their piece, int64 `[rows]`.
      features: the features to convert, as they were planned.
    """
    values: dict[str, np.ndarray] = {}
    lengths: dict[str, np.ndarray] = {}
    faults = np.full(len(rows), "", object)
    for name, feature in features.items():
        fault, whole = "", np.zeros(len(rows), bool)
        try:
            column = _planned_type(table, name, feature)
            made, sizes, whole = _values(column, feature.shape, feature)
            if feature.nullable:
                values[null_name(name)] = _nulls(column)
                whole |= values[null_name(name)]
            fault = f"{name} is null or has another length than planned"
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            fault = str(error).strip("'\"")
            made, sizes = nothing(len(rows), feature), np.zeros(len(rows), np.int64)
            if feature.nullable:
                values[null_name(name)] = np.zeros(len(rows), bool)
        values[name] = made
        if None in feature.shape:
            lengths[name] = sizes
        faults[~whole & (faults == "")] = fault
    return Block(rows, values, lengths, faults)


def _nulls(column: pa.Array) -> np.ndarray:
    """Tell which rows have no value: bool `[rows]`."""
    nulls: np.ndarray = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    )


def _planned_type(table: pa.Table, name: str, feature: Feature) -> pa.Array:
    """Take a column out of an Arrow table, cast to the planned type.

    Raises:
      pyarrow.ArrowInvalid: the cast would lose something.
      KeyError: there is no such column.
    """
    if name not in table.column_names:
        raise KeyError(
            f"the file lacks column {name!r} (it has {', '.join(table.column_names)})"
        )
    array = table[name].combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else array
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    wanted, found = arrow_type(feature), array.type
    if feature.dtype == "timestamp" and not feature.shape:
        return array.cast(pa.timestamp("us", getattr(found, "tz", None)), safe=False)
    depth_differs = len(feature.shape) != _depth(found)
    is_text = feature.family == "text"
    if depth_differs or is_text != _is_text(found):
        raise pa.ArrowInvalid(f"column {name!r} is {found}, planned was {wanted}")
    if is_text or pa.types.is_fixed_size_list(found):
        return array
    return array if found == wanted else array.cast(wanted)


def _depth(kind: pa.DataType) -> int:
    return 1 + _depth(kind.value_type) if _is_list(kind) else 0


def _is_text(kind: pa.DataType) -> bool:
    if _is_list(kind):
        return _is_text(kind.value_type)
    feature = feature_of(kind)
    return feature is not None and feature.family == "text"


def _values(
    array: pa.Array, shape: tuple[int | None, ...], feature: Feature
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert a column; put zeros into rows that are null or of another length.

    Returns:
      Values `[rows, *shape]`, where an open length is filled up to the longest row;
      lengths of the rows' first axis, int64 `[rows]`; and which rows are whole, that is
      neither null nor of another length than planned, bool `[rows]`.
    """
    if not shape:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        return _scalars(array, feature), np.zeros(len(array), np.int64), valid
    sizes = pc.list_value_length(array).fill_null(-1).to_numpy(zero_copy_only=False)
    sizes = sizes.astype(np.int64)
    whole: np.ndarray = sizes >= 0 if shape[0] is None else sizes == shape[0]
    kept = array.filter(pa.array(whole)).flatten()
    inner, _, sound = _values(kept, shape[1:], feature)
    lengths = np.where(whole, sizes, 0)
    longest = int(lengths.max(initial=1)) if shape[0] is None else shape[0]
    if longest and whole.all() and (lengths == longest).all():
        filled = inner.reshape(-1, longest, *inner.shape[1:])
        return filled, lengths, np.asarray(sound.reshape(-1, longest).all(axis=1))
    filled = nothing(len(array), Feature(feature.dtype, shape), longest)
    mask = np.arange(longest) < lengths[:, None]
    filled[mask] = inner
    sound_at = np.ones(mask.shape, bool)
    sound_at[mask] = sound
    whole[~sound_at.all(axis=1)] = False
    return filled, lengths, np.asarray(whole)


def _scalars(array: pa.Array, feature: Feature) -> np.ndarray:
    if feature.dtype == "timestamp":
        array = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)))
        array = array.cast(pa.int64())
    is_text = feature.family == "text"
    if is_text:  # as bytes: only a column that keeps text checks that it is UTF-8
        array = array.cast(pa.large_binary())
    if array.null_count:
        array = array.fill_null(pa.scalar(b"" if is_text else 0).cast(array.type))
    found: Any = array.to_numpy(zero_copy_only=False)
    return np.asarray(found)
