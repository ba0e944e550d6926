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
from transforms.sources.plain import is_list, plain, plain_type
from transforms.values import MOST_VALUES

_OPEN_ROWS = 64


Lengths = tuple[int | None, ...]
"""Of a column's lists, and of the lists in these; None where rows differ."""


def feature_of(kind: pa.DataType, lengths: Lengths = ()) -> Feature | None:
    """Give the feature that holds a column's values; None if tensors cannot hold them.

    Args:
      kind: the column's Arrow type.
      lengths: of its lists, from the outermost, where the type does not say them.
    """
    kind = plain_type(kind)
    if is_list(kind):
        element = feature_of(kind.value_type, lengths[1:])
        length = lengths[0] if lengths else None
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else length
        if element is None or None in element.shape:
            return None
        return Feature(element.dtype, (size, *element.shape))
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
    if pa.types.is_decimal(kind):
        return Feature("int64")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return Feature(np.dtype(kind.to_pandas_dtype()).name)
    return None


def features_of(
    schema: pa.Schema, lengths: Mapping[str, Lengths]
) -> dict[str, Feature]:
    """Give the features of a schema; columns that tensors cannot hold are left out.

    Args:
      schema: of the file.
      lengths: `{list column: lengths of its lists}`, as `list_lengths` gives them.
    """
    found = {f.name: feature_of(f.type, lengths.get(f.name, ())) for f in schema}
    return {
        name: replace(feature, nullable=schema.field(name).nullable)
        for name, feature in found.items()
        if feature
    }


def list_lengths(sample: pa.Table) -> dict[str, Lengths]:
    """Give the lengths of each list column's lists, and of the lists in these."""
    return {
        field.name: tuple(_lengths(plain(whole(sample[field.name]))))
        for field in sample.schema
        if is_list(plain_type(field.type))
    }


def _lengths(array: pa.Array) -> Iterator[int | None]:
    while is_list(array.type):
        found = pc.unique(pc.list_value_length(array)).drop_null()
        yield found[0].as_py() if len(found) == 1 else None
        array = array.flatten()


def whole(column: pa.ChunkedArray) -> pa.Array:
    """Give a column in one piece; text of more bytes than offsets count as large."""
    large = {pa.string(): pa.large_string(), pa.binary(): pa.large_binary()}
    if column.nbytes > MOST_VALUES and column.type in large:
        column = column.cast(large[column.type])
    return column.combine_chunks()


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
        try:
            column = _column(table, name, feature)
            made, sizes, wrong = _values(column, feature.shape, feature)
            nulls = _nulls(column) if feature.nullable else np.zeros(len(rows), bool)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, KeyError) as error:
            made, sizes = nothing(len(rows), feature), np.zeros(len(rows), np.int64)
            nulls = np.zeros(len(rows), bool)
            faults[faults == ""] = str(error).strip("'\"")
            wrong = None
        values[name] = made
        if feature.nullable:
            values[null_name(name)] = nulls
        if None in feature.shape:
            lengths[name] = sizes
        if wrong is not None:
            blamed = (wrong != "") & ~nulls & (faults == "")
            faults[blamed] = f"{name} " + wrong[blamed]
    return Block(rows, values, lengths, faults)


def _nulls(column: pa.Array) -> np.ndarray:
    """Tell which rows have no value: bool `[rows]`."""
    nulls: np.ndarray = column.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _column(table: pa.Table, name: str, feature: Feature) -> pa.Array:
    """Take a column out of an Arrow table, as it is stored.

    Raises:
      pyarrow.ArrowInvalid: its type is not of the planned family, or depth.
      KeyError: there is no such column.
    """
    planned = arrow_type(feature)
    if name not in table.column_names:
        outer = name.partition("/")[0]
        if outer in table.column_names:
            raise pa.ArrowInvalid(
                f"column {outer!r} is {table[outer].type}, planned was"
                f" {name!r} of type {planned}"
            )
        raise KeyError(
            f"the file lacks column {name!r} (it has {', '.join(table.column_names)})"
        )
    array = plain(whole(table[name]))
    depth, leaf = _depth_and_leaf(array.type)
    if pa.types.is_null(leaf) and depth <= len(feature.shape):  # nulls, or empty lists
        return array.cast(arrow_type(feature))
    found = feature_of(leaf)
    is_alike = found is not None and (
        found.dtype == feature.dtype
        if feature.family == "text"
        else found.family == feature.family
    )
    if depth != len(feature.shape) or not is_alike:
        raise pa.ArrowInvalid(
            f"column {name!r} is {table[name].type}, planned was {planned}"
        )
    return array


def _depth_and_leaf(kind: pa.DataType) -> tuple[int, pa.DataType]:
    """Tell how many lists lie around a type's values, and the type of these."""
    depth = 0
    while is_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth, kind


