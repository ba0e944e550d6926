"""Tell of many lines of JSON at once which of them are bad, and why."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.sources.distinct import add_faults, complaint, is_refused
from transforms.sources.line_rows import Parser, TextLines, parsed
from transforms.sources.numerals import leaves, with_text
from transforms.sources.outline import outline

GIVES_NUMBER = re.compile(r"changed from string to number in row")
"""Finds what Arrow's parser says where a number stands in place of text."""

_OF_OUTLINES = ("JSON parse error: ", "holds ")  # what is said before conversion


@dataclass(frozen=True, slots=True)
class JsonBlame:
    """Parses each outline of lines once, then judges each value of a key once.

    Attributes:
      types: key to Arrow type, of the keys that are read.
      texts: those of the keys that hold text, for which numbers do too.
      parser: parses and checks lines.
      parsers: key to what parses and checks it alone, of those that hold floats.
      table: parses bytes of lines into a table of some types.
    """

    types: Mapping[str, pa.DataType]
    texts: Collection[str]
    parser: Parser
    parsers: Mapping[str, Parser]
    table: Callable[[bytes, Mapping[str, pa.DataType]], pa.Table]

    def __call__(self, lines: TextLines) -> np.ndarray:
        """Tell what is wrong with lines, as `transforms.sources.line_rows.Blame`."""
        try:
            said = lines.each()
        except ValueError:  # of which line the encoding is another is not known
            return np.full(len(lines), "", object)
        faults = self._by_outlines(lines, said)
        rest = np.flatnonzero(faults == "")
        if len(rest) and complaint(partial(parsed, self.parser), lines.take(rest)):
            rows = {line: row for line in rest.tolist() if (row := _row(said[line]))}
            if rows:
                some = lines.take(np.array([*rows]))
                faults[[*rows]] = self._by_values(some, [*rows.values()])
        return faults

    def _by_outlines(self, lines: TextLines, said: Sequence[bytes]) -> np.ndarray:
        """Tell what is said of lines before their values are converted."""
        whole = partial(parsed, self._reader(self.types))
        faults = _of_outlines(said, whole)
        if not self.texts:
            return faults
        numbers = [i for i, fault in enumerate(faults) if GIVES_NUMBER.search(fault)]
        others = self._reader(self._others())
        faults[numbers] = _of_outlines([said[i] for i in numbers], others)
        rewritten = {}
        for line in numbers:
            if not faults[line]:
                try:
                    (rewritten[line],) = with_text([said[line]], [*self.texts])
                except ValueError as error:
                    faults[line] = str(error)
        faults[[*rewritten]] = _of_outlines([*rewritten.values()], whole)
        for line in rewritten:  # of which the parser converts other values first
            if faults[line]:
                alone = lines.take(np.array([line]))
                faults[line] = complaint(partial(parsed, self.parser), alone)
        return faults

    def _by_values(
        self, lines: TextLines, rows: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """Tell what is said of values, of lines whose outlines are sound."""
        values = {
            name: [tuple(leaves([row.get(name)])) for row in rows]
            for name in self.types
        }
        faults = np.full(len(lines), "", object)
        for name, kind in self._others().items():
            says = partial(_refusal, kind=_leaf(kind))
            add_faults(faults, lines, values[name], self._reader({name: kind}), says)
        for name, parse in self.parsers.items():
            add_faults(faults, lines, values[name], parse)
        for name in self.texts:
            says = partial(_not_utf8, place=[*self.types].index(name))
            parse = partial(parsed, self.parser)
            add_faults(faults, lines, values[name], parse, says)
        return faults

    def _others(self) -> dict[str, pa.DataType]:
        return {n: kind for n, kind in self.types.items() if n not in self.texts}

    def _reader(self, types: Mapping[str, pa.DataType]) -> Parser:
        return lambda lines: self.table(lines.text(), types)


def _of_outlines(said: Sequence[bytes], parse: Parser) -> np.ndarray:
    """Parse each outline of lines once; what is said of values does not count."""
    faults = np.full(len(said), "", object)
    if outlines := [*map(outline, said)]:
        add_faults(faults, TextLines.of(outlines), outlines, parse)
    told = [fault.startswith(_OF_OUTLINES) for fault in faults]
    return np.where(told, faults, "")


def _row(line: bytes) -> dict[str, Any] | None:
    """Parse a line with numbers as they are written; None if it holds no object.

    Bytes that are not UTF-8 become surrogates.
    """
    with contextlib.suppress(ValueError, RecursionError):
        text = line.decode(errors="surrogateescape")
        row = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
        return row if isinstance(row, dict) else None
    return None


def _leaf(kind: pa.DataType) -> pa.DataType:
    while pa.types.is_list(kind):
        kind = kind.value_type
    return kind


def _refusal(values: Sequence[Any], kind: pa.DataType) -> str:
    """Say as Arrow's parser does that a value cannot be converted."""
    for value in values:
        if isinstance(value, str) and is_refused(value, kind):
            shown = value.encode(errors="surrogateescape").decode(errors="replace")
            return f"Failed to convert JSON to {kind}, couldn't parse:{shown}"
    return ""


def _not_utf8(values: Sequence[Any], place: int) -> str:
    """Say as Arrow does that text of a column is not UTF-8."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        said = "Invalid: Invalid UTF8 sequence at string index 0"
        return f"Column {place}: In chunk 0: {said}"
    return ""
