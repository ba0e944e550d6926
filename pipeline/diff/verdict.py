"""The numbers of two tables -> in a sentence, whether one may replace the other.

docs/health.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

from pipeline.diff.columns import STILL, ColumnDiff
from pipeline.health.pairs import FEWEST

if TYPE_CHECKING:
    from pipeline.diff.tables import Diff

Verdict = Literal[
    "equal",
    "interchangeable",
    "some rows moved",
    "same directions",
    "same geometry",
    "different",
    "unknown",
]
_KNOWN: tuple[Verdict, ...] = get_args(Verdict)[:-1]
_OVERLAP = 0.9
_COSINE = 0.999
_CKA = 0.99
_ANEW = "indexes must be rebuilt, and models that were trained on A trained anew"


def judge(column: ColumnDiff) -> Verdict:
    """Judge a column by the rows that both samples have; the first rule that holds."""
    pairs = column.pairs
    if pairs.equal == 1 and not pairs.not_finite:
        return "equal"
    if pairs.rows < FEWEST:
        return "unknown"
    kept = pairs.overlap is None or pairs.overlap >= _OVERLAP
    if pairs.distance is not None and pairs.distance <= STILL and kept:
        return "interchangeable"
    if pairs.still is not None and pairs.still >= 0.5:
        return "some rows moved"
    if pairs.low_cosine is not None and pairs.low_cosine >= _COSINE and kept:
        return "same directions"
    return "same geometry" if kept and (pairs.cka or 0) >= _CKA else "different"


def sentence(diff: Diff) -> str:
    """Say whether B may take the place of A, with the numbers that say so."""
    rows = diff.rows
    if rows.in_equal_parts == rows.a == rows.b:
        return "the tables are equal, byte for byte"
    model = "the same model" if diff.same_model else "another model"
    whose = "the same rows"
    if rows.share:
        whose = f"{percent(rows.share)} of the rows are in one table only"
    known = [column for column in diff.columns if judge(column) in _KNOWN]
    if known:
        whose += ", of those in both" if rows.share else ""
        worst = max(known, key=lambda column: _KNOWN.index(judge(column)))
        found = _finding(worst)
        if len(diff.columns) > 1 and judge(worst) != "equal":
            found = f"in column {worst.name} {found}"
    else:
        found = _of_distributions(diff)
    return "; ".join([f"{model}, {whose}: {found}", *_besides(diff, known)])


def _finding(column: ColumnDiff) -> str:
    """Say what a verdict means."""
    pairs, verdict = column.pairs, judge(column)
    if verdict == "equal":
        return f"all {pairs.rows} sampled rows are equal: B may take the place of A"
    if verdict == "some rows moved":
        return (
            f"{percent(1 - (pairs.still or 0))} of {pairs.rows} sampled rows moved by"
            f" more than {STILL} of their spread, the others did not: find out why"
            " before B takes the place of A"
        )
    agree = ", ".join(_agreement(column))
    if verdict == "interchangeable":
        return (
            f"{percent(pairs.equal or 0)} of {pairs.rows} sampled rows are equal,"
            f" {agree}: B may take the place of A, and what was made from A stays good"
        )
    if verdict == "same directions":
        return (
            f"{agree}: indexes by cosine stay good; those by inner product or distance"
            " must be rebuilt, and models that were trained on A trained anew"
        )
    if verdict == "same geometry":
        return (
            f"{agree}, but coordinates are other ones: vectors of both must not be"
            f" mixed, {_ANEW}; then searching finds the same"
        )
    return (
        f"{agree or 'vectors have nothing in common'}: B cannot take the place of A as"
        f" it is, {_ANEW}, and searching finds other rows"
    )


def _agreement(column: ColumnDiff) -> Iterator[str]:
    """Say in numbers how much two columns have in common."""
    pairs, (before, after) = column.pairs, column.norms
    if pairs.overlap is not None:
        yield f"neighbours agree for {percent(pairs.overlap)} (overlap at 10)"
    if judge(column) == "interchangeable":
        yield f"rows moved by {pairs.distance:.2g} of their spread"
    elif judge(column) == "same directions" and before and after:
        yield f"directions are the same (median cosine {pairs.cosine:.4f})"
        yield f"lengths are x {after / before:.3g}"
    elif pairs.cka is not None:
        yield f"CKA {pairs.cka:.3g}"


def _of_distributions(diff: Diff) -> str:
    """Say what is known where no rows can be paired."""
    drifts = [c.drift for c in diff.columns if c.drift is not None]
    aucs = [c.auc for c in diff.columns if c.auc is not None]
    found = "no column of numbers that a model computes is in both"
    if diff.columns:
        found = f"fewer than {FEWEST} sampled rows can be compared one by one"
    if drifts:
        found += f"; over all rows the greatest drift is {max(drifts):.2g} deviations"
    if aucs:
        found += f"; a classifier tells the tables apart with an AUC of {max(aucs):.2f}"
    return f"{found}; nothing is known of exchanging them"


def _besides(diff: Diff, known: list[ColumnDiff]) -> Iterator[str]:
    """Say what the finding does not cover."""
    names = [c.name for c in diff.columns if c not in known]
    if known and names:
        yield f"not judged: {', '.join(names)}"
    for column in known:
        if left_out := column.pairs.not_finite:
            yield f"{left_out} sampled rows of {column.name} are not finite: left out"
    for one in diff.schema:
        if one.what == "column":
            yield one.sentence()
    for kept in diff.kept:
        if kept.unequal:
            yield f"{kept.name} differs in {kept.unequal} of {kept.rows} sampled rows"


def percent(share: float) -> str:
    """Say a share; what is not all does not read so, nor what is not none.

    >>> percent(0.999999), percent(0.41), percent(1.0), percent(0.000001)
    ('99.99 %', '41 %', '100 %', '0.01 %')
    """
    least, most = (1 if share > 0 else 0), (9999 if share < 1 else 10_000)
    return f"{min(max(round(share * 1e4), least), most) / 100:g} %"
