"""Read CSV files, a row for each line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from transforms.dtypes import Feature
from transforms.lookup import ConfigError
from transforms.sources.arrow import arrow_type, features_of
from transforms.sources.csv_blame import CsvBlame
from transforms.sources.line_rows import (
    Blame,
    Parser,
    TextLines,
    check_finite,
    flat,
    parsed_as,
)
from transforms.sources.lines import BOM, Lines
from transforms.sources.numerals import (
    check_exact,
    check_unmarked,
    instants,
    kept_type,
    may_be_inexact,
    may_be_marked,
)

_NUMBER = "\0number"  # no header has such a name
_CHARACTERS = ("delimiter", "quote", "escape", "decimal")
_MULTILINE = "; source.multiline = true reads fields that hold line ends"


@dataclass(frozen=True)
class Csv(Lines):
    """CSV files: numbers and text.

    Attributes:
      path: path, directory or glob, one or a list; on any filesystem; also `.gz`,
        `.bz2` and `.xz`, which are read as a whole.
      features: column to dtype; only these columns are read. If absent, all columns
        are, and their types are taken from the head of the first file.
      columns: names of the columns, for files without a header line. If absent, the
        first line of each file names them.
      delimiter: character between fields.
      quote: character around fields that hold delimiters or quotes; empty text if
        quotes have no meaning.
      escape: character that takes the meaning of the one after it, such as a backslash;
        empty text if there is none. A quote in a field may be doubled in any case.
      decimal: character between the whole and the fraction of a number.
      multiline: whether quoted fields may hold line ends. Such files are not cut into
        spans: each is read as a whole by one worker.
      encoding: encoding of the files' text.
      max_line_bytes: a longer line is a bad row.
    """

    columns: list[str] | None = None
    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    decimal: str = "."
    multiline: bool = False

    _text_may_be_null: ClassVar[bool] = False  # an empty field is empty text

    @property
    def _starts_with_header(self) -> bool:  # type: ignore[override]
        return self.columns is None

    @property
    def _quote(self) -> str:  # type: ignore[override]
        return self.quote

    @property
    def _escape(self) -> str:  # type: ignore[override]
        return self.escape

    @property
    def _joins_lines(self) -> bool:  # type: ignore[override]
        return self.multiline

    def __post_init__(self) -> None:
        """Refuse characters that cannot be told apart.

        Raises:
          ConfigError: an option is not one ASCII character, or two are the same.
        """
        options = {n: getattr(self, n) for n in _CHARACTERS}
        for name, given in options.items():
            if not (len(given) == 1 and given.isascii()) and (
                given or name in ("delimiter", "decimal")
            ):
                raise ConfigError(
                    f"source.{name} must be one ASCII character, got {given!r}"
                )
        used = [given for given in options.values() if given]
        if len(set(used)) < len(used):
            said = ", ".join(f"{name} = {given!r}" for name, given in options.items())
            raise ConfigError(
                f"{', '.join(_CHARACTERS)} of a source must differ, got {said}"
            )

    def _given(self) -> dict[str, Feature]:
        given = super()._given()
        for name, feature in given.items():
            if feature.shape or feature.dtype == "bytes":
                raise ConfigError(
                    f"source.features.{name} must be a number, text, bool or timestamp:"
                    " a field of a CSV file holds one value (preprocessing step stack"
                    " makes vectors)"
                )
        uri, _ = self._head()
        names = self._names(self._first_line(uri))
        for name in given:
            if name not in names:
                raise ConfigError(
                    f"source.features must name columns of {uri!r}, got {name!r}"
                    f" (columns: {', '.join(names)})"
                )
        return given

    def _infer(self, lines: bytes) -> dict[str, Feature]:
        names = self._names(lines.partition(b"\n")[0].decode().rstrip("\r"))
        if not names:
            raise ValueError("its first line names no columns")
        lines = lines if self.columns else lines.partition(b"\n")[2]
        if not lines.strip():
            raise ValueError("it has no line after the header")
        read = pacsv.ReadOptions(column_names=names, block_size=len(lines) + 1)
        convert = pacsv.ConvertOptions(null_values=[""], decimal_point=self.decimal)
        options = (self._parse_options(), convert)
        guessed = pacsv.read_csv(io.BytesIO(lines), read, *options).schema
        texts = self._table(lines, names, dict.fromkeys(names, pa.string()))
        kept = [(f.name, kept_type(f.type, texts[f.name])) for f in guessed]
        return features_of(pa.schema(kept), {})

    def _parser(self, first_line: str, features: Mapping[str, Feature]) -> Parser:
        names = self._names(first_line)
        wanted = [name for name in names if name in features] or names[:1]
        types = {name: _csv_type(features.get(name)) for name in wanted}
        floats = [name for name in wanted if pa.types.is_floating(types[name])]
        times = [n for n in wanted if n in features and features[n].family == "time"]
        filled = [n for n in wanted if n in features and features[n].fill is not None]

        def parse(lines: TextLines) -> pa.Table:
            self._check_ends(lines)
            table = self._read(lines, names, types)
            for name in times:
                place = table.column_names.index(name)
                table = table.set_column(place, name, instants(table[name]))

            def texts(name: str) -> pa.ChunkedArray:
                return self._read(lines, names, {name: pa.string()})[name]

            for name in floats:
                self._check_floats(name, features[name], table[name], texts)
            if self.features is None and may_be_marked(lines.text()):
                for name in wanted:
                    if pa.types.is_integer(types[name]):
                        check_unmarked(name, texts(name))
            return _without_empty_text(table, filled)

        return parse

    def _blame(self, first_line: str, features: Mapping[str, Feature]) -> Blame:
        names = self._names(first_line)
        kinds = {n: _csv_type(features[n]) for n in names if n in features}
        ranks = {"time": 0, "float": 1}  # in which order the parser checks columns
        checked = sorted(kinds, key=lambda n: ranks.get(features[n].family, 2))
        return CsvBlame(
            names,
            kinds,
            {n: self._parser(first_line, {n: features[n]}) for n in checked},
            [name for name in checked if features[name].family == "time"],
            self.decimal,
            self._unended,
            self._read,
            self._of_other_widths,
        )

    def _of_other_widths(
        self, lines: TextLines, names: Sequence[str]
    ) -> list[tuple[int, int]]:
        """List the lines that have not as many fields as columns, and how many.

        Raises:
          ValueError: the rows that Arrow finds are not the lines.
        """
        found: list[tuple[int, int]] = []

        def skip(row: pacsv.InvalidRow) -> str:
            found.append((row.number - 1, row.actual_columns))
            return "skip"

        options = self._parse_options()
        options.invalid_row_handler = skip
        # Text of rows in another encoding than UTF-8 does not reach the handler.
        data = b"\n" + lines.text()
        table = self._table(data, names, {names[0]: pa.binary()}, options, "latin-1")
        if len(table) + len(found) != len(lines):
            raise ValueError("a line is not one row")
        return found

    def _check_floats(
        self,
        name: str,
        feature: Feature,
        column: pa.ChunkedArray,
        texts: Callable[[str], pa.ChunkedArray],
    ) -> None:
        """See that floats are what their text says.

        Raises:
          ValueError: one became infinite, or is of a type that was not asked for and
            does not hold it.
        """
        made = flat(column)
        if np.isinf(made).any():
            said = texts(name)
            meant = flat(pc.match_substring(said, "inf", ignore_case=True))
            check_finite(name, feature.dtype, made, flat(said), meant)
        if self.features is None and (doubtful := may_be_inexact(made)).any():
            check_exact(name, texts(name).filter(pa.array(doubtful)))

    def _check_ends(self, lines: TextLines) -> None:
        """See that no line ends within a field.

        Raises:
          ValueError: one does.
        """
        if len(faults := np.flatnonzero((found := self._unended(lines)) != "")):
            raise ValueError(found[faults[0]])

    def _unended(self, lines: TextLines) -> np.ndarray:
        """Tell which lines end within a field: an object array of text `[lines]`."""
        cure = "" if self.multiline else _MULTILINE
        faults = np.full(len(lines), "", object)
        if self.escape:
            taken = lines.end_escaped(self.escape)
            faults[taken] = f"ends in the escape character{cure}"
        if self.quote:
            open_ = lines.count(self.quote, escape=self.escape) % 2 == 1
            faults[open_] = f"has an opening quote without a closing one{cure}"
        return faults

    def _read(
        self, lines: TextLines, names: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> pa.Table:
        """Parse some columns of lines.

        Arrow takes a carriage return, and what it holds for the end of a quote, for
        the end of a row. So where lines hold line ends, each is parsed behind its
        number, and rows that do not have the numbers of the lines are refused.

        Raises:
          ValueError: a line is bad.
        """
        if len(lines) == 1 or not lines.count("\r", "\n").any():
            data = lines.text()
            if data.startswith(BOM):  # Arrow would pass over it
                data = b"\n" + data
            return self._table(data, names, types)
        head, each = self.delimiter.encode(), lines.each()
        if not all(one.strip(b"\r\n") for one in each):  # alone it is no row
            raise ValueError("holds nothing but line ends")
        numbered = [b"%d%s%s" % (i, head, one) for i, one in enumerate(each)]
        table = self._table(
            b"\n".join(numbered), [_NUMBER, *names], {_NUMBER: pa.int64(), **types}
        )
        if table[_NUMBER].to_pylist() != list(range(len(lines))):
            raise ValueError("holds a line end that is not quoted")
        return table.drop_columns([_NUMBER])

    def _table(
        self,
        data: bytes,
        names: Sequence[str],
        types: Mapping[str, pa.DataType],
        options: pacsv.ParseOptions | None = None,
        encoding: str = "utf-8",
    ) -> pa.Table:
        read = pacsv.ReadOptions(
            use_threads=False,
            column_names=list(names),
            block_size=2 * len(data) + 1,
            encoding=encoding,
        )
        convert = pacsv.ConvertOptions(
            column_types=dict(types),
            include_columns=list(types),
            null_values=[""],
            strings_can_be_null=False,
            decimal_point=self.decimal,
        )
        options = options or self._parse_options()
        return pacsv.read_csv(io.BytesIO(data), read, options, convert)

    def _names(self, first_line: str) -> list[str]:
        names = self.columns
        if names is None:
            head = csv.reader(
                [first_line],
                delimiter=self.delimiter,
                quotechar=self.quote or None,
                quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
                escapechar=self.escape or None,
            )
            try:
                names = next(head, [])
            except csv.Error as error:
                raise ConfigError(
                    f"the header line must name columns, got {first_line[:80]!r}:"
                    f" {error}; correct the file, or give source.columns"
                ) from error
        if len(set(names)) < len(names):
            raise ConfigError(
                f"columns must have names of their own, got {names}; correct the header"
                " line, or give source.columns"
            )
        return list(names)

    def _parse_options(self) -> pacsv.ParseOptions:
        return pacsv.ParseOptions(
            delimiter=self.delimiter,
            quote_char=self.quote or False,
            escape_char=self.escape or False,
            newlines_in_values=self.multiline,
        )


def _without_empty_text(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Put nulls where fields of some columns are empty, also if they hold text."""
    for name in names:
        column = table[name]
        if pa.types.is_string(column.type):
            none = pa.scalar(None, column.type)
            column = pc.if_else(pc.equal(column, ""), none, column)
            table = table.set_column(table.column_names.index(name), name, column)
    return table


def _csv_type(feature: Feature | None) -> pa.DataType:
    """Give the type as which Arrow parses a column: times are made of their text."""
    if feature is None or feature.family == "time":
        return pa.string()
    return arrow_type(parsed_as(feature))
