"""Tell of many lines of CSV at once which of them are bad, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from transforms.sources.distinct import add_faults, complaint, is_refused
from transforms.sources.line_rows import Parser, TextLines
from transforms.sources.numerals import no_instant

_Types = Mapping[str, pa.DataType]


@dataclass(frozen=True, slots=True)
class CsvBlame:
    """Counts the fields of lines, then judges each text of a column once.

    Attributes:
      names: of all columns.
      kinds: column to the type as which Arrow parses it; of the columns that are read,
        in the order of `names`.
      parsers: column to what parses and checks it alone, in the order in which the
        columns are checked after all were converted.
      times: the columns that hold times, which are parsed as text.
      decimal: character between the whole and the fraction of a number.
      unended: tells which lines end within a field, text `[lines]`.
      read: parses some columns; raises a ValueError if a line is bad.
      of_other_widths: lists the lines that have not as many fields as there are
        columns, and how many; raises a ValueError if a line is not one row.
    """

    names: Sequence[str]
    kinds: _Types
    parsers: Mapping[str, Parser]
    times: Collection[str]
    decimal: str
    unended: Callable[[TextLines], np.ndarray]
    read: Callable[[TextLines, Sequence[str], _Types], pa.Table]
    of_other_widths: Callable[[TextLines, Sequence[str]], list[tuple[int, int]]]

    def __call__(self, lines: TextLines) -> np.ndarray:
        """Tell what is wrong with lines, as `transforms.sources.line_rows.Blame`."""
        faults = self.unended(lines)
        try:
            fit = self._fit(lines, faults)
        except ValueError:  # a line is not one row, or not of the encoding
            return faults
        if len(fit) and self.kinds:
            faults[fit] = self._by_texts(lines.take(fit))
        return faults

    def _fit(self, lines: TextLines, faults: np.ndarray) -> np.ndarray:
        """Tell of lines that have too few fields, or too many.

        Args:
          lines: the lines.
          faults: what is wrong with each line so far, text `[lines]`; is added to.

        Returns:
          The lines that have as many fields as columns, rising, int64 `[n]`.

        Raises:
          ValueError: the rows that Arrow finds are not the lines.
        """
        chosen = np.flatnonzero((faults == "") & (lines.count("\r", "\n") == 0))
        if not len(chosen):
            return chosen
        some = lines.take(chosen)
        said = some.each()
        expected = f"CSV parse error: Row #1: Expected {len(self.names)} columns"
        told = {
            row: f"{expected}, got {width}: {_cut(said[row])}"
            for row, width in self.of_other_widths(some, self.names)
        }
        wrong = np.array([*told], np.int64)
        read = self._reader(self.names[0], pa.string())
        if told and complaint(read, some.take(wrong[:1])) != told[wrong[0]]:
            raise ValueError("the parser of one line has other words")
        faults[chosen[wrong]] = [*told.values()]
        return np.delete(chosen, wrong)

    def _by_texts(self, lines: TextLines) -> np.ndarray:
        faults = np.full(len(lines), "", object)
        table = self.read(lines, self.names, dict.fromkeys(self.kinds, pa.binary()))
        texts = {name: table[name].to_pylist() for name in self.kinds}
        for name, kind in self.kinds.items():
            says = partial(self._refusal, kind=kind, place=self.names.index(name))
            add_faults(faults, lines, texts[name], self._reader(name, kind), says)
        for name, parse in self.parsers.items():
            judges = [_no_instant] if name in self.times else []
            add_faults(faults, lines, texts[name], parse, *judges)
        return faults

    def _reader(self, name: str, kind: pa.DataType) -> Parser:
        return lambda lines: self.read(lines, self.names, {name: kind})

    def _refusal(self, text: bytes, kind: pa.DataType, place: int) -> str:
        """Say as Arrow's parser does that a field cannot be converted."""
        said = f"In CSV column #{place}: Row #1: CSV conversion error to {kind}: "
        if pa.types.is_string(kind):
            return "" if _is_utf8(text) else f"{said}invalid UTF8 data"
        shown = text.decode(errors="replace")
        if not pa.types.is_boolean(kind):
            shown = shown.strip(" \t")
        point = self.decimal if pa.types.is_floating(kind) else "."
        swapped = shown.translate({ord(point): ".", ord("."): point})
        is_bad = text and is_refused(swapped, kind)
        return f"{said}invalid value '{shown}'" if is_bad else ""


def _cut(line: bytes) -> str:
    """Give a line as Arrow's messages do."""
    shown = line if len(line) <= 100 else line[:96] + b" ..."
    return shown.decode(errors="replace")


def _is_utf8(text: bytes) -> bool:
    return text.decode(errors="ignore").encode() == text


def _no_instant(text: bytes) -> str:
    """Say why text is no time; empty text if it is one, or null."""
    return no_instant(text.decode()) if text else ""
