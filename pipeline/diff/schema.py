"""Two lists of columns -> what differs in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from transforms.messages import shape_text
from transforms.table.columns import Column
from transforms.table.statistics import is_described


@dataclass(frozen=True, slots=True)
class SchemaDifference:
    """One thing in which a column differs.

    Attributes:
      column: its name.
      what: `column` if only one table has it; else `role`, `dtype`, `shape`, `source`
        (the feature or the address) or `reduce`.
      a: how it is in A; None if it has no such column.
      b: how it is in B.
      computed: whether it holds numbers that the model of A or B computes.
    """

    column: str
    what: str
    a: str | None
    b: str | None
    computed: bool

    def sentence(self) -> str:
        """Say it."""
        if self.what == "column":
            return f"column {self.column} is only in {'A' if self.b is None else 'B'}"
        return f"column {self.column} has {self.what} {self.a} in A, {self.b} in B"


def compare_schemas(
    a: Mapping[str, Column], b: Mapping[str, Column]
) -> Iterator[SchemaDifference]:
    """Yield what differs, by column."""
    for name in {**a, **b}:
        there = [of[name] for of in (a, b) if name in of]
        computed = any(map(is_described, there))
        if len(there) < 2:
            ours, theirs = (of[name].dtype if name in of else None for of in (a, b))
            yield SchemaDifference(name, "column", ours, theirs, computed)
            continue
        said, other = map(_said, there)
        for what, value in said.items():
            if value != other[what]:
                yield SchemaDifference(name, what, value, other[what], computed)


def _said(column: Column) -> dict[str, str]:
    return {
        "role": column.role,
        "dtype": column.dtype,
        "shape": shape_text(column.shape),
        "source": repr(column.source),
        "reduce": " | ".join(column.reduce) or "none",
    }
