"""Show how two tables differ, as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.diff.verdict import judge, percent
from pipeline.show import print_table, say
from transforms.messages import shape_text

if TYPE_CHECKING:
    from pipeline.diff.columns import ColumnDiff, MovedRow, Pairs
    from pipeline.diff.tables import Diff

_HEAD = (
    *("column", "width", "rows", "equal", "cosine", "lowest 1 %", "moved", "norm"),
    *("overlap", "CKA", "drift", "AUC", "verdict"),
)


def print_diff(diff: Diff) -> None:
    """Print all that differs, the answer, and what is beyond limits."""
    for letter, uri, rows in (("A", diff.a, diff.rows.a), ("B", diff.b, diff.rows.b)):
        say(f"{letter} is {uri}: {rows} rows")
    for one in diff.schema:
        say(one.sentence())
    for line in _rows(diff):
        say(line)
    if diff.columns:
        say("")
        print_table(_HEAD, [_row(column) for column in diff.columns])
        say("")
    for column in diff.columns:
        if column.pairs.moved:
            moved = ", ".join(map(_moved, column.pairs.moved))
            say(f"moved most in {column.name}: {moved}")
    for kept in diff.kept:
        if kept.unequal:
            say(
                f"{kept.name} differs in {kept.unequal} of {kept.rows} sampled rows:"
                f" {_keys(kept.examples)}"
            )
    say(diff.sentence)
    for text in diff.beyond:
        say(f"BEYOND: {text}")


def _rows(diff: Diff) -> Iterator[str]:
    """Say which rows only one table has."""
    rows = diff.rows
    yield f"{rows.both} rows in both, {rows.in_equal_parts} in parts that are equal"
    for letter, count, examples in (
        ("A", rows.only_a, rows.examples_a),
        ("B", rows.only_b, rows.examples_b),
    ):
        if count:
            yield f"{count} rows only in {letter}: {_keys(examples)}"


def _keys(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))


def _row(column: ColumnDiff) -> tuple[str, ...]:
    """Give the cells of a column, in the order of `_HEAD`."""
    pairs, (before, after) = column.pairs, column.norms
    norm = f"x {after / before:.3g}" if before and after else ""
    widths = [shape_text([width])[1:-1] for width in dict.fromkeys(column.widths)]
    return (
        *(column.name, " / ".join(widths), *_of_pairs(pairs)[:5], norm),
        *_of_pairs(pairs)[5:],
        *(_number(column.drift, "{:.3g}"), _number(column.auc, "{:.2f}")),
        judge(column),
    )


def _of_pairs(pairs: Pairs) -> tuple[str, ...]:
    """Give the cells that sampled rows say."""
    if not pairs.rows:
        return ("",) * 7
    return (
        str(pairs.rows),
        "" if pairs.equal is None else percent(pairs.equal),
        *(_number(value, "{:.4f}") for value in (pairs.cosine, pairs.low_cosine)),
        _number(pairs.distance, "{:.2g}"),
        "" if pairs.overlap is None else percent(pairs.overlap),
        _number(pairs.cka, "{:.3f}"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _moved(row: MovedRow) -> str:
    """Say how far a row moved."""
    said = [
        *([f"moved {row.distance:.2g}"] if row.distance is not None else []),
        *([f"cosine {row.cosine:.3f}"] if row.cosine is not None else []),
        *([f"overlap {percent(row.overlap)}"] if row.overlap is not None else []),
    ]
    return f"{row.key!r} ({', '.join(said)})"
