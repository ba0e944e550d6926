"""Named limits -> what of two tables is beyond them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.diff.columns import ColumnDiff
from transforms.lookup import ConfigError, nearest

if TYPE_CHECKING:
    from pipeline.diff.tables import Diff


@dataclass(frozen=True, slots=True)
class _Measure:
    """Something of a column that can be limited.

    Attributes:
      of: gives it; None where it could not be measured.
      at_least: whether the limit is the least that it may be, else the most.
      vectors: whether only vectors have it, not single numbers.
    """

    of: Callable[[ColumnDiff], float | None]
    at_least: bool = True
    vectors: bool = False


_MEASURES = {
    "equal": _Measure(lambda c: c.pairs.equal),
    "cosine": _Measure(lambda c: c.pairs.cosine, vectors=True),
    "overlap": _Measure(lambda c: c.pairs.overlap, vectors=True),
    "cka": _Measure(lambda c: c.pairs.cka),
    "drift": _Measure(lambda c: c.drift, at_least=False),
    "auc": _Measure(lambda c: c.auc, at_least=False),
}
LIMITS = ("rows", *_MEASURES)
"""Names of limits: of `rows` the share that only one table has; others of columns."""


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """Read limits from a command line.

    Args:
      texts: each `name=value`.

    Raises:
      ConfigError: one is no such text.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(
                f"--limit must be NAME=VALUE with a number, got {text!r}"
            ) from None
    check_limits(found)
    return found


def check_limits(limits: Mapping[str, float]) -> None:
    """See that limits have names that are known, and values.

    Raises:
      ConfigError: they do not.
    """
    for name, value in limits.items():
        if name not in LIMITS:
            raise ConfigError(
                f"a limit must be one of {', '.join(LIMITS)}, got {name!r}"
                f"{nearest(name, LIMITS)}"
            )
        if not math.isfinite(value):
            raise ConfigError(f"limit {name} must be a finite number, got {value}")


def beyond(diff: Diff, limits: Mapping[str, float]) -> Iterator[str]:
    """Say what is beyond limits, a sentence each.

    What could not be measured is beyond its limit, and so is a computed column of
    numbers that only one table has: a gate lets nothing pass that it has not seen.
    """
    share = diff.rows.share
    if share > limits.get("rows", 1):
        yield f"rows must be at most {limits['rows']:g}, got {share:.4g}"
    limited = [name for name in _MEASURES if name in limits]
    measured = {column.name for column in diff.columns}
    for one in diff.schema if limited else ():
        if one.computed and one.column not in measured:
            yield f"{one.sentence()}: it cannot be held to limits"
    for name in limited:
        yield from _beyond(diff.columns, name, limits[name])


def _beyond(columns: Sequence[ColumnDiff], name: str, limit: float) -> Iterator[str]:
    measure = _MEASURES[name]
    way = "at least" if measure.at_least else "at most"
    able = [c for c in columns if not measure.vectors or c.widths != (1, 1)]
    if not able:
        yield f"{name} must be {way} {limit:g}, but no column has it"
    for column in able:
        value = measure.of(column)
        said = f"{name} of column {column.name} must be {way} {limit:g}"
        if value is None:
            yield f"{said}, it could not be measured"
        elif value < limit if measure.at_least else value > limit:
            yield f"{said}, got {value:.4g}"
