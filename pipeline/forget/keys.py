"""A file of keys -> which rows of a table are to be forgotten, and which text is."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from transforms import storage
from transforms.lookup import ConfigError
from transforms.messages import first_line
from transforms.table.columns import Column
from transforms.table.directory import open_parquet

_ROW = "#row"  # no column is called so
_EDGES = re.compile(r"(?<![A-Za-z0-9])|(?![A-Za-z0-9])")  # all but within words
_NUMBER = r"[+-]?[0-9]+"
_GONE = "[forgotten]"
_ESCAPED = str.maketrans(
    {"\\": "\\\\", '"': '\\"', "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
)


@dataclass(frozen=True, slots=True)
class Keys:
    """What is to be forgotten.

    Attributes:
      columns: names of the table's columns that identify it: the key, or the entity.
      values: of these columns, each row once.
    """

    columns: tuple[str, ...]
    values: pa.Table

    def rows(self, batch: pa.RecordBatch) -> list[int]:
        """Find the rows of a batch that hold one of the keys, in order.

        Args:
          batch: that has the columns.
        """
        numbered = pa.table({name: batch[name] for name in self.columns})
        numbered = numbered.append_column(_ROW, pa.array(range(len(batch)), pa.int64()))
        found = numbered.join(
            self.values, list(self.columns), join_type="left semi", use_threads=False
        )
        return sorted(found[_ROW].to_pylist())


@dataclass(frozen=True)
class Redaction:
    """Text that must not be found any more.

    Attributes:
      texts: the keys as text.
    """

    texts: frozenset[str]

    @cached_property
    def _forms(self) -> frozenset[str]:
        """The keys, also as messages quote them."""
        forms: set[str] = set()
        for text in self.texts:
            escaped = text.translate(_ESCAPED)
            quoted = repr(text)[1:-1]
            forms |= {text, escaped, quoted, json.dumps(text)[1:-1]}
            forms |= {" ".join(text.split()), " ".join(escaped.split())}
        return frozenset(forms - {""})

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._forms), default=0)

    def redacted(self, text: str) -> str:
        """Give a text without the keys, where they are whole words or several.

        >>> Redaction(frozenset({"u1"})).redacted("'u1' is not of u12's day")
        "'[forgotten]' is not of u12's day"
        """
        edges = sorted({0, *(e.start() for e in _EDGES.finditer(text)), len(text)})
        kept, end = [], 0
        for start in edges:
            if start < end:
                continue
            stops = [e for e in edges if start < e <= start + self._longest]
            keys = [stop for stop in stops if text[start:stop] in self._forms]
            if keys:
                kept += [text[end:start], _GONE]
                end = keys[-1]
        return "".join([*kept, text[end:]])


def read_keys(uri: str, columns: Sequence[Column], entity: Sequence[str]) -> Keys:
    """Read the keys of rows.

    A `.csv` file (with a head) or a `.parquet` file names the columns that it has: the
    key, as the table or the source calls it, or all of the entity. Columns that say
    nothing of these are passed over. Any other file has one key on each line.

    Args:
      uri: of the file.
      columns: of the table, the key first.
      entity: names of the columns that are the table's entity.

    Raises:
      FileNotFoundError: there is no such file.
      ConfigError: it does not hold keys of the table.
    """
    try:
        data = storage.read(uri)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"--keys must name a file, found none at {uri!r}{storage.why_missing(uri)}"
        ) from None
    by_name = {column.name: column for column in columns}
    try:
        found, names = _parse(uri, data, columns[0], [by_name[n] for n in entity])
        values = pa.table(
            {name: _typed(found[was], by_name[name].arrow_type) for name, was in names}
        )
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ConfigError(
            f"--keys must hold keys of the table, {uri!r} does not: {first_line(error)}"
        ) from error
    values = values.group_by(values.column_names, use_threads=False).aggregate([])
    if any(column.null_count for column in values.columns):
        raise ConfigError(f"--keys must hold no nulls, {uri!r} does")
    if not len(values):
        raise ConfigError(f"--keys must hold at least one key, {uri!r} holds none")
    return Keys(tuple(values.column_names), values)


def _typed(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Give keys the type that they have in the table.

    Raises:
      ValueError: one is none of this type.
    """
    if pa.types.is_integer(kind) and pa.types.is_string(values.type):
        wrong = pc.invert(pc.match_substring_regex(values, rf"^{_NUMBER}$"))
        for text in values.filter(wrong).slice(0, 1).to_pylist():
            raise ValueError(f"{text!r} is no whole number")
        values = pc.replace_substring_regex(values, r"^\+", "")
    return values.cast(kind)


def redaction_of(keys: Keys) -> Redaction:
    """Say which text must not be found in what is said of other rows."""
    texts = [pc.cast(column, pa.string()) for column in keys.values.columns]
    return Redaction(frozenset(itertools.chain(*(t.to_pylist() for t in texts))))


def _parse(
    uri: str, data: bytes, key: Column, entity: Sequence[Column]
) -> tuple[Mapping[str, pa.ChunkedArray], list[tuple[str, str]]]:
    """Give the columns of a file, and for columns of the table what they are there."""
    suffix = PurePath(uri).suffix.lower()
    if suffix == ".parquet":
        with open_parquet(io.BytesIO(data)) as file:
            table = file.read(use_threads=False)
    elif suffix == ".csv":
        table = _read_csv(data)
    else:
        lines = re.split(r"\r\n|\n|\r", data.decode("utf-8-sig"))
        texts = pa.chunked_array([[line for line in lines if line]], pa.string())
        return {key.name: texts}, [(key.name, key.name)]
    named = _named(table.column_names, key, entity)
    return dict(zip(table.column_names, table.columns, strict=True)), named


def _read_csv(data: bytes) -> pa.Table:
    """Read fields as text, so that leading zeros stay."""
    head = data.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0]
    names = pacsv.read_csv(io.BytesIO(head + b"\n")).column_names
    convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    read = pacsv.ReadOptions(use_threads=False)
    return pacsv.read_csv(io.BytesIO(data), read, convert_options=convert)


def _named(
    names: Sequence[str], key: Column, entity: Sequence[Column]
) -> list[tuple[str, str]]:
    """Tell which columns of a file are which columns of the table."""

    def called(column: Column) -> str | None:
        found = [n for n in (column.name, column.source) if n and n in names]
        return found[0] if found else None

    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"its columns must be called differently, {twice[0]!r} is twice"
        )
    found = []
    for columns in filter(None, ([key], entity)):
        there = [called(column) for column in columns]
        if None not in there:
            found.append(
                [(c.name, n) for c, n in zip(columns, there, strict=True) if n]
            )
    if len(found) == 1:
        return found[0]
    if found:
        both = ", ".join(repr(name) for named in found for _, name in named)
        raise ValueError(f"it must have the key or the entity, it has both ({both})")
    wanted = [f"{key.name!r}"]
    if key.source:
        wanted.append(f"{key.source!r}")
    if entity:
        wanted.append(f"the entity {', '.join(repr(c.name) for c in entity)}")
    raise ValueError(
        f"it must have the column {' or '.join(wanted)}, it has"
        f" {', '.join(map(repr, names))}"
    )
