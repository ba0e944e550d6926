"""Numbers of two tables -> verdicts, sentences, and what is beyond limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diff.columns import ColumnDiff, Pairs
from pipeline.diff.kept import KeptDiff
from pipeline.diff.limits import LIMITS, beyond
from pipeline.diff.rows import Rows
from pipeline.diff.schema import SchemaDifference
from pipeline.diff.tables import Diff
from pipeline.diff.verdict import judge

EQUAL = Pairs(100, 0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0)
NEAR = Pairs(100, 0, 0.25, 1.0, 0.0054, 0.99999, 0.9999, 0.99, 0.9999)
SOME = Pairs(100, 0, 0.9, 0.9, 0.5, 1.0, 0.2, 0.93, 0.97)
DIRECTIONS = Pairs(100, 0, 0.0, 0.0, 2.2, 1.0, 0.99999, 0.98, 1.0)
GEOMETRY = Pairs(100, 0, 0.0, 0.0, 1.5, 0.01, -0.3, 0.97, 0.998)
DIFFERENT = Pairs(100, 0, 0.0, 0.0, 1.5, 0.31, 0.25, 0.412, 0.871)
OF_OTHER_WIDTH = Pairs(100, 0, overlap=0.62, cka=0.957)
COLUMN = ColumnDiff("hidden", (64, 64), True, (2.0, 5.0), 0.1, 0.55, EQUAL)
BETTER = st.sampled_from([EQUAL, NEAR, SOME, DIRECTIONS, GEOMETRY, DIFFERENT, Pairs()])


def diff_of(*pairs: Pairs, **facts: Any) -> Diff:
    """Two tables of 100 rows with columns of these numbers."""
    columns = tuple(
        replace(COLUMN, name=f"x{i}" if i else "hidden", pairs=one)
        for i, one in enumerate(pairs)
    )
    given = {"rows": Rows(100, 100), "models": ("1", "1"), "schema": (), "kept": ()}
    return Diff(**{"a": "out/a", "b": "out/b", "columns": columns, **given, **facts})


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (EQUAL, "all 100 sampled rows are equal: B may take the place of A"),
        (
            NEAR,
            "25 % of 100 sampled rows are equal, neighbours agree for 99 % (overlap at"
            " 10), rows moved by 0.0054 of their spread: B may take the place of A, and"
            " what was made from A stays good",
        ),
        (
            SOME,
            "10 % of 100 sampled rows moved by more than 0.02 of their spread, the"
            " others did not: find out why before B takes the place of A",
        ),
        (
            DIRECTIONS,
            "neighbours agree for 98 % (overlap at 10), directions are the same (median"
            " cosine 1.0000), lengths are x 2.5: indexes by cosine stay good; those by"
            " inner product or distance must be rebuilt, and models that were trained"
            " on A trained anew",
        ),
        (
            GEOMETRY,
            "neighbours agree for 97 % (overlap at 10), CKA 0.998, but coordinates are"
            " other ones: vectors of both must not be mixed, indexes must be rebuilt,"
            " and models that were trained on A trained anew; then searching finds the"
            " same",
        ),
        (
            DIFFERENT,
            "neighbours agree for 41.2 % (overlap at 10), CKA 0.871: B cannot take the"
            " place of A as it is, indexes must be rebuilt, and models that were"
            " trained on A trained anew, and searching finds other rows",
        ),
        (
            OF_OTHER_WIDTH,
            "neighbours agree for 62 % (overlap at 10), CKA 0.957: B cannot take the"
            " place of A as it is, indexes must be rebuilt, and models that were"
            " trained on A trained anew, and searching finds other rows",
        ),
    ],
)
def test_each_verdict_is_a_sentence_with_its_numbers(
    pairs: Pairs, sentence: str
) -> None:
    assert diff_of(pairs).sentence == f"the same model, the same rows: {sentence}"


def test_a_column_of_nothing_in_common_is_said_without_numbers() -> None:
    nothing = Pairs(100, 0, 0.0, 0.0)
    said = diff_of(nothing).sentence
    assert "vectors have nothing in common: B cannot take the place of A" in said


def test_the_sentence_says_whose_model_and_whose_rows() -> None:
    other = diff_of(EQUAL, models=("1", "2"))
    assert other.sentence.startswith("another model, the same rows: all 100")
    rows = Rows(100, 90, only_a=20, only_b=10)
    some = diff_of(EQUAL, rows=rows).sentence
    assert "27.27 % of the rows are in one table only, of those in both: all" in some
    same = Rows(100, 100, in_equal_parts=100)
    assert diff_of(rows=same).sentence == "the tables are equal, byte for byte"
    more = Rows(100, 101, only_b=1, in_equal_parts=100)
    assert "byte for byte" not in diff_of(EQUAL, rows=more).sentence


@given(st.lists(BETTER, min_size=1, max_size=4))
def test_the_worst_column_decides(pairs: list[Pairs]) -> None:
    diff = diff_of(*pairs)
    verdicts = [judge(column) for column in diff.columns]
    order = [EQUAL, NEAR, SOME, DIRECTIONS, GEOMETRY, DIFFERENT]
    names = [judge(replace(COLUMN, pairs=one)) for one in order]
    assert len({*names}) == len(names)
    known = [name for name in verdicts if name != "unknown"]
    if not known:
        assert "nothing is known of exchanging them" in diff.sentence
        return
    worst = max(known, key=names.index)
    finding = diff_of(order[names.index(worst)]).sentence.split(": ", 1)[1]
    assert finding in diff.sentence
    unknown = [c.name for c in diff.columns if judge(c) == "unknown"]
    said = f"; not judged: {', '.join(unknown)}"
    assert (said in diff.sentence) == bool(unknown)
    if len(pairs) > 1 and worst != "equal":
        column = next(c for c in diff.columns if judge(c) == worst)
        assert f"in column {column.name} " in diff.sentence


def test_without_pairs_distributions_are_said_as_far_as_they_are_known() -> None:
    said = diff_of(Pairs(), Pairs()).sentence
    assert (
        "fewer than 32 sampled rows can be compared one by one; over all rows the"
        " greatest drift is 0.1 deviations; a classifier tells the tables apart with an"
        " AUC of 0.55; nothing is known of exchanging them" in said
    )
    bare = replace(COLUMN, drift=None, auc=None, pairs=Pairs())
    said = diff_of(columns=(bare,)).sentence
    assert "one by one; nothing is known" in said
    assert "computes is in both; nothing is known of exchang" in diff_of().sentence


def test_what_the_finding_does_not_cover_is_said_beside_it() -> None:
    diff = diff_of(
        replace(EQUAL, not_finite=3),
        EQUAL,
        schema=(
            SchemaDifference("word", "column", "string", None, False),
            SchemaDifference("x", "dtype", "float16", "float32", True),
        ),
        kept=(KeptDiff("label", 100, 4, ("k",)), KeptDiff("day", 100, 0, ())),
    )
    assert diff.sentence.endswith(
        "; 3 sampled rows of hidden are not finite: left out"
        "; column word is only in A"
        "; label differs in 4 of 100 sampled rows"
    )


@pytest.mark.parametrize(
    ("limit", "within", "past"),
    [
        ("equal", 0.25, 0.26),
        ("cosine", 0.99999, 0.999991),
        ("overlap", 0.99, 0.991),
        ("cka", 0.9999, 0.99991),
        ("drift", 0.1, 0.099),
        ("auc", 0.55, 0.54),
        ("rows", 0.0, -0.1),
    ],
)
def test_each_limit_holds_what_it_names(limit: str, within: float, past: float) -> None:
    diff = diff_of(NEAR)
    assert list(beyond(diff, {limit: within})) == []
    (said,) = beyond(diff, {limit: past})
    assert said.startswith(f"{limit} ")
    assert f"{past:g}, got " in said


@given(
    st.lists(BETTER, max_size=3),
    st.dictionaries(st.sampled_from(LIMITS), st.floats(-1, 2)),
    st.floats(0, 1),
)
def test_a_looser_limit_never_lets_less_pass(
    pairs: list[Pairs], limits: dict[str, float], by: float
) -> None:
    diff = diff_of(*pairs, rows=Rows(100, 100, 10, 10))
    at_most = ("rows", "drift", "auc")
    looser = {n: v + by if n in at_most else v - by for n, v in limits.items()}
    assert len([*beyond(diff, looser)]) <= len([*beyond(diff, limits)])
    assert not limits or list(beyond(diff, {})) == []


def test_columns_of_only_one_table_are_beyond_limits_of_columns_alone() -> None:
    gone = SchemaDifference("gone", "column", "float32", None, True)
    word = SchemaDifference("word", "column", "string", None, False)
    diff = diff_of(EQUAL, schema=(gone, word))
    assert list(beyond(diff, {"rows": 0.5})) == []
    assert list(beyond(diff, {"equal": 0.5})) == [
        "column gone is only in A: it cannot be held to limits"
    ]


def test_single_numbers_have_no_cosine_to_be_limited() -> None:
    single = replace(COLUMN, widths=(1, 1), pairs=replace(EQUAL, cosine=None))
    vector = replace(COLUMN, name="vector")
    assert list(beyond(diff_of(columns=(single, vector)), {"cosine": 1.0})) == []
    assert list(beyond(diff_of(columns=(single,)), {"cosine": 1.0})) == [
        "cosine must be at least 1, but no column has it"
    ]
    narrowed = replace(COLUMN, widths=(1, 2), pairs=OF_OTHER_WIDTH)
    assert list(beyond(diff_of(columns=(narrowed,)), {"cosine": 1.0})) == [
        "cosine of column hidden must be at least 1, it could not be measured"
    ]
