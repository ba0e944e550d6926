"""Turn the lines that were found in a text file into rows, each line into its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from transforms.dtypes import Feature
from transforms.errors.halving import by_halves
from transforms.sources.arrow import arrow_type, blocks_of
from transforms.sources.blocks import Block

ROW_ID = "row_id"


@dataclass(frozen=True, slots=True)
class TextLines:
    """Some lines of a file, at least one.

    Attributes:
      name: the file's name, with which keys begin.
      data: bytes that hold the lines one after the other, and perhaps others before and
        after them.
      starts: first byte in `data` of each line, int64 `[lines]`.
      ends: byte after each line, its line end not counted, int64 `[lines]`.
      places: first byte in the file of each line, int64 `[lines]`.
      as_utf8: turns bytes of whole lines into UTF-8; raises a ValueError if they are
        not of the encoding that the file should have.
    """

    name: str
    data: bytes
    starts: np.ndarray
    ends: np.ndarray
    places: np.ndarray
    as_utf8: Callable[[bytes], bytes]

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> TextLines:
        """Make lines that stand in no file, given in UTF-8."""
        lengths = np.array([len(line) for line in lines], np.int64)
        ends = np.cumsum(lengths + 1) - 1
        starts = ends - lengths
        return cls("", b"\n".join(lines), starts, ends, starts, lambda data: data)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, chosen: np.ndarray) -> TextLines:
        """Keep some lines, by index, rising; copied together if others lie between."""
        starts, ends, places = (
            all_[chosen] for all_ in (self.starts, self.ends, self.places)
        )
        data = self.data
        if len(chosen) and chosen[-1] - chosen[0] >= len(chosen):
            bounds = zip(starts.tolist(), ends.tolist(), strict=True)
            data = b"\n".join([data[start:end] for start, end in bounds])
            lengths = ends - starts
            ends = np.cumsum(lengths + 1) - 1
            starts = ends - lengths
        return replace(self, data=data, starts=starts, ends=ends, places=places)

    def text(self) -> bytes:
        """Give all lines as they stand in the file, in UTF-8."""
        return self.as_utf8(self.data[self.starts[0] : self.ends[-1]])

    def each(self) -> list[bytes]:
        """Give the lines one by one, in UTF-8."""
        bounds = zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [self.as_utf8(self.data[start:end]) for start, end in bounds]

    def count(self, *characters: str, escape: str = "") -> np.ndarray:
        """Count ASCII characters in each line that are not escaped, int64 `[lines]`."""
        first = int(self.starts[0])
        values = np.frombuffer(self.data, np.uint8)[first : int(self.ends[-1])]
        found = np.logical_or.reduce([values == ord(c) for c in characters])
        if escape:
            found &= ~escaped(values, escape)[:-1]
        places = np.flatnonzero(found) + first
        line = np.searchsorted(self.starts, places, side="right") - 1
        return np.bincount(line[places < self.ends[line]], minlength=len(self))

    def end_escaped(self, escape: str) -> np.ndarray:
        """Tell of which lines an escape takes the end, bool `[lines]`."""
        first = int(self.starts[0])
        values = np.frombuffer(self.data, np.uint8)[first : int(self.ends[-1])]
        taken: np.ndarray = escaped(values, escape)[self.ends - first]
        return taken


def escaped(values: np.ndarray, escape: str) -> np.ndarray:
    """Tell which bytes stand behind a character that takes their meaning.

    Args:
      values: bytes that begin where a line does, uint8 `[bytes]`.
      escape: the character.

    Returns:
      bool `[bytes + 1]`, the last for the byte that would follow.
    """
    places = np.arange(len(values))
    others = np.where(values == ord(escape), -1, places)
    run = places - np.maximum.accumulate(others)  # of escapes, up to each byte
    return np.concatenate([[False], run % 2 == 1])


Parser = Callable[[TextLines], pa.Table]
"""Makes an Arrow table of lines, in which each row comes of a line of its own.

Raises a ValueError if one of the lines is bad, or if it cannot tell that of a row.
"""

Blame = Callable[[TextLines], np.ndarray]
"""Tells what is wrong with lines, an object array of text `[lines]`.

