"""Read JSON Lines files, a row for each line."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from transforms.dtypes import Feature
from transforms.lookup import ConfigError, nearest
from transforms.sources.arrow import arrow_type, features_of, list_lengths
from transforms.sources.json_blame import GIVES_NUMBER, JsonBlame
from transforms.sources.line_rows import (
    ROW_ID,
    Blame,
    Parser,
    TextLines,
    check_finite,
    flat,
    parsed_as,
)
from transforms.sources.lines import Lines
from transforms.sources.numerals import (
    check_exact_numbers,
    json_object,
    kept_json_type,
    may_be_inexact,
    whole_numbers,
    with_text,
)

_SHORT = ("float16", "float32")  # Arrow refuses what is too large for float64


@dataclass(frozen=True)
class Jsonl(Lines):
    """JSON Lines files: an object a line, with numbers, text and lists of them.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem; also `.gz`,
        `.bz2` and `.xz`, which are read as a whole.
      features: key to dtype, or to `{dtype, shape}` for lists, -1 for a length that
        differs between rows. If absent, the types are taken from the head of the first
        file.
      encoding: encoding of the files' text.
      max_line_bytes: a longer line is a bad row.
    """

    def _given(self) -> dict[str, Feature]:
        """Check the features of a config; a key that no row has is a typing error.

        That a row lacks a key is a null of that row, no error.
        """
        given = super()._given()
        uri, head = self._head()
        known = {name for row in _objects(self._as_utf8(head)) for name in row}
        for name in given if known else ():
            if name not in known:
                raise ConfigError(
                    f"source.features must name keys of the rows, got {name!r}, which"
                    f" no row at the head of {uri!r} has{nearest(name, known)}"
                )
        return given

    def _infer(self, lines: bytes) -> dict[str, Feature]:
        options = pajson.ReadOptions(block_size=len(lines) + 1)
        table = pajson.read_json(io.BytesIO(lines), options)
        rows = _objects(lines)
        kept = [
            (field.name, kept_json_type(field.type, [r.get(field.name) for r in rows]))
            for field in table.schema
        ]
        return features_of(pa.schema(kept), list_lengths(table))

    def _alike(self, lines: Sequence[bytes]) -> Sequence[bytes]:
        found = [_kinds_of(line) for line in lines]
        counts = Counter(kind for kinds in found for kind in kinds)
        usual = dict(kind for kind, _ in reversed(counts.most_common()))
        return [
            line
            for line, kinds in zip(lines, found, strict=True)
            if kinds and all(usual[place] == kind for place, kind in kinds)
        ]

    def _blame(self, first_line: str, features: Mapping[str, Feature]) -> Blame:
        types = _types(features)
        floats = [name for name in types if features[name].family == "float"]
        return JsonBlame(
            types,
            [name for name in types if features[name].dtype == "string"],
            self._parser(first_line, features),
            {n: self._parser(first_line, {n: features[n]}) for n in floats},
            _table,
        )

    def _parser(self, first_line: str, features: Mapping[str, Feature]) -> Parser:
        types = _types(features)
        texts = [name for name in types if features[name].dtype == "string"]
        others = {name: kind for name, kind in types.items() if name not in texts}
        floats = [name for name in types if features[name].family == "float"]
        told = floats if self.features is None else []
        short = [name for name in floats if features[name].dtype in _SHORT]
        exact = {n: arrow_type(replace(features[n], dtype="float64")) for n in short}

        def parse(lines: TextLines) -> pa.Table:
            if len(lines) > 1 and not _are_objects(lines):
                raise ValueError("must hold an object")
            data = lines.text()
            try:
                table = _table(data, types)
            except ValueError as error:
                if not texts or not GIVES_NUMBER.search(str(error)):
                    raise
                _table(data, others)  # what else is wrong, rewriting might mend
                data = b"\n".join(with_text(lines.each(), texts))
                table = _table(data, types)
            for name in told:
                _check_floats(name, table[name], lines)
            for name in short:
                made = flat(table[name])
                if np.isinf(made).any():
                    given = flat(_table(data, exact)[name])
                    dtype = features[name].dtype
                    check_finite(name, dtype, made, given, np.isinf(given))
            return table

        return parse


def _types(features: Mapping[str, Feature]) -> dict[str, pa.DataType]:
    return {
        name: arrow_type(parsed_as(feature))
        for name, feature in features.items()
        if name != ROW_ID
    }


_Place = tuple[str, ...]


def _kinds_of(line: bytes) -> set[tuple[_Place, str]]:
    """Tell what is where in an object: places and kinds; none if it is no object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(made := dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice in an object")
        return made

    with contextlib.suppress(ValueError, RecursionError):
        return set(_kinds(json.loads(line, object_pairs_hook=unique), ()))
    return set()


def _kinds(value: Any, place: _Place) -> Iterator[tuple[_Place, str]]:
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else (("[]", v) for v in value)
        for key, one in inner:
            yield from _kinds(one, (*place, key))
    if value is not None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        yield place, "number" if is_number else type(value).__name__


def _objects(lines: bytes) -> list[dict[str, Any]]:
    """Parse lines; those that hold no object are left to reading, as bad rows."""
    found = []
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            found.append(json_object(line))
    return found


def _check_floats(name: str, column: pa.ChunkedArray, lines: TextLines) -> None:
    """See that float64 holds the whole numbers that stand under a key.

    Raises:
      ValueError: it would change one.
    """
    if may_be_inexact(flat(column)).any():
        values = [json_object(line).get(name) for line in lines.each()]
        check_exact_numbers(name, whole_numbers(values))


def _are_objects(lines: TextLines) -> bool:
    """Whether each line begins and ends as an object does.

    Then none is without an object, and no object goes on in the next line: what
    follows on a brace that does not end it is no brace. So as many objects as lines
    mean one in each.
    """
    data = np.frombuffer(lines.data, np.uint8)
    first, last = data[lines.starts], data[lines.ends - 1]
    others = np.flatnonzero((first != ord("{")) | (last != ord("}")))
    if not len(others):
        return True
    stripped = [line.strip(b" \t\r") for line in lines.take(others).each()]
    return all(one.startswith(b"{") and one.endswith(b"}") for one in stripped)


def _table(data: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
    read = pajson.ReadOptions(use_threads=False, block_size=len(data) + 1)
    options = pajson.ParseOptions(
        explicit_schema=pa.schema(list(types.items())),
        unexpected_field_behavior="ignore",
    )
    return pajson.read_json(io.BytesIO(data), read, options)
