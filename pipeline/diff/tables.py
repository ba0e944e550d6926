"""Two finished tables -> how they differ, and whether B may take the place of A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.diff.columns import ColumnDiff, compare_column, is_sampled
from pipeline.diff.kept import KeptDiff, compare_kept, is_kept
from pipeline.diff.limits import beyond, check_limits
from pipeline.diff.rows import Rows, compare_rows
from pipeline.diff.sample import Samples, read_samples
from pipeline.diff.schema import SchemaDifference, compare_schemas
from pipeline.diff.side import Side, open_side
from pipeline.diff.verdict import judge, sentence
from transforms.column_names import KEY
from transforms.lookup import ConfigError, nearest
from transforms.table.statistics import is_described


@dataclass(frozen=True, slots=True)
class Diff:
    """How two tables differ.

    Attributes:
      a: URI of the table that is compared with.
      b: URI of the table that may take its place.
      models: digests of their models.
      schema: what differs in their columns.
      rows: which rows only one of them has.
      columns: of numbers that the models compute, and that both have.
      kept: other columns of single values that both have.
      beyond: what is beyond the limits that were given, a sentence each.
    """

    a: str
    b: str
    models: tuple[str, str]
    schema: tuple[SchemaDifference, ...]
    rows: Rows
    columns: tuple[ColumnDiff, ...]
    kept: tuple[KeptDiff, ...]
    beyond: tuple[str, ...] = ()

    @property
    def same_model(self) -> bool:
        """Whether both models are the same."""
        return self.models[0] == self.models[1]

    @property
    def sentence(self) -> str:
        """Whether B may take the place of A, with the numbers that say so."""
        return sentence(self)

    def to_json(self) -> dict[str, Any]:
        """Give everything as a JSON document."""
        rows = {**asdict(self.rows), "both": self.rows.both, "share": self.rows.share}
        columns = [{**asdict(c), "verdict": judge(c)} for c in self.columns]
        return {
            "sentence": self.sentence,
            "same_model": self.same_model,
            **asdict(self),
            **{"rows": rows, "columns": columns},
        }


def diff_tables(
    a: str,
    b: str,
    limits: Mapping[str, float] | None = None,
    columns: Sequence[str] = (),
) -> Diff:
    """Compare two finished tables, such as those of two models for the same data.

    Args:
      a: URI of the table that is compared with.
      b: URI of the other.
      limits: by name (`pipeline.diff.limits.LIMITS`); what is beyond them is in
        `Diff.beyond`.
      columns: only these, beside the key; all of them by default.

    Raises:
      FileNotFoundError: there is no table.
      ConfigError: one is not finished; a limit or a column is not known.
      TableError: one is damaged.
    """
    check_limits(limits or {})
    sides = open_side(a), open_side(b)
    wanted = _wanted(*sides, columns)
    ours, theirs = ({n: c for n, c in s.columns.items() if n in wanted} for s in sides)
    measured, kept = _compare(*sides, [name for name in ours if name in theirs])
    found = Diff(
        a=a,
        b=b,
        models=(sides[0].plan.model_digest, sides[1].plan.model_digest),
        schema=tuple(compare_schemas(ours, theirs)),
        rows=compare_rows(*sides),
        columns=tuple(measured),
        kept=tuple(kept),
    )
    return replace(found, beyond=tuple(beyond(found, limits or {})))


def _wanted(a: Side, b: Side, columns: Sequence[str]) -> list[str]:
    """Name the columns to compare.

    Raises:
      ConfigError: one of those that are asked for is in neither table.
    """
    known = {**a.columns, **b.columns}
    for name in columns:
        if name not in known:
            raise ConfigError(
                f"--column must name a column of A or B, got {name!r}"
                f"{nearest(name, known)} (columns: {', '.join(known)})"
            )
    return [KEY, *(columns or known)]


def _compare(
    a: Side, b: Side, names: Sequence[str]
) -> tuple[list[ColumnDiff], list[KeptDiff]]:
    """Compare columns that both tables have."""
    pairs = {name: (a.columns[name], b.columns[name]) for name in names}
    numbers = [n for n, pair in pairs.items() if all(map(is_described, pair))]
    sampled = [n for n in numbers if is_sampled(*pairs[n])]
    single = [n for n in names if n not in numbers and is_kept(*pairs[n])]
    measured: dict[str, ColumnDiff] = {}
    kept: list[KeptDiff] = []

    def measure(name: str, samples: Samples | None) -> None:
        statistics = (a.statistics[name], b.statistics[name])
        measured[name] = compare_column(pairs[name], statistics, samples)

    for group, samples in read_samples(a, b, [*sampled, *single]):
        for name in group:
            if name in single:
                kept.append(compare_kept(name, samples))
            else:
                measure(name, samples)
    for name in numbers:
        if name not in measured:
            measure(name, None)
    return [measured[name] for name in numbers], kept