The text is what the parser says of the line alone; it is empty for sound lines, and
where only the parser can tell.
"""


def rows_of(
    parse: Parser,
    blame: Blame,
    lines: TextLines,
    rows: np.ndarray,
    features: Mapping[str, Feature],
) -> Iterator[Block]:
    """Parse lines; those that cannot be parsed become rows with a fault.

    Args:
      parse: makes a row of each line.
      blame: tells of many lines at once which cannot be parsed.
      lines: the lines.
      rows: their numbers within their piece, int64 `[lines]`.
      features: the features to read.
    """

    def together(chosen: np.ndarray) -> Sequence[Block]:
        table, faults = _but_for_blamed(parse, blame, lines.take(chosen), features)
        sound = np.flatnonzero(faults == "")
        if not len(sound):
            block = Block.of_faults(rows[chosen], "", features)
            return [replace(block, faults=faults)]
        if len(sound) == len(chosen):
            return list(blocks_of(table, rows[chosen], features))
        places = np.searchsorted(sound, np.arange(len(chosen)))
        filled = table.take(pa.array(places, mask=faults != ""))
        blocks = blocks_of(filled, rows[chosen], features)
        return [_blamed(block, rows[chosen], faults) for block in blocks]

    def alone(line: int, error: Exception) -> Sequence[Block]:
        return [Block.of_faults(rows[[line]], str(error), features)]

    for blocks in by_halves(len(rows), together, (ValueError,), alone):
        yield from blocks


def _but_for_blamed(
    parse: Parser, blame: Blame, lines: TextLines, features: Mapping[str, Feature]
) -> tuple[pa.Table, np.ndarray]:
    """Parse lines together, without those that are known to be bad.

    Returns:
      A table of the others, and what is wrong with each line, text `[lines]`.

    Raises:
      ValueError: another line is bad.
    """
    try:
        return _table(parse, lines, features), np.full(len(lines), "", object)
    except ValueError:
        if len(lines) == 1:
            raise
    faults = _faults(blame, lines)
    sound = np.flatnonzero(faults == "")
    if len(sound) == len(lines):
        raise ValueError("only parsing tells which line is bad")
    table = _table(parse, lines.take(sound), features) if len(sound) else None
    return table, faults


def _faults(blame: Blame, lines: TextLines) -> np.ndarray:
    """Say of each line what its fault is and where it lies: text `[lines]`."""
    faults = blame(lines)
    for line in np.flatnonzero(faults != ""):
        faults[line] = _at(lines, int(line), faults[line])
    return faults


def _at(lines: TextLines, line: int, error: object) -> str:
    return f"the line at byte {lines.places[line]}: {error}"


def _blamed(block: Block, rows: np.ndarray, faults: np.ndarray) -> Block:
    """Put the faults of lines into a block, in which these have no values."""
    found = faults[np.searchsorted(rows, block.rows)]
    return replace(block, faults=np.where(found != "", found, block.faults))


def sound_lines(parse: Parser, blame: Blame, lines: TextLines) -> list[bytes]:
    """Give the lines that can be parsed, one by one, in UTF-8."""
    each = [lines.take(np.array([line])) for line in range(len(lines))]
    lines = lines.take(np.flatnonzero([_is_text(line) for line in each]))

    def together(chosen: np.ndarray) -> list[bytes]:
        some = lines.take(chosen)
        _, faults = _but_for_blamed(parse, blame, some, {})
        sound = np.flatnonzero(faults == "")
        return some.take(sound).each()

    found = by_halves(len(lines), together, (ValueError,), lambda *_: None)
    return [line for some in found for line in some]


def _is_text(line: TextLines) -> bool:
    try:
        line.text().decode()
    except ValueError:
        return False
    return True


def parsed(parse: Parser, lines: TextLines) -> pa.Table:
    """Parse some lines into as many sound rows.

    Raises:
      ValueError: one of them is bad.
    """
    table = parse(lines)
    table.validate(full=True)
    if len(table) != len(lines):
        raise ValueError(f"holds {len(table)} values instead of one")
    return table


def _table(
    parse: Parser, lines: TextLines, features: Mapping[str, Feature]
) -> pa.Table:
    """Parse some lines, and add their keys.

    Raises:
      ValueError: one of them is bad.
    """
    try:
        table = _halved(parsed(parse, lines), features)
    except ValueError as error:
        raise ValueError(_at(lines, 0, error)) from None
    ids = pa.array(lines.places).cast(pa.string())
    keys = pc.binary_join_element_wise(lines.name, ids, "@")
    return table.append_column(ROW_ID, keys)


def parsed_as(feature: Feature) -> Feature:
    """Give the feature as Arrow parses it: it cannot parse float16, only float32."""
    return replace(feature, dtype=feature.dtype.replace("float16", "float32"))


def _halved(table: pa.Table, features: Mapping[str, Feature]) -> pa.Table:
    """Cast the columns that were parsed for features of float16.

    Raises:
      ValueError: a number would become infinite.
    """
    for index, name in enumerate(table.column_names):
        if name in features and features[name].dtype == "float16":
            made = table[name].cast(arrow_type(features[name]))
            given = flat(table[name])
            check_finite(name, "float16", flat(made), given, np.isinf(given))
            table = table.set_column(index, name, made)
    return table


def flat(column: pa.ChunkedArray) -> np.ndarray:
    """Give the numbers of a column, or of a column of lists, one after the other."""
    while pa.types.is_list(column.type):
        column = pc.list_flatten(column)
    return np.asarray(column.to_numpy())


def check_finite(
    name: str, dtype: str, made: np.ndarray, stored: np.ndarray, meant: np.ndarray
) -> None:
    """See that no number became infinite when it was rounded.

    Args:
      name: of the feature.
      dtype: of the feature.
      made: the numbers, `[n]`.
      stored: the same as they are stored, `[n]`.
      meant: which of them are infinite where they are stored, bool `[n]`.

    Raises:
      ValueError: another one is infinite.
    """
    wrong = np.isinf(made) & ~meant
    if wrong.any():
        raise ValueError(
            f"{name} must hold values that fit into {dtype}, got {stored[wrong][0]}"
        )
