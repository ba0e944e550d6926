"""What each gate says of a column, at its limits and beyond them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from transforms.gate_limits import DriftLimits, GatesSpec, LengthLimits, Limits
from transforms.lookup import TableError
from transforms.statistics.column import WIDEST, ColumnStatistics
from transforms.statistics.repeats import mix
from transforms.table.columns import Column
from transforms.table.directory import Table
from transforms.table.gates import _document, _judged, read_verdicts
from transforms.table.verdicts import (
    SHARES,
    Verdict,
    dead_dimensions,
    distance,
    duplicates,
    non_finite,
    norm,
    rank,
    zero_rows,
)
from transforms.values import finite_rows, matrix


def column_of(values: np.ndarray) -> ColumnStatistics:
    """Statistics of rows, float64 `[rows, width]`, with keys k0, k1, …"""
    rows, width = values.shape
    found = ColumnStatistics("c", width)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    lists = pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
    keys = pa.array([f"k{row}" for row in range(rows)])
    found.add(lists, keys, mix(np.arange(rows, dtype=np.uint64)))
    return found


def cloud(rows: int = 100, width: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, width)) + 3


def with_copies() -> np.ndarray:
    """A hundred rows, of which a fifth have had their vector before."""
    values = cloud()
    values[80:] = values[:20]
    return values


def with_dead() -> np.ndarray:
    """One of four dimensions has one value."""
    values = cloud()
    values[:, 2] = 7
    return values


def with_zeros() -> np.ndarray:
    """A tenth of the rows are zero."""
    values = cloud()
    values[::10] = 0
    return values


def with_nan() -> np.ndarray:
    """Three rows of a hundred are not finite."""
    values = cloud()
    values[5, 1], values[6, 0], values[7] = np.nan, np.inf, -np.inf
    return values


JUDGED = [
    (duplicates, with_copies, 0.2),
    (dead_dimensions, with_dead, 0.25),
    (zero_rows, with_zeros, 0.1),
    (non_finite, with_nan, 0.03),
]


@pytest.mark.parametrize(("judged", "made", "share"), JUDGED)
def test_a_share_passes_at_its_limit_and_not_beyond(
    judged: Any, made: Any, share: float
) -> None:
    column = column_of(made())
    for limits, outcome in (
        (Limits(), "passed"),
        (Limits(warn=share + 1e-9), "passed"),
        (Limits(warn=share - 1e-9), "warned"),
        (Limits(warn=share - 1e-9, fail=share + 1e-9), "warned"),
        (Limits(fail=share - 1e-9), "failed"),
        (Limits(warn=share - 1e-9, fail=share - 1e-9), "failed"),
        (Limits(warn=0.9, fail=1.0), "passed"),
    ):
        verdict = judged(limits, column)
        assert verdict.value == pytest.approx(share)
        assert verdict.outcome == outcome, limits
        assert verdict.gate == judged.__name__
        assert SHARES[verdict.gate] is judged
        assert (verdict.column, verdict.warn, verdict.fail) == (
            "c",
            limits.warn,
            limits.fail,
        )


@pytest.mark.parametrize("judged", [one[0] for one in JUDGED])
def test_sound_rows_have_a_share_of_nothing_and_no_examples(judged: Any) -> None:
    verdict = judged(Limits(fail=0.0), column_of(cloud()))
    assert (verdict.value, verdict.outcome, verdict.examples) == (0.0, "passed", ())


@pytest.mark.parametrize(
    ("judged", "made", "examples"),
    [
        (zero_rows, with_zeros, {f"k{row}" for row in range(0, 100, 10)}),
        (non_finite, with_nan, {"k5", "k6", "k7"}),
        (duplicates, with_copies, {f"k{row}" for row in range(20)}),
    ],
)
def test_examples_are_few_and_of_rows_at_fault(
    judged: Any, made: Any, examples: set[str]
) -> None:
    verdict = judged(Limits(warn=0.0), column_of(made()))
    assert len(verdict.examples) == 3
    assert set(verdict.examples) <= examples
    assert f"(such as {', '.join(map(repr, verdict.examples))})" in verdict.sentence()


def test_the_most_frequent_vector_is_told() -> None:
    values = cloud()
    values[10:60] = values[3]
    values[60:70] = values[4]
    verdict = duplicates(Limits(warn=0.1), column_of(values))
    assert verdict.detail == (
        "60.00% of the rows have a vector that another row had before, 51 rows have the"
        " most frequent one"
    )
    assert verdict.examples[0] in {"k3", *(f"k{row}" for row in range(10, 60))}


def test_dead_dimensions_are_named() -> None:
    values = cloud(width=6)
    values[:, [0, 2, 3, 5]] = 1
    verdict = dead_dimensions(Limits(fail=0.5), column_of(values))
    assert verdict.sentence() == (
        "gate dead_dimensions of column 'c': 4 of 6 dimensions have one value in all"
        " rows (first: 0, 2, 3); the limit is 0.5"
    )


def test_dimensions_that_nobody_counted_are_not_dead() -> None:
    found = dead_dimensions(Limits(fail=0.5), column_of(np.ones((3, WIDEST + 1))))
    assert (found.value, found.outcome) == (0.0, "passed")


def test_one_row_says_nothing_of_dead_dimensions() -> None:
    assert dead_dimensions(Limits(fail=0.0), column_of(cloud(1))).outcome == "passed"


def spread_out() -> ColumnStatistics:
    """Lengths from 1 to 8; one row is zero."""
    lengths = np.array([0.0, 4.0, 1.0, 2.0, 8.0])
    return column_of(lengths[:, None] * np.array([[0.6, 0.8]]))


@pytest.mark.parametrize(
    ("limits", "outcome", "value", "key"),
    [
        (LengthLimits(), "passed", 8.0, "k4"),
        (LengthLimits(fail=(1.0 - 1e-9, 8.0 + 1e-9)), "passed", 8.0, "k4"),
        (LengthLimits(fail=(1.5, 8.5)), "failed", 1.0, "k2"),
        (LengthLimits(fail=(0.5, 7.5)), "failed", 8.0, "k4"),
        (LengthLimits(fail=(1.5, 7.5)), "failed", 1.0, "k2"),
        (LengthLimits(warn=(1.5, 9.0)), "warned", 1.0, "k2"),
        (LengthLimits(warn=(1.5, 9.0), fail=(0.5, 7.0)), "failed", 8.0, "k4"),
        (LengthLimits(warn=(0.5, 7.0), fail=(0.1, 10.0)), "warned", 8.0, "k4"),
    ],
)
def test_lengths_are_judged_at_both_ends(
    limits: LengthLimits, outcome: str, value: float, key: str
) -> None:
    verdict = norm(limits, spread_out())
    assert (verdict.outcome, verdict.examples) == (outcome, (key,))
    assert verdict.value == pytest.approx(value)


def test_limits_of_lengths_are_said_as_two() -> None:
    sentence = norm(LengthLimits(fail=(1.5, 7.5)), spread_out()).sentence()
    assert sentence == (
        "gate norm of column 'c': the shortest vector has length 1 (such as 'k2');"
        " the limit is 1.5 to 7.5"
    )


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        (Limits(), "passed"),
        (Limits(warn=1.5), "passed"),
        (Limits(warn=3.9999), "warned"),
        (Limits(warn=3.9999, fail=2.0), "warned"),
        (Limits(fail=3.9999), "failed"),
    ],
)
def test_an_effective_rank_must_be_great_enough(limits: Limits, outcome: str) -> None:
    verdict = rank(limits, "c", cloud(1000))
    assert verdict.value == pytest.approx(4, abs=0.05)
    assert verdict.outcome == outcome
    assert verdict.detail.startswith("1000 sampled vectors of 4 dimensions spread over")


def test_distances_are_from_the_table_that_is_named() -> None:
    limits = DriftLimits(against="out/before", fail=0.9)
    before, now = column_of(cloud(500)), column_of(cloud(500) + 1)
    verdict = distance(limits, now, before, limits.against)
    assert verdict.value == pytest.approx(1, abs=0.1)
    assert verdict.outcome == "failed"
    assert verdict.detail.endswith("standard deviations from those of out/before")
    assert distance(limits, before, before, "x").value == 0
    with pytest.raises(ValueError, match="column 'c' has no statistics by dimension"):
        distance(limits, column_of(np.ones((2, WIDEST + 1))), before, "x")


def numbers(
    name: str,
    width: int | None = 12,
    dtype: str = "float32",
    role: Any = "feature",
) -> Column:
    return Column(name, role, dtype, () if width == 1 else (width,))


COLUMNS = [
    Column("example_id", "key", "int64"),
    numbers("kept", role="keep"),
    numbers("vector"),
    numbers("pair", 2),
    numbers("single", 1),
    numbers("ragged", None),
    numbers("wide", 5000),
    numbers("widest", WIDEST + 1),
    numbers("whole", dtype="int64"),
    numbers("words", 1, dtype="string"),
]


@pytest.mark.parametrize(
    ("gate", "judged"),
    [
        ("duplicates", "vector pair ragged wide widest"),
        ("zero_rows", "vector pair ragged wide widest"),
        ("norm", "vector pair ragged wide widest"),
        ("non_finite", "vector pair single ragged wide widest"),
        ("dead_dimensions", "vector pair wide"),
        ("effective_rank", "vector"),
        ("drift", "vector pair single wide"),
    ],
)
def test_gates_judge_the_columns_that_they_are_meant_for(
    gate: str, judged: str
) -> None:
    assert _judged(Limits(warn=0.5), gate, COLUMNS) == judged.split()
    assert _judged(Limits(), gate, COLUMNS) == []
    named = Limits(warn=0.5, columns=("whole", "vector"))
    assert _judged(named, gate, COLUMNS) == ["vector", "whole"]


def test_vectors_that_are_not_finite_have_no_rank() -> None:
    values = cloud(5)
    values[1, 2], values[3, 0] = np.nan, np.inf
    lists = pa.chunked_array([pa.array(list(values[:2])), pa.array(list(values[2:]))])
    rows = matrix(lists, 4)
    assert np.array_equal(rows[finite_rows(rows)], values[[0, 2, 4]])
    single = matrix(pa.chunked_array([pa.array([1.0, np.nan])]), 1)
    assert single[finite_rows(single)].tolist() == [[1.0]]
    assert matrix(lists.slice(0, 0), 4).shape[0] <= 1


def test_verdicts_come_back_from_json(tmp_path: Any) -> None:
    verdict = norm(LengthLimits(warn=(1.0, 2.0)), spread_out())
    place = tmp_path / "_featuretap" / "gates.json"
    assert read_verdicts(Table(str(tmp_path))) == []
    place.parent.mkdir()
    place.write_text(json.dumps({"gates": [asdict(verdict)]}))
    (back,) = read_verdicts(Table(str(tmp_path)))
    assert back.sentence() == verdict.sentence()
    assert math.isclose(back.value, verdict.value)
    for damaged in ("{}", '{"gates": [{"gate": "norm"}]}', '{"gates": 3}'):
        place.write_text(damaged)
        with pytest.raises(TableError, match=r"gates\.json must hold verdicts"):
            read_verdicts(Table(str(tmp_path)))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, GatesSpec()),
        ({"duplicates": 0.3}, GatesSpec(duplicates=Limits(fail=0.3))),
        ({"duplicates": 1}, GatesSpec(duplicates=Limits(fail=1.0))),
        ({"duplicates": False}, GatesSpec(duplicates=Limits())),
        ({"duplicates": {"warn": 0.2}}, GatesSpec(duplicates=Limits(warn=0.2))),
        ({"duplicates": {"fail": 0.2}}, GatesSpec(duplicates=Limits(fail=0.2))),
        (
            {"zero_rows": {"fail": 0.2, "columns": "a"}},
            GatesSpec(zero_rows=Limits(fail=0.2, columns=("a",))),
        ),
        ({"norm": [1, 2]}, GatesSpec(norm=LengthLimits(fail=(1.0, 2.0)))),
        ({"norm": {"warn": [1, 2]}}, GatesSpec(norm=LengthLimits(warn=(1.0, 2.0)))),
        ({"norm": False}, GatesSpec()),
        ({"drift": False}, GatesSpec()),
        (
            {"drift": {"against": "x"}},
            GatesSpec(drift=DriftLimits(against="x", warn=0.25)),
        ),
        (
            {"drift": {"against": "x", "warn": None, "fail": 1}},
            GatesSpec(drift=DriftLimits(against="x", warn=None, fail=1.0)),
        ),
    ],
)
def test_limits_are_written_in_short_or_at_length(
    given: dict[str, Any], meant: GatesSpec
) -> None:
    assert GatesSpec.model_validate(given) == meant


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"duplicates": "much"}, "must be a number, { warn = "),
        ({"duplicates": [0.1, 0.2]}, "must be a number, { warn = "),
        ({"duplicates": True}, "must be a number, { warn = "),
        ({"duplicates": {"limit": 0.1}}, ""),
        ({"norm": 3}, r"must be \[shortest, longest\], { warn = "),
        ({"norm": [1]}, ""),
        ({"norm": [1, 2, 3]}, ""),
        ({"drift": 0.5}, "must be { against = TABLE }"),
        ({"drift": {"fail": 0.5}}, ""),
        ({"duplicate": 0.1}, ""),
    ],
)
def test_limits_of_another_form_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){next(iter(given))}.*{said}"):
        GatesSpec.model_validate(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"duplicates": 5}, "a share is from 0 to 1, 5 is not"),  # which is no per cent
        ({"zero_rows": {"warn": -0.1}}, "a share is from 0 to 1, -0.1 is not"),
        ({"dead_dimensions": {"fail": 99}}, "a share is from 0 to 1, 99 is not"),
        ({"non_finite": float("nan")}, "a share is from 0 to 1, nan is not"),
        ({"norm": [100, 0.5]}, "in this order"),
        ({"norm": {"warn": [2, 1]}}, "in this order"),
        ({"duplicates": {"columns": "c"}}, "name warn or fail as well"),
        ({"norm": {"columns": "c"}}, "name warn or fail as well"),
    ],
)
def test_limits_that_would_judge_nothing_are_refused(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        GatesSpec.model_validate(given)
    assert GatesSpec.model_validate({"duplicates": 1.0, "norm": [2, 2]})


def test_a_verdict_without_limit_says_so() -> None:
    verdict = Verdict("norm", "c", 1.0, None, None, "passed", "it is so")
    assert verdict.sentence() == "gate norm of column 'c': it is so; the limit is none"


def test_the_largest_numbers_can_be_judged_and_stored() -> None:
    huge = column_of(np.tile([[1.7e308], [-1.7e308]], (50, 3)))
    assert huge.moments is not None
    assert huge.moments.most.max() == 1.7e308
    verdict = distance(DriftLimits(against="x"), huge, column_of(cloud(9, 3)), "x")
    for value in (verdict.value, math.inf, math.nan):
        document = json.dumps(_document(replace(verdict, value=value)), allow_nan=False)
        assert json.loads(document)["value"] == np.finfo(np.float64).max
