"""`[gates]` of a config: what a finished table must be like."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from transforms.config_section import Section, one_or_many

Columns = Annotated[tuple[str, ...], BeforeValidator(one_or_many)]
Lengths = tuple[float, float]


def _limits(value: Any) -> Any:
    if value is False:
        return {"warn": None, "fail": None}
    if isinstance(value, int | float):
        return {"warn": None, "fail": value}
    return value


def _lengths(value: Any) -> Any:
    if value is False:
        return {}
    return {"fail": value} if isinstance(value, list | tuple) else value


class Limits(Section):
    """One gate: from where on it warns, and from where on the run fails.

    A config may write one number instead: the run fails beyond it. `false` switches a
    gate off.

    Attributes:
      warn: limit beyond which the run warns. If left out, it does not.
      fail: limit beyond which the run fails at its end; raise it and run again to
        accept what is there, nothing is computed twice. If left out, it does not.
      columns: which columns are judged. If left out, those that the gate is meant for.
    """

    warn: float | None = None
    fail: float | None = None
    columns: Columns = ()


class LengthLimits(Section):
    """`gates.norm`: the shortest and the longest that vectors may be.

    Attributes:
      warn: least and greatest length, beyond which the run warns. If left out, it does
        not.
      fail: least and greatest length, beyond which the run fails at its end. If left
        out, it does not.
      columns: which columns are judged. If left out, all of vectors of floats.
    """

    warn: Lengths | None = None
    fail: Lengths | None = None
    columns: Columns = ()


class DriftLimits(Limits):
    """`gates.drift`: how far columns may lie from those of another table.

    Attributes:
      against: URI of a finished table that has the columns.
      warn: limit beyond which the run warns, in standard deviations of the other table.
    """

    against: str
    warn: float | None = 0.25


Limited = Annotated[Limits, BeforeValidator(_limits)]


def _drift(value: Any) -> Any:
    return None if value is False else value


class GatesSpec(Section):
    """`[gates]`: what a finished table must be like, judged over all of its rows.

    Gates that are left out only warn, but of what nobody can mean: that all rows are
    alike. Tables of fewer than 16 rows are not judged. Limits change no bytes; a
    finished table is judged again by others.

    Attributes:
      duplicates: largest share of rows whose vector another row has had before. If left
        out, it warns beyond 0.1.
      dead_dimensions: largest share of dimensions that have one value in all rows. If
        left out, it warns beyond 0.8 and fails beyond 0.99.
      zero_rows: largest share of rows that are zero in all dimensions. If left out, it
        warns beyond 0.01.
      non_finite: largest share of rows with NaN or infinite values. If left out, any
        share passes; `errors.non_finite` has its own say.
      norm: shortest and longest length of vectors that are not zero. If left out, any
        length passes.
      effective_rank: smallest effective rank, in dimensions. If left out, it warns
        below 1.5.
      drift: largest distance from the columns of another table. If left out, nothing is
        compared.
    """

    duplicates: Limited = Limits(warn=0.1)
    dead_dimensions: Limited = Limits(warn=0.8, fail=0.99)
    zero_rows: Limited = Limits(warn=0.01)
    non_finite: Limited = Limits()
    norm: Annotated[LengthLimits, BeforeValidator(_lengths)] = LengthLimits()
    effective_rank: Limited = Limits(warn=1.5)
    drift: Annotated[DriftLimits | None, BeforeValidator(_drift)] = None
