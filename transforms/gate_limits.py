"""`[gates]` of a config: what a finished table must be like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, field_validator

from transforms.config_section import Section, one_or_many

Columns = Annotated[tuple[str, ...], BeforeValidator(one_or_many)]
Lengths = tuple[float, float]
_AT_LENGTH = "{ warn = …, fail = …, columns = [...] }"


def _limits(value: Any) -> Any:
    if value is False:
        return {"warn": None, "fail": None}
    if isinstance(value, int | float) and value is not True:
        return {"warn": None, "fail": value}
    return _at_length(value, "a number")


def _lengths(value: Any) -> Any:
    if value is False:
        return {}
    if isinstance(value, list | tuple):
        return {"fail": value}
    return _at_length(value, "[shortest, longest]")


def _at_length(value: Any, short: str, long: str = _AT_LENGTH) -> Any:
    """Let limits pass that are written at length, whatever they say."""
    if isinstance(value, Mapping | Section):
        return value
    raise ValueError(f"must be {short}, {long}, or false to switch the gate off")


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

    @field_validator("warn", "fail")
    @classmethod
    def _is_ordered(cls, lengths: Lengths | None) -> Lengths | None:
        if lengths and lengths[0] > lengths[1]:
            raise ValueError("must be [shortest, longest], in this order")
        return lengths


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
    if value is None or value is False:
        return None
    return _at_length(value, "{ against = TABLE }", "with warn, fail and columns")


class GatesSpec(Section):
    """`[gates]`: what a finished table must be like, judged over all of its rows.

    Gates that are left out only warn, but of what nobody can mean: that all rows are
    alike. Tables of fewer than 16 rows are not judged. Limits change no bytes; a
    finished table is judged again by others.

    Attributes:
      duplicates: largest share of rows whose vector another row has had before. If left
        out, it warns beyond 0.1.
      dead_dimensions: largest share of dimensions that have one value in all rows. If
        left out, it warns beyond 0.8 and fails beyond 0.9999.
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
    dead_dimensions: Limited = Limits(warn=0.8, fail=0.9999)
    zero_rows: Limited = Limits(warn=0.01)
    non_finite: Limited = Limits()
    norm: Annotated[LengthLimits, BeforeValidator(_lengths)] = LengthLimits()
    effective_rank: Limited = Limits(warn=1.5)
    drift: Annotated[DriftLimits | None, BeforeValidator(_drift)] = None

    @field_validator("*")
    @classmethod
    def _has_limits(cls, spec: Limits | LengthLimits | None) -> Any:
        if spec and spec.columns and spec.warn is None and spec.fail is None:
            raise ValueError("columns are judged by limits: name warn or fail as well")
        return spec

    @field_validator("duplicates", "dead_dimensions", "zero_rows", "non_finite")
    @classmethod
    def _is_of_shares(cls, limits: Limits) -> Limits:
        for limit in (limits.warn, limits.fail):
            if limit is not None and not 0 <= limit <= 1:
                raise ValueError(f"a share is from 0 to 1, {limit:g} is not")
        return limits
