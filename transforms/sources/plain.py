"""Arrow types and arrays of any layout -> the few plain ones that readers know.

A plain type is a number, a flag, text, bytes, a time, or a list of one of these; lists
are of variable or of fixed size. What may hold more than 2 GiB, as views do, is large.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_INT64_DIGITS = 18  # that fit into an int64 whatever they are


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Give the plain type that a type's values are read as; itself if there is none.

    Views, dictionaries and runs become what they stand for, extension types what they
    are stored as. Decimals with decimal places become float64, the nearest number;
    those without int64 if they have at most 18 digits, else they stay decimals, of
    which not every one is an int64.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if is_list(kind):
        return _plain_list_type(kind)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_decimal(kind) and kind.scale != 0:
        return pa.float64()
    if pa.types.is_decimal(kind) and kind.precision <= _INT64_DIGITS:
        return pa.int64()
    return kind


def _plain_list_type(kind: pa.DataType) -> pa.DataType:
    value = plain_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        made = pa.list_(value, kind.list_size)
    elif pa.types.is_list(kind):
        made = pa.list_(value)
    else:
        made = pa.large_list(value)
    is_plain = made.id == kind.id and value == kind.value_type
    return kind if is_plain else made


def plain(array: pa.Array) -> pa.Array:
    """Give an array's values in the plain type of its own.

    Raises:
      pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError: there is no way.
    """
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if pa.types.is_run_end_encoded(array.type):
        return plain(pc.run_end_decode(array))
    if pa.types.is_dictionary(array.type):
        return plain(array.dictionary).take(array.indices)
    kind = plain_type(array.type)
    if array.type == kind:
        return array
    if pa.types.is_decimal(array.type):  # short ones are cast wrongly (pyarrow 25)
        array = array.cast(pa.decimal256(array.type.precision, array.type.scale))
    return _plain_lists(array) if is_list(kind) else array.cast(kind)


def _plain_lists(array: pa.Array) -> pa.Array:
    """Give lists of any layout as lists with offsets.

    Arrow's own cast of views that were read from a file gives wrong lists (pyarrow 25).
    """
    lengths = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths, dtype=np.int64)
    is_large = pa.types.is_large_list(_plain_list_type(array.type))
    made = pa.LargeListArray if is_large else pa.ListArray
    offsets = pa.array(np.concatenate([[0], ends]), pa.int64())
    offsets = offsets if is_large else offsets.cast(pa.int32())
    mask = array.is_null() if array.null_count else None
    return made.from_arrays(offsets, plain(array.flatten()), mask=mask)


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is of lists, in any layout."""
    return any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )


def untyped(schema: pa.Schema) -> list[str]:
    """Name the columns whose type does not say what values are: nulls, empty lists."""

    def innermost(kind: pa.DataType) -> pa.DataType:
        return innermost(kind.value_type) if is_list(kind) else kind

    kinds = {field.name: innermost(plain_type(field.type)) for field in schema}
    return [name for name, kind in kinds.items() if pa.types.is_null(kind)]


def flat_schema(schema: pa.Schema) -> pa.Schema:
    """Put the fields of structs in the place of the structs: `image/bytes`.

    A column of that very name comes before a struct's field.
    """
    fields: dict[str, pa.Field] = {field.name: field for field in schema}
    for field in schema:
        if pa.types.is_struct(field.type):
            del fields[field.name]
            for inner in _fields(field):
                fields.setdefault(inner.name, inner)
    return pa.schema(list(fields.values()), schema.metadata)


def _fields(struct: pa.Field) -> Iterator[pa.Field]:
    for field in struct.type:
        inner = field.with_name(f"{struct.name}/{field.name}")
        inner = inner.with_nullable(struct.nullable or field.nullable)
        if pa.types.is_struct(inner.type):
            yield from _fields(inner)
        else:
            yield inner


def flat_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """Take a column, or the field of a struct; its rows are null where a struct is."""
    if name in table.column_names:
        return table[name]
    head, _, rest = name.partition("/")
    while head not in table.column_names:
        more, _, rest = rest.partition("/")
        head = f"{head}/{more}"
    column = table[head]
    while rest:
        names = [field.name for field in column.type]
        first = max((n for n in names if f"{rest}/".startswith(f"{n}/")), key=len)
        column, rest = pc.struct_field(column, [first]), rest[len(first) + 1 :]
    return column


def why_unreadable(name: str, kind: pa.DataType) -> str:
    """Say of a column that is there why it is no feature, and what helps."""
    if pa.types.is_struct(kind):
        fields = ", ".join(repr(f"{name}/{field.name}") for field in kind)
        return f"is a struct; name one of its fields: {fields}"
    if pa.types.is_null(kind):
        return (
            "has no type: the files that were asked for it hold nothing but nulls there"
        )
    if is_list(kind) and is_list(plain_type(kind).value_type):
        return (
            f"is of type {kind}, lists of lists that differ in length; pad the inner"
            " ones, or give their length in source.lengths"
        )
    return (
        f"is of type {kind}, for which tensors have no place; store it as numbers, text"
        " or bytes, or lists of these"
    )
