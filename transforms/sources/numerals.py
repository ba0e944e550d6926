"""Tell which text of a file a number or a time would not give back as it is written.

Such are zip codes (`00123`), phone numbers (`+49123`), ids of 20 digits, and dates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_EXACT = 2**53  # up to here float64 has all whole numbers
_WHOLE = r"^\s*[+-]?(\d+|0[xX][\da-fA-F]+)\s*$"
_MARKED = r"^\s*(\+|-?0[\dxX])"
_ZONE = r"^\S{10}.+(Z|[+-]\d\d(:?\d\d)?)$"  # behind a date and a time
_LONG = r"^\s*-?\d{16,}\s*$"


def kept_type(kind: pa.DataType, texts: pa.ChunkedArray) -> pa.DataType:
    """Choose the type of a column: text, where another would lose what is written.

    A plus sign or zeros in front count where all values are whole numbers; among
    fractions, as in `+1.5`, they are a way to write numbers. Times with a zone are
    moments, whatever their zone; dates and other times may be names of something.

    Args:
      kind: the type that Arrow takes the column for.
      texts: the same values as they are written; empty where there is none.
    """
    if pa.types.is_temporal(kind):
        return kind if getattr(kind, "tz", None) else pa.string()
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_integer(kind) and len(_marked(texts)):
        return pa.string()
    if pa.types.is_floating(kind):
        filled = texts.filter(pc.not_equal(texts, ""))
        whole = pc.all(pc.match_substring_regex(filled, _WHOLE)).as_py()
        if whole or _inexact(_long_numbers(texts)) is not None:
            return pa.string()
    return kind


def instants(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn text into times in UTC; those without a zone are UTC, empty text is null.

    What is less than a microsecond is cut off.

    Raises:
      ValueError: a text is no time.
    """
    none = pa.scalar(None, pa.string())
    texts = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    texts = pc.if_else(pc.equal(texts, ""), none, texts)
    zoned = pc.match_substring_regex(texts, _ZONE)
    utc = pa.timestamp("us", "UTC")
    with_zone = pc.if_else(zoned, texts, none).cast(utc)
    without = pc.if_else(zoned, none, texts).cast(pa.timestamp("us"))
    return pc.coalesce(with_zone, without.cast(utc))


def no_instant(text: str) -> str:
    """Say why `instants` cannot turn text into a time; empty text if it can."""
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    zone = "UTC" if re.search(_ZONE, text) else None
    try:
        pa.scalar(text).cast(pa.timestamp("us", zone))
    except ValueError as error:
        return str(error)
    return ""


def may_be_marked(data: bytes) -> bool:
    """Tell whether numbers in some bytes may have zeros in front; quick."""
    values = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    zeros = np.flatnonzero(values == ord("0"))
    after, before = values[zeros + 1] | 0x20, values[zeros - 1]  # in lower case
    goes_on = _is_digit(values[zeros + 1]) | (after == ord("x"))
    return bool((goes_on & ~_is_digit(before) & (before != ord("."))).any())


def may_be_inexact(numbers: np.ndarray) -> np.ndarray:
    """Tell which floats may have been whole numbers that float64 lacks, `[n]`."""
    found: np.ndarray = np.isfinite(numbers) & (np.abs(numbers) >= _EXACT)
    return found


def check_unmarked(name: str, texts: pa.ChunkedArray) -> None:
    """See that no whole number of a column has zeros in front.

    Raises:
      ValueError: one has.
    """
    if len(found := _marked(texts)):
        raise _would_change(name, str(found[0]))


def check_exact(name: str, texts: pa.ChunkedArray) -> None:
    """See that float64 holds the whole numbers of a column.

    Raises:
      ValueError: it would change one.
    """
    check_exact_numbers(name, _long_numbers(texts))


def check_exact_numbers(name: str, numbers: Iterable[int]) -> None:
    """See that float64 holds whole numbers.

    Raises:
      ValueError: it would change one.
    """
    if (changed := _inexact(numbers)) is not None:
        raise _would_change(name, str(changed))


def kept_json_type(kind: pa.DataType, values: Iterable[Any]) -> pa.DataType:
    """Choose the type of a key of JSON Lines as `kept_type` does.

    Args:
      kind: the type that Arrow takes the values for, or a list of it.
      values: the values, or lists of them, with whole numbers as such.
    """
    if pa.types.is_list(kind):
        return pa.list_(kept_json_type(kind.value_type, values))
    if pa.types.is_temporal(kind):
        zoned = all(re.search(_ZONE, text) for text in leaves(values))
        return pa.timestamp("us", "UTC") if zoned else pa.string()
    if pa.types.is_floating(kind):
        numbers = list(leaves(values))
        whole = whole_numbers(numbers)
        if len(whole) == len(numbers) or _inexact(whole) is not None:
            return pa.string()
    return kind


def whole_numbers(values: Iterable[Any]) -> list[int]:
    """Give the whole numbers among JSON values and in their lists."""
    found = leaves(values)
    return [n for n in found if isinstance(n, int) and not isinstance(n, bool)]


def leaves(values: Iterable[Any]) -> Iterator[Any]:
    """Yield JSON values, and those in their lists; nulls are left out."""
    for value in values:
        if isinstance(value, list):
            yield from leaves(value)
        elif value is not None:
            yield value


def json_object(line: bytes, number: Callable[[str], Any] | None = None) -> Any:
    """Parse a line of JSON Lines.

    Args:
      line: the line.
      number: makes values of numbers, as they are written. If None, they become int
        and float.

    Raises:
      ValueError: the line does not hold an object.
    """
    try:
        row = json.loads(line, parse_int=number, parse_float=number)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("must hold an object")
    return row


def with_text(lines: Sequence[bytes], names: Sequence[str]) -> list[bytes]:
    """Put numbers of some keys of JSON Lines into quotes, digit for digit.

    Raises:
      ValueError: a line does not hold an object.
    """
    made = []
    for line in lines:
        written = json_object(line, str)
        texts = {name: written[name] for name in names if name in written}
        made.append(json.dumps({**json_object(line), **texts}).encode())
    return made


def _would_change(name: str, text: str) -> ValueError:
    """Say that a row has text that the head of the file did not let expect."""
    return ValueError(
        f"{name} must hold numbers, as at the head of the first file, got {text}, which"
        " a number would change; give source.features with the type of each column,"
        " string for this one"
    )


def _marked(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Choose the whole numbers that have a sign or zeros in front."""
    return texts.filter(pc.match_substring_regex(texts, _MARKED))


def _inexact(numbers: Iterable[int]) -> int | None:
    """Give the first whole number that float64 would change; None if there is none."""
    return next((n for n in numbers if float(str(n)) != n), None)


def _long_numbers(texts: pa.ChunkedArray) -> Iterator[int]:
    found = texts.filter(pc.match_substring_regex(texts, _LONG))
    return map(int, found.unique().to_pylist())


def _is_digit(values: np.ndarray) -> np.ndarray:
    return (values >= ord("0")) & (values <= ord("9"))
