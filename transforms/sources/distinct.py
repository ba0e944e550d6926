"""Find what is wrong with many lines by judging each of their different values once.

Where many lines are bad, parsing each of them alone takes a hundred times as long as
parsing sound lines together. Most bad values are told without parsing their lines:
Arrow's casts read text as its parsers of CSV and JSON do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
import pyarrow as pa

from transforms.errors.halving import by_halves
from transforms.sources.line_rows import TextLines

Value = TypeVar("Value", bound=Hashable)


def add_faults(
    faults: np.ndarray,
    lines: TextLines,
    values: Sequence[Value],
    parse: Callable[[TextLines], object],
    judge: Callable[[Value], str] = lambda _: "",
) -> None:
    """Find what is wrong with lines by one of their values.

    Args:
      faults: what is wrong with each line so far, an object array of text `[lines]`,
        empty where nothing is known; is added to.
      lines: the lines.
      values: a value of each line, upon which alone depends what `parse` says of it.
      parse: raises a ValueError if one of some lines is bad.
      judge: says what `parse` would say of a line with a value; empty text if the value
        is sound, or if only `parse` can tell. `parse` is asked about the first bad
        value: if it says something else, the others are not believed.
    """
    chosen = np.flatnonzero(faults == "")
    if not len(chosen) or not complaint(parse, lines.take(chosen)):
        return
    codes_of: dict[Value, int] = {}
    codes = [codes_of.setdefault(values[i], len(codes_of)) for i in chosen.tolist()]
    firsts = lines.take(chosen[np.unique(codes, return_index=True)[1]])
    found = np.array([judge(value) for value in codes_of], object)
    told = np.flatnonzero(found != "")
    if len(told) and complaint(parse, firsts.take(told[:1])) != found[told[0]]:
        found[told] = ""
    rest = np.flatnonzero(found == "")

    def together(some: np.ndarray) -> None:
        parse(firsts.take(rest[some]))

    def alone(one: int, error: Exception) -> None:
        found[rest[one]] = str(error)

    for _ in by_halves(len(rest), together, (ValueError,), alone):
        pass
    faults[chosen] = found[codes]


def complaint(parse: Callable[[TextLines], object], lines: TextLines) -> str:
    """Give what a parser says of lines; empty text if they are sound."""
    try:
        parse(lines)
    except ValueError as error:
        return str(error)
    return ""


def is_refused(text: str, kind: pa.DataType) -> bool:
    """Whether Arrow cannot cast text to a type; to times, with a zone or without."""
    kinds = [pa.timestamp("us")] if pa.types.is_timestamp(kind) else []
    for one in [kind, *kinds]:
        with contextlib.suppress(ValueError):
            pa.scalar(text, pa.string()).cast(one)
            return False
    return True