def _values(
    array: pa.Array, shape: tuple[int | None, ...], feature: Feature
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Convert a column; put zeros into rows that are null or of another length.

    Where the feature has a fill, this stands in place of nulls, and they are not wrong.

    Returns:
      Values `[rows, *shape]`, where an open length is filled up to the longest row;
      lengths of the rows' first axis, int64 `[rows]`; and what is wrong with each row,
      an object array of text `[rows]`, empty for sound rows. None if all are sound.
    """
    if not shape:
        made, wrong = _scalars(array, feature)
        return made, np.zeros(len(array), np.int64), wrong
    sizes = pc.list_value_length(array).fill_null(-1).to_numpy(zero_copy_only=False)
    sizes = sizes.astype(np.int64)
    whole: np.ndarray = sizes >= 0 if shape[0] is None else sizes == shape[0]
    sound = whole if feature.fill is None else whole | (sizes < 0)
    kept = array.filter(pa.array(whole)).flatten()
    inner, _, wrong = _values(kept, shape[1:], feature)
    lengths = np.where(whole, sizes, 0)
    longest = int(lengths.max(initial=1)) if shape[0] is None else shape[0]
    if longest and whole.all() and (lengths == longest).all():
        filled = inner.reshape(-1, longest, *inner.shape[1:])
        mask = np.ones([len(array), longest], bool)
    else:
        filled = nothing(len(array), replace(feature, shape=shape), longest)
        mask = np.arange(longest) < lengths[:, None]
        filled[mask] = inner
    if wrong is None and sound.all():
        return filled, lengths, None
    own = np.full(len(array), "", object)
    inside = len(shape) < len(feature.shape)
    own[~sound] = [_length_fault(size, shape[0], inside) for size in sizes[~sound]]
    return filled, lengths, _first_faults(own, mask, wrong)


def _length_fault(size: int, planned: int | None, inside: bool) -> str:
    """Say what is wrong with a list of another length than planned, or null (-1)."""
    if size < 0:
        return _null_fault(inside)
    holds = "holds a list of" if inside else "has"
    return f"{holds} length {size}, planned was {planned}"


def _null_fault(inside: bool) -> str:
    """Say of a row that it is null, or that one of its lists holds a null."""
    return "holds a null" if inside else "is null"


def _first_faults(
    own: np.ndarray, mask: np.ndarray, wrong: np.ndarray | None
) -> np.ndarray:
    """Give the fault of each row: its own, or that of the first of its elements.

    Args:
      own: what is wrong with each row's list itself, empty if nothing is.
      mask: where each row has elements, bool `[rows, longest]`.
      wrong: what is wrong with each element; None if nothing is.
    """
    if wrong is None:
        return own
    elements = np.full(mask.shape, "", object)
    elements[mask] = wrong
    first = (elements != "").argmax(axis=1)
    return np.where(own == "", elements[np.arange(len(first)), first], own)


def _scalars(array: pa.Array, feature: Feature) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert values; those that the planned type cannot hold, and nulls, are wrong."""
    nulls = _nulls(array) if array.null_count else None
    if feature.family == "text":  # as bytes: only a column that keeps text checks it
        array = array.cast(pa.large_binary())
    if nulls is not None:
        zero = pa.scalar(b"" if feature.family == "text" else 0)
        array = array.fill_null(zero.cast(array.type))
    made, changed = _planned(array, feature)
    if nulls is not None and feature.fill is not None:
        made, nulls = np.where(nulls, feature.nothing, made), None
    if nulls is None and changed is None:
        return made, None
    wrong = np.full(len(array), "", object)
    if nulls is not None:
        wrong[nulls] = _null_fault(bool(feature.shape))
    if changed is not None:
        texts = array.filter(pa.array(changed)).cast(pa.string()).to_pylist()
        fits = f"must hold values that fit into {feature.dtype}, as planned, got"
        wrong[changed] = [f"{fits} {text} ({array.type})" for text in texts]
    return made, wrong


def _planned(array: pa.Array, feature: Feature) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert values without nulls to the planned type.

    Returns:
      The values, and which of them do not come back the same, bool `[values]`; None if
      all do.
    """
    if feature.dtype == "timestamp":
        made, changed = _microseconds(array)
    elif pa.types.is_decimal(array.type):
        whole = array.cast(pa.int64(), safe=False)
        beyond = pc.not_equal(whole.cast(array.type), array)
        made, wrong = _planned(whole, feature)
        changed = beyond.to_numpy(zero_copy_only=False) | (wrong is not None and wrong)
    else:
        given: Any = array.to_numpy(zero_copy_only=False)
        kind = np.dtype(object if feature.family == "text" else feature.dtype)
        if given.dtype == kind:
            return given, None
        with np.errstate(over="ignore"):
            made = given.astype(kind)
        changed = (made.astype(given.dtype) != given) | ((made < 0) != (given < 0))
        changed &= given == given  # a NaN stays one
    return made, changed if changed.any() else None


def _microseconds(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Convert times; those too far away for microseconds do not come back the same.

    What is less than a microsecond is cut off.
    """
    moments = array.cast(pa.timestamp("us", getattr(array.type, "tz", None)), False)
    made = np.asarray(moments.cast(pa.int64()))
    if getattr(array.type, "unit", "") in ("us", "ns"):
        return made, np.zeros(len(made), bool)
    back = pc.not_equal(moments.cast(array.type, False), array)
    return made, back.to_numpy(zero_copy_only=False)
