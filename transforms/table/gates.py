"""Judge a table by what its columns are like, before it counts as finished."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from transforms import storage
from transforms.gate_limits import GatesSpec, LengthLimits, Limits
from transforms.lookup import ConfigError, TableError, nearest
from transforms.statistics.column import WIDEST
from transforms.statistics.sample import WIDEST as WIDEST_SAMPLED
from transforms.table.columns import Column
from transforms.table.directory import REPAIR, Table, to_json
from transforms.table.names import GATES
from transforms.table.plan_file import TablePlan
from transforms.table.statistics import (
    SampleFiles,
    described,
    finished_statistics,
    is_described,
    read_sample,
    read_statistics,
    sample_files,
    together,
)
from transforms.table.verdicts import SHARES, Verdict, distance, norm, rank
from transforms.values import finite_rows, matrix

FEWEST_ROWS = 16
"""Of a table that is judged."""
RANK_ROWS = 1024
"""Of the sample, by which the effective rank is judged."""
_WIDTHS = {  # of vectors that a gate is meant for, from and to
    "duplicates": (2, math.inf),
    "dead_dimensions": (2, WIDEST),
    "zero_rows": (2, math.inf),
    "non_finite": (0, math.inf),
    "norm": (2, math.inf),
    "effective_rank": (8, WIDEST_SAMPLED),
    "drift": (1, WIDEST),
}
_AGAINST = "gates.drift.against"
_BYTES_AT_A_TIME = 128 << 20  # of the sample's columns that are in memory
_OF_ANY_LENGTH = ("duplicates", "zero_rows", "non_finite", "norm")


def check_gates(gates: GatesSpec, columns: Sequence[Column]) -> None:
    """See that gates can be judged in a table, before it is made.

    Args:
      gates: the limits.
      columns: of the planned table.

    Raises:
      ConfigError: a gate names a column that it cannot judge, or a table to compare
        with that is not there, is not finished, or has no such column.
    """
    widths = {column.name: column.width for column in columns}
    for gate in GatesSpec.model_fields:
        spec = getattr(gates, gate)
        able = {c.name: c for c in columns if _can_judge(gate, c)}
        for name in spec.columns if spec else ():
            if name not in able:
                raise ConfigError(
                    f"gates.{gate}.columns must name columns that it can judge, got"
                    f" {name!r}{nearest(name, able)} (columns: {', '.join(able)})"
                )
    if gates.drift is None:
        return
    there = finished_statistics(gates.drift.against, _AGAINST)
    for name in _judged(gates.drift, "drift", columns):
        found = there.get(name)
        if found is None or found.width != widths[name]:
            has = "no such column" if found is None else f"width {found.width}"
            raise ConfigError(
                f"{_AGAINST} must be a table with column {name!r} of width"
                f" {widths[name]}, {gates.drift.against!r} has {has}; name the columns"
                " that both have in gates.drift.columns"
            )


def judge(
    table: Table,
    plan: TablePlan,
    gates: GatesSpec,
    sample: SampleFiles | None = None,
) -> list[Verdict]:
    """Judge a table whose statistics are stored, and store the verdicts.

    Args:
      table: the table.
      plan: that it was made by.
      gates: the limits.
      sample: where its sample lies; if None, that is looked up where it is needed.

    Raises:
      RuntimeError: a gate fails.
      ConfigError: the table to compare with is not there.
    """
    verdicts = list(_verdicts(table, plan, gates, sample))
    document = {"gates": [_document(verdict) for verdict in verdicts]}
    _store(table, to_json(document))
    failed = [one for one in verdicts if one.outcome == "failed"]
    if failed:
        raise RuntimeError(
            "\n  ".join(
                [
                    f"{table.uri!r} must pass its gates, {len(failed)} failed; mend"
                    " what makes it so, or move the limits in [gates] (--set"
                    f" gates.{failed[0].gate}=false switches one off) and run again:"
                    " nothing is computed twice",
                    *(one.sentence() for one in failed),
                ]
            )
        )
    return verdicts


def _store(table: Table, document: bytes) -> None:
    """Store verdicts, unless they are there already."""
    place = table.internal(GATES)
    try:
        if storage.read(place) == document:
            return
    except FileNotFoundError:
        pass
    storage.replace(place, document)


def read_verdicts(table: Table) -> list[Verdict]:
    """Read how a table was judged; nothing if it was not.

    Raises:
      TableError: the document is damaged.
    """
    try:
        return [Verdict(**one) for one in table.read_json(GATES)["gates"]]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError) as error:
        raise TableError(
            f"{table.internal(GATES)} must hold verdicts, it does not: {error!r};"
            f" {REPAIR}"
        ) from error


def _document(verdict: Verdict) -> dict[str, Any]:
    """Give a verdict as JSON, which has no infinite numbers."""
    largest = float(np.finfo(np.float64).max)
    value = verdict.value if math.isfinite(verdict.value) else largest
    return {**asdict(verdict), "value": value}


def _verdicts(
    table: Table, plan: TablePlan, gates: GatesSpec, sample: SampleFiles | None
) -> Iterator[Verdict]:
    found = read_statistics(table, written=True)
    if not found or next(iter(found.values())).rows < FEWEST_ROWS:
        return
    for gate, judged in SHARES.items():
        spec = getattr(gates, gate)
        for name in _judged(spec, gate, plan.columns):
            yield judged(spec, found[name])
    for name in _judged(gates.norm, "norm", plan.columns):
        if found[name].norms.moments.count:
            yield norm(gates.norm, found[name])
    if ranked := _judged(gates.effective_rank, "effective_rank", plan.columns):
        yield from _ranks(gates.effective_rank, ranked, table, plan, sample)
    if gates.drift:
        there = finished_statistics(gates.drift.against, _AGAINST)
        for name in _judged(gates.drift, "drift", plan.columns):
            yield distance(gates.drift, found[name], there[name], gates.drift.against)


def _ranks(
    spec: Limits,
    names: Sequence[str],
    table: Table,
    plan: TablePlan,
    sample: SampleFiles | None,
) -> Iterator[Verdict]:
    """Judge the effective rank of columns by the sample."""
    widths = described(plan)
    sizes = {c.name: c.bytes_per_row for c in plan.columns if c.name in names}
    if sample is None:
        sample = sample_files(table.read_commits(range(plan.shard_count)))
    for some in together(sizes, _BYTES_AT_A_TIME):
        rows = read_sample(table, plan, sample, some, written=True)
        for name in some:
            vectors = matrix(rows[name].slice(0, RANK_ROWS), widths[name] or 1)
            vectors = vectors[finite_rows(vectors)]
            if len(vectors) >= FEWEST_ROWS:
                yield rank(spec, name, vectors)


def _judged(
    spec: Limits | LengthLimits, gate: str, columns: Sequence[Column]
) -> list[str]:
    """Name the columns that a gate judges; none if it has no limits."""
    if spec.warn is None and spec.fail is None:
        return []
    if spec.columns:
        return [c.name for c in columns if c.name in spec.columns]
    return [c.name for c in columns if c.family == "float" and _is_meant(gate, c)]


def _can_judge(gate: str, column: Column) -> bool:
    """Whether a gate has what it takes to judge a column."""
    if not is_described(column):
        return False
    return gate in _OF_ANY_LENGTH or (column.width or math.inf) <= _WIDTHS[gate][1]


def _is_meant(gate: str, column: Column) -> bool:
    """Whether a gate is for columns of such a width."""
    least, _ = _WIDTHS[gate]
    return _can_judge(gate, column) and (column.width is None or column.width >= least)
