"""One gate, one column -> a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from transforms.gate_limits import LengthLimits, Lengths, Limits
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.drift import drift
from transforms.statistics.spread import effective_rank

_EXAMPLES = 3
Outcome = Literal["passed", "warned", "failed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of a column.

    Attributes:
      gate: its name in `[gates]`.
      column: of the table.
      value: what was found; of `norm` the length that is out of its limits.
      warn: limit beyond which it warns, None if nowhere; of `norm` two.
      fail: limit beyond which the run fails, None if nowhere; of `norm` two.
      outcome: `passed`, `warned` or `failed`.
      detail: what the value means, in words.
      examples: keys of rows that show it, as text; there may be none.
    """

    gate: str
    column: str
    value: float
    warn: float | Sequence[float] | None
    fail: float | Sequence[float] | None
    outcome: Outcome
    detail: str
    examples: Sequence[str] = ()

    def sentence(self) -> str:
        """Say it in one sentence."""
        limit = self.fail if self.outcome == "failed" else self.warn
        shown = f" (such as {', '.join(map(repr, self.examples))})"
        return (
            f"gate {self.gate} of column {self.column!r}: {self.detail}"
            f"{shown if self.examples else ''}; the limit is"
            f" {limit_text(limit) or 'none'}"
        )


def limit_text(limit: float | Sequence[float] | None) -> str:
    """Say a limit; nothing if there is none."""
    if isinstance(limit, Sequence):
        return " to ".join(f"{one:g}" for one in limit)
    return "" if limit is None else f"{limit:g}"


def duplicates(spec: Limits, column: ColumnStatistics) -> Verdict:
    """Judge the share of rows whose vector another row has had before."""
    share, most = column.repeats.share, column.repeats.most(_EXAMPLES)
    about = "" if column.repeats.complete else "about "
    detail = f"{about}{share:.2%} of the rows have a vector that another row had before"
    if most:
        detail += f", {most[0].rows} rows have the most frequent one"
    return _above("duplicates", spec, column, share, detail, [one.key for one in most])


def dead_dimensions(spec: Limits, column: ColumnStatistics) -> Verdict:
    """Judge the share of dimensions that have one value in all rows."""
    dead, width = column.constant_dimensions, column.width or 1
    detail = f"{dead} of {width} dimensions have one value in all rows"
    if dead and column.moments is not None:
        first = np.flatnonzero(column.moments.is_constant)[:_EXAMPLES].tolist()
        detail += f" (first: {', '.join(map(str, first))})"
    return _above("dead_dimensions", spec, column, dead / width, detail)


def zero_rows(spec: Limits, column: ColumnStatistics) -> Verdict:
    """Judge the share of rows that are zero in all dimensions."""
    share = column.zero_rows / column.rows
    detail = f"{column.zero_rows} of {column.rows} rows are zero in all dimensions"
    return _above("zero_rows", spec, column, share, detail, column.zeros.keys)


def non_finite(spec: Limits, column: ColumnStatistics) -> Verdict:
    """Judge the share of rows with NaN or infinite values."""
    bad, rows = column.non_finite_rows, column.rows
    detail = f"{bad} of {rows} rows hold NaN or infinite values"
    return _above(
        "non_finite", spec, column, bad / rows, detail, column.non_finite.keys
    )


SHARES: dict[str, Callable[[Limits, ColumnStatistics], Verdict]] = {
    "duplicates": duplicates,
    "dead_dimensions": dead_dimensions,
    "zero_rows": zero_rows,
    "non_finite": non_finite,
}
"""Gates that are judged by the statistics of a column alone, by name."""


def norm(spec: LengthLimits, column: ColumnStatistics) -> Verdict:
    """Judge the shortest and the longest vector that is not zero."""
    norms = column.norms
    low = (float(norms.moments.least[0]), norms.shortest, "shortest")
    high = (float(norms.moments.most[0]), norms.longest, "longest")

    def beyond(limits: Lengths | None) -> list[tuple[float, str, str]]:
        least, most = limits or (0.0, math.inf)
        return [*([low] if low[0] < least else []), *([high] if high[0] > most else [])]

    failed, warned = beyond(spec.fail), beyond(spec.warn)
    value, key, which = [*failed, *warned, high][0]
    return Verdict(
        "norm",
        column.name,
        value,
        spec.warn,
        spec.fail,
        "failed" if failed else "warned" if warned else "passed",
        f"the {which} vector has length {value:.4g}",
        (key,),
    )


def rank(spec: Limits, name: str, vectors: np.ndarray) -> Verdict:
    """Judge the effective rank of sampled vectors, finite `[rows, width]`."""
    found, (rows, width) = effective_rank(vectors), vectors.shape
    return Verdict(
        "effective_rank",
        name,
        found,
        spec.warn,
        spec.fail,
        # below the limits: as if all were negative
        _outcome(-found, _minus(spec.warn), _minus(spec.fail)),
        f"{rows} sampled vectors of {width} dimensions spread over {found:.2f}",
    )


def distance(
    spec: Limits, column: ColumnStatistics, before: ColumnStatistics, where: str
) -> Verdict:
    """Judge how far a column lies from the one of the same name in another table."""
    if column.moments is None or before.moments is None:
        raise ValueError(f"column {column.name!r} has no statistics by dimension")
    value = drift(column.moments, before.moments)
    detail = f"values lie {value:.3g} standard deviations from those of {where}"
    return _above("drift", spec, column, value, detail)


def _minus(limit: float | None) -> float | None:
    return None if limit is None else -limit


def _outcome(value: float, warn: float | None, fail: float | None) -> Outcome:
    if fail is not None and value > fail:
        return "failed"
    return "warned" if warn is not None and value > warn else "passed"


def _above(
    gate: str,
    spec: Limits,
    column: ColumnStatistics,
    value: float,
    detail: str,
    examples: Sequence[str] = (),
) -> Verdict:
    return Verdict(
        gate,
        column.name,
        value,
        spec.warn,
        spec.fail,
        _outcome(value, spec.warn, spec.fail),
        detail,
        tuple(examples[:_EXAMPLES]),
    )
