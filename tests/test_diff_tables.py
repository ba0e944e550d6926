"""Two tables compared: what differs, whether one may replace the other, limits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job, worker_of
from hypothesis import given
from hypothesis import strategies as st
from test_cli import invoke
from test_pairs import cloud, rotation

from pipeline import diff_tables, make_plan, prepare_table
from pipeline.diff import sample
from pipeline.diff.columns import ColumnDiff, Pairs, compare_column, is_sampled
from pipeline.diff.limits import LIMITS, check_limits, parse_limits
from pipeline.diff.rows import Rows, count_keys
from pipeline.diff.sample import Samples, halves
from pipeline.diff.schema import compare_schemas
from pipeline.diff.side import open_side
from pipeline.diff.tables import Diff
from pipeline.diff.verdict import Verdict, judge, percent
from pipeline.versions import point_at
from transforms.column_names import KEY
from transforms.extract import extract_shard
from transforms.lookup import ConfigError
from transforms.statistics.column import ColumnStatistics
from transforms.statistics.sample import HASH
from transforms.table import keys
from transforms.table.columns import Column
from transforms.table.commit import commit_table
from transforms.table.directory import Table

ROWS = 120
VECTORS = cloud(ROWS, 6)
NAMES = [f"row-{i:03d}" for i in range(ROWS)]


class Tables(Job):
    """Makes tables of the vectors of the source, by a model that changes none."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, {"reader": "parquet"})

    def make(
        self,
        name: str,
        values: np.ndarray = VECTORS,
        names: list[Any] = NAMES,
        kept: Mapping[str, Any] = {},
        *earlier: str,
        **sections: Any,
    ) -> str:
        """Make a table of its own data."""
        data = self.directory / f"data-{name}"
        data.mkdir()
        rows = {"id": names, "vec": list(values.astype(np.float32)), **kept}
        pq.write_table(pa.table(rows), data / "rows.parquet", row_group_size=40)
        source = {"path": str(data), "keep": list(kept), **sections.pop("source", {})}
        return self.again(name, *earlier, source=source, **sections)

    def again(self, name: str, *earlier: str, **sections: Any) -> str:
        """Make a table of data that are there."""
        path = str(self.directory / name)
        given = {
            "model": {"build": "toolbox:plain_model"},
            "taps": [{"path": "head"}],
            **sections,
            "table": {"path": path, "rows_per_part": 40, **sections.pop("table", {})},
        }
        plan = make_plan(self.config(**given), list(earlier))
        prepare_table(plan)
        worker = worker_of(path)  # in this process, which is quicker than an engine
        for shard in plan.shards:
            extract_shard(worker, shard)
        commit_table(Table(path), 1.0)
        return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    tables = Tables(tmp_path_factory.mktemp("tables"))
    tables.make("a", kept={"label": list(range(ROWS))})
    return tables


@pytest.fixture(scope="module")
def a(made: Tables) -> str:
    return str(made.directory / "a")


def only(diff: Diff) -> ColumnDiff:
    (column,) = diff.columns
    return column


def test_a_table_is_equal_to_itself_byte_for_byte(a: str) -> None:
    diff = diff_tables(a, a)
    assert diff.sentence == "the tables are equal, byte for byte"
    assert (diff.rows.both, diff.rows.in_equal_parts) == (ROWS, ROWS)
    assert diff.schema == ()
    column = only(diff)
    pairs = column.pairs
    assert (pairs.equal, pairs.cosine, pairs.overlap, pairs.cka) == (1, 1, 1, 1)
    strict = {"cosine": 1, "overlap": 1, "cka": 1, "drift": 0, "rows": 0, "equal": 1}
    assert diff_tables(a, a, strict).beyond == ()
    assert column.made_alike
    assert column.pairs.moved == ()


def test_a_rotated_space_has_the_same_geometry(made: Tables, a: str) -> None:
    b = made.make("rotated", VECTORS @ rotation(6))
    diff = diff_tables(a, b)
    column = only(diff)
    assert judge(column) == "same geometry"
    assert column.pairs.cka == pytest.approx(1, abs=1e-5)
    assert column.pairs.overlap == pytest.approx(1, abs=0.01)
    assert column.pairs.cosine is not None
    assert column.pairs.cosine < 0.9
    assert "coordinates are other ones: vectors of both must not be" in diff.sentence
    assert "indexes must be rebuilt" in diff.sentence
    assert "the same model, the same rows" in diff.sentence
    assert [one.sentence() for one in diff.schema] == ["column label is only in A"]


def test_other_lengths_leave_directions(made: Tables, a: str) -> None:
    diff = diff_tables(a, made.make("scaled", 3 * VECTORS))
    assert judge(only(diff)) == "same directions"
    assert only(diff).norms[1] == pytest.approx(3 * (only(diff).norms[0] or 0))
    assert (
        "directions are the same (median cosine 1.0000), lengths are x 3:"
        in diff.sentence
    )
    assert "indexes by cosine stay good" in diff.sentence


def test_small_noise_is_interchangeable_and_says_what_is_equal(
    made: Tables, a: str
) -> None:
    near = VECTORS.copy()
    near[::2] *= 1 + 1e-4
    diff = diff_tables(a, made.make("near", near))
    assert judge(only(diff)) == "interchangeable"
    assert "50 % of 120 sampled rows are equal" in diff.sentence
    assert "B may take the place of A" in diff.sentence
    assert not diff.rows.in_equal_parts


def test_rows_that_moved_are_named(made: Tables, a: str) -> None:
    moved = VECTORS.copy()
    moved[10:20] += 3
    diff = diff_tables(a, made.make("moved", moved))
    assert judge(only(diff)) == "some rows moved"
    assert only(diff).pairs.still == pytest.approx(110 / 120)
    assert {row.key for row in only(diff).pairs.moved} <= {*NAMES[10:20]}
    assert len(only(diff).pairs.moved) == 5
    assert "8.33 % of 120 sampled rows moved" in diff.sentence


def test_another_model_is_said_to_be_one(made: Tables) -> None:
    source = {"path": str(made.directory / "data-a")}
    taps = [{"path": "head", "column": "head"}]
    tables = [
        made.again(name, source=source, model={"build": model}, taps=taps)
        for name, model in (
            ("dict", "toolbox:dict_model"),
            ("sated", "toolbox:sated_model"),
        )
    ]
    diff = diff_tables(*tables)
    assert not diff.same_model
    assert not only(diff).made_alike
    assert only(diff).widths == (2, 3)
    assert only(diff).drift is only(diff).auc is only(diff).pairs.cosine is None
    assert only(diff).pairs.overlap is not None
    assert only(diff).pairs.moved[0].overlap is not None
    assert diff.sentence.startswith("another model, the same rows: neighbours agree")
    assert diff.rows.both == ROWS
    (shape,) = [one for one in diff.schema if one.what == "shape"]
    assert shape.sentence() == "column head has shape [2] in A, [3] in B"


def test_rows_of_only_one_table_are_counted_over_all_rows(
    made: Tables, a: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*NAMES[5:], "new-1", "new-\x1b[31m2"]
    values = np.concatenate([VECTORS[5:], VECTORS[:2]])
    b = made.make("fewer", values, names)
    monkeypatch.setattr(keys, "_KEYS_IN_MEMORY", 50)  # so that keys are spread
    rows = diff_tables(a, b).rows
    assert (rows.only_a, rows.only_b, rows.both) == (5, 2, 115)
    assert sorted(rows.examples_a) == NAMES[:5]
    assert sorted(rows.examples_b) == ["new-\x1b[31m2", "new-1"]
    assert rows.share == pytest.approx(7 / 122)
    monkeypatch.undo()
    assert diff_tables(a, b).rows.only_a == 5
    stdout, _ = invoke("diff", a, b, "--limit", "rows=0.01", code=1)
    assert "\x1b" not in stdout
    assert "2 rows only in B: " in stdout
    assert "BEYOND: rows must be at most 0.01, got 0.05738" in stdout
    said = "5.74 % of the rows are in one table only, of those in both: all 115 sampled"
    assert said in stdout


def no_keys_are_read(monkeypatch: pytest.MonkeyPatch, *but: str) -> None:
    """Let keys be read only of parts whose names hold one of some texts."""

    def keys_of(*arguments: Any) -> Any:
        for path, _ in arguments[2]:
            assert any(text in path for text in but), path
        return keys.keys_of(*arguments)

    monkeypatch.setattr("pipeline.diff.rows.keys_of", keys_of)


def test_parts_that_were_carried_over_are_not_read(
    made: Tables, a: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = made.directory / "data-a" / "rows-2.parquet"
    rows = {"id": ["new"], "vec": [VECTORS[0]], "label": [1]}
    pq.write_table(pa.table(rows), more)
    source = {"path": str(more.parent), "keep": ["label"]}
    b = made.again("carried", a, source=source)
    more.unlink()
    no_keys_are_read(monkeypatch, "part-00003")
    diff = diff_tables(a, b)
    assert (diff.rows.in_equal_parts, diff.rows.only_a) == (ROWS, 0)
    assert diff.rows.examples_b == ["new"]


def test_shards_of_the_same_rows_are_not_read_unless_some_are_bad(
    made: Tables, a: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"path": str(made.directory / "data-a"), "keep": ["label"]}
    sated = made.again("other", source=source, model={"build": "toolbox:sated_model"})
    no_keys_are_read(monkeypatch)
    rows = diff_tables(a, sated).rows
    assert (rows.only_a, rows.only_b, rows.in_equal_parts) == (0, 0, 0)
    picky = made.again("picky", source=source, model={"build": "toolbox:picky_model"})
    no_keys_are_read(monkeypatch, "part-")
    negative = int((VECTORS[:, 0] < 0).sum())
    assert negative
    assert diff_tables(sated, picky).rows.only_a == negative


def test_rows_without_pairs_are_compared_as_distributions(made: Tables, a: str) -> None:
    b = made.make("strangers", cloud(ROWS, 6), [f"other-{i}" for i in range(ROWS)])
    diff = diff_tables(a, b)
    assert diff.rows.both == 0
    assert judge(only(diff)) == "unknown"
    assert only(diff).pairs.rows == 0
    assert only(diff).drift == 0
    assert re.search(
        "fewer than 32 sampled rows .* drift is 0 .* AUC of", diff.sentence
    )


def test_keys_of_another_type_are_compared_as_text(made: Tables) -> None:
    numbers = made.make("numbers", names=list(range(ROWS)))
    texts = made.make("texts", names=[str(i) for i in range(ROWS)])
    diff = diff_tables(numbers, texts)
    assert diff.rows.only_a == diff.rows.only_b == 0
    assert only(diff).pairs.equal == 1
    assert "column example_id has dtype int64 in A, string in B" in [
        one.sentence() for one in diff.schema
    ]


def test_kept_values_are_compared_one_by_one(made: Tables) -> None:
    scores = [0.5, float("nan"), None, 1.0] * (ROWS // 4)
    kept: dict[str, Any] = {"score": pa.array(scores, pa.float32()), "word": NAMES}
    kept["half"] = pa.array(scores, pa.float16())
    ours = made.make("kept-a", kept=kept)
    words = [*NAMES[:-2], "else\x1b", "other"]
    theirs = made.make("kept-b", kept={**kept, "word": words})
    diff = diff_tables(ours, theirs)
    found = {one.name: one for one in diff.kept}
    assert (found["score"].unequal, found["half"].unequal) == (0, 0)
    assert (found["word"].unequal, found["word"].rows) == (2, ROWS)
    assert sorted(found["word"].examples) == NAMES[-2:]
    assert diff.sentence.endswith("; word differs in 2 of 120 sampled rows")


def test_rows_that_are_not_finite_are_left_out_and_said(made: Tables, a: str) -> None:
    broken = VECTORS.copy()
    broken[3, 0] = np.nan
    diff = diff_tables(a, made.make("broken", broken))
    assert (only(diff).pairs.rows, only(diff).pairs.not_finite) == (119, 1)
    assert judge(only(diff)) == "interchangeable"
    assert "1 sampled rows of head are not finite: left out" in diff.sentence


def test_few_columns_are_read_at_a_time_with_the_same_result(
    made: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = [
        {"path": "head"},
        {"path": "head", "reduce": "mean", "column": "mean"},
        {"path": "head", "reduce": "l2_normalize", "column": "unit"},
    ]
    ours = made.make("three-a", kept={"label": NAMES}, taps=taps)
    theirs = made.make("three-b", 2 * VECTORS, kept={"label": NAMES}, taps=taps)
    whole = diff_tables(ours, theirs)
    assert [judge(column) for column in whole.columns] == [
        "same directions",
        "same geometry",
        "equal",
    ]
    assert "in column mean CKA 1, but coordinates" in whole.sentence
    assert whole.columns[1].pairs.overlap is None  # of single numbers
    monkeypatch.setattr(sample, "_BYTES", 1)
    assert diff_tables(ours, theirs).to_json() == whole.to_json()
    some = diff_tables(ours, theirs, columns=["unit"])
    assert only(some) == whole.columns[2]
    stdout, _ = invoke("diff", ours, theirs, "--limit", "cosine=0.99")
    assert "BEYOND" not in stdout  # single numbers have no cosine


def test_limits_decide_the_exit_code(made: Tables, a: str) -> None:
    b = str(made.directory / "limited")
    made.make("limited", VECTORS + 0.5 * cloud(ROWS, 6, seed=9))
    within = ["--limit", "cosine=0.1", "--limit", "overlap=0.1", "--limit", "rows=0"]
    assert "BEYOND" not in invoke("diff", a, b, *within)[0]
    strict = ["--limit", "cosine=0.9999", "--limit", "drift=0.001", "--json"]
    document = json.loads(invoke("diff", a, b, *strict, code=1)[0])
    assert [text.split(" must")[0] for text in document["beyond"]] == [
        "cosine of column head",
        "drift of column head",
    ]
    assert "must be at least 0.9999, got 0." in document["beyond"][0]
    assert document["columns"][0]["verdict"] in ("different", "some rows moved")
    assert document["rows"]["both"] == ROWS
    assert document["sentence"] == diff_tables(a, b).sentence
    stdout, _ = invoke("diff", a, b, *strict[:-1], code=1)
    assert "BEYOND: drift of column head must be at most 0.001" in stdout


def test_what_cannot_be_measured_is_beyond_its_limit(made: Tables, a: str) -> None:
    taps = [{"path": "head", "reduce": "mean", "column": "mean"}]
    other = made.make("mean", kept={"label": NAMES}, taps=taps)
    limits = {"cosine": 0.5}
    assert diff_tables(a, other, limits).beyond == (
        "column head is only in A: it cannot be held to limits",
        "column mean is only in B: it cannot be held to limits",
        "cosine must be at least 0.5, but no column has it",
    )
    said = "the same rows: no column of numbers that a model computes is in both; noth"
    assert said in diff_tables(a, other).sentence
    few = made.make("few", VECTORS[:20], NAMES[:20])
    assert diff_tables(a, few, {"auc": 0.9}).beyond == (
        "auc of column head must be at most 0.9, it could not be measured",
    )
    assert diff_tables(a, few, {"equal": 1}).beyond == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--limit", "cosin=0.9"], "got 'cosin'; nearest is 'cosine'"),
        (["--limit", "cosine"], "--limit must be NAME=VALUE with a number, got 'cos"),
        (["--limit", "cosine=much"], "must be NAME=VALUE with a number"),
        (["--limit", "cosine=nan"], "limit cosine must be a finite number"),
        (["--column", "hed"], "got 'hed'; nearest is 'head'"),
    ],
)
def test_misuse_is_refused(a: str, arguments: list[str], said: str) -> None:
    assert said in invoke("diff", a, a, *arguments, code=2)[1]


def test_only_finished_tables_are_compared(made: Tables, a: str) -> None:
    source = {"path": str(made.directory / "data-a")}
    path = str(made.directory / "unfinished")
    prepare_table(
        make_plan(
            made.config(
                source=source,
                model={"build": "toolbox:plain_model"},
                taps=[{"path": "head"}],
                table={"path": path},
            )
        )
    )
    _, stderr = invoke("diff", a, path, code=2)
    assert "only finished tables are compared" in stderr
    _, stderr = invoke("diff", str(made.directory / "nowhere"), a, code=2)
    assert "a table must hold _featuretap/config.json" in stderr


def test_tables_may_lie_in_any_store(a: str) -> None:
    store = fsspec.filesystem("memory")
    for file in Path(a).rglob("*.*"):
        store.pipe_file(f"/diff/a/{file.relative_to(a)}", file.read_bytes())
    store.pipe_file("/diff/a/_SUCCESS", Path(a, "_SUCCESS").read_bytes())
    stdout, _ = invoke("diff", "memory://diff/a", a)
    assert "the tables are equal, byte for byte" in stdout


def test_a_root_of_tables_stands_for_its_current_one(made: Tables, a: str) -> None:
    point_at(str(made.directory), "a")
    stdout, _ = invoke("diff", str(made.directory), a)
    assert f"A is {a}: 120 rows" in stdout
    assert "the tables are equal, byte for byte" in stdout


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        (Pairs(), "unknown"),
        (Pairs(20, 0, 1.0), "equal"),
        (Pairs(20, 1, 1.0), "unknown"),
        (Pairs(20, 0, 0.5, 1.0, 0.0), "unknown"),
        (Pairs(40, 0, 0.5, 1.0, 0.01, 1.0, 1.0, 0.95, 1.0), "interchangeable"),
        (Pairs(40, 0, 0.5, 1.0, 0.01, 1.0, 1.0, 0.85, 1.0), "some rows moved"),
        (Pairs(40, 0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.95, 1.0), "same directions"),
        (Pairs(40, 0, 0.0, 0.0, 1.0, 1.0, 0.9, 0.95, 1.0), "same geometry"),
        (Pairs(40, 0, 0.0, 0.0, 1.0, 0.2, 0.1, 0.85, 1.0), "different"),
        (Pairs(40, 0, 0.0, 0.0, 1.0, 0.2, 0.1, 0.95, 0.98), "different"),
        (Pairs(40, 0, None, None, None, None, None, 0.95, 0.995), "same geometry"),
        (Pairs(40, 0, 0.0, 0.0, None), "different"),
        (Pairs(40, 0, 0.0, 0.0, 2.0, cka=1.0), "same geometry"),
    ],
)
def test_the_first_rule_that_holds_decides(pairs: Pairs, verdict: str) -> None:
    column = ColumnDiff("x", (4, 4), False, (1.0, 1.0), pairs=pairs)
    assert judge(column) == verdict


@given(st.floats(0, 1))
def test_shares_read_as_all_or_none_only_if_they_are(share: float) -> None:
    text = percent(share)
    assert (text == "100 %") == (share == 1)
    assert (text == "0 %") == (share == 0)
    assert float(text[:-2]) == pytest.approx(100 * share, abs=0.0101)


def test_limits_are_read_from_text() -> None:
    assert parse_limits(["cosine=0.9", "rows=0"]) == {"cosine": 0.9, "rows": 0.0}
    with pytest.raises(ConfigError, match="one of rows, equal, cosine"):
        check_limits({"speed": 1.0})


def test_half_shifted_rows_and_repeated_ones_are_seen(made: Tables, a: str) -> None:
    shifted = VECTORS.copy()
    shifted[::2] += 5
    half = only(diff_tables(a, made.make("half", shifted)))
    assert judge(half) == "some rows moved"
    assert half.pairs.still == 0.5
    assert half.pairs.cosine is not None
    assert half.pairs.low_cosine is not None
    assert half.pairs.low_cosine < 0.9 < half.pairs.cosine
    assert half.auc is not None
    assert half.auc > 0.6
    assert half.drift is not None
    assert half.drift > 0.5
    twice = VECTORS.copy()
    twice[60:] = twice[:60]
    repeated = made.make("repeated", twice)
    again = made.make("repeated-rotated", twice @ rotation(6))
    column = only(diff_tables(repeated, again))
    assert judge(column) == "same geometry"
    assert column.pairs.overlap == pytest.approx(1, abs=0.01)


def values(rows: list[Any], kind: pa.DataType) -> tuple[Column, ColumnStatistics]:
    """A column of numbers, and what it is like."""
    array = pa.array(rows, kind)
    width = {len(row) for row in rows} if pa.types.is_list(kind) else set()
    shape = (width.pop() if len(width) == 1 else None,) if width else ()
    column = Column("x", "feature", "float32", shape)
    found = ColumnStatistics("x", column.width)
    names = pa.array([str(i) for i in range(len(rows))])
    found.add(array, names, np.arange(len(rows), dtype=np.uint64))
    return column, found


def test_columns_that_samples_do_not_have_are_compared_over_all_rows() -> None:
    kind = pa.list_(pa.float32())
    ours, before = values([[1.0], [1.0, 0.0], []], kind)
    theirs, after = values([[2.0], [0.0, 2.0], []], kind)
    assert not is_sampled(ours, theirs)
    found = compare_column((ours, theirs), (before, after), None)
    assert found.norms == (1.0, 2.0)
    assert found.widths == (None, None)
    assert (found.drift, found.auc, found.pairs) == (None, None, Pairs())
    assert judge(found) == "unknown"
    wide, beside = values([[0.5] * 5000] * 3, kind)
    assert not is_sampled(wide, wide)
    assert compare_column((wide, wide), (beside, beside), None).drift == 0
    single, numbers = values([1.0, 2.0], pa.float32())
    assert is_sampled(single, single)
    assert compare_column((single, wide), (numbers, beside), None).drift is None


def test_a_column_that_was_constant_has_no_infinite_numbers(made: Tables) -> None:
    flat = made.make("flat", np.ones((ROWS, 6)), gates={"dead_dimensions": {}})
    other = made.make("not-flat")
    document = diff_tables(flat, other).to_json()
    text = json.dumps(document, allow_nan=False)
    column = json.loads(text)["columns"][0]
    assert column["pairs"]["distance"] is None
    assert column["pairs"]["cka"] is None
    assert column["verdict"] == "different"
    assert column["drift"] == pytest.approx(1, abs=0.05)
    assert "B cannot take the place of A" in document["sentence"]


def test_large_tables_are_compared_by_their_samples(made: Tables) -> None:
    """Of more rows than a sample has: keys are paired whatever is missing elsewhere."""
    rows = 10_000
    vectors = cloud(rows, 6)
    names = [f"key-{i}" for i in range(rows)]
    model = {"build": "toolbox:plain_model", "batch_rows": 2000}
    parts = {"rows_per_part": 4000}
    large = made.make("large", vectors, names, table=parts, model=model)
    chosen = np.arange(rows) % 50 != 3
    some = [name for name, kept in zip(names, chosen, strict=True) if kept]
    turned = vectors[chosen] @ rotation(6)
    parts = {"rows_per_part": 2500}
    less = made.make("less", turned, some, table=parts, model=model)
    diff = diff_tables(large, less)
    assert (diff.rows.both, diff.rows.only_a, diff.rows.only_b) == (9800, 200, 0)
    pairs = only(diff).pairs
    assert 3900 <= pairs.rows <= 4096
    assert pairs.overlap == pytest.approx(1, abs=0.01)
    assert pairs.cka == pytest.approx(1, abs=1e-5)
    sides = open_side(large), open_side(less)
    ((_, samples),) = sample.read_samples(*sides, ["head"])
    assert samples.both_a[KEY].equals(samples.both_b[KEY])
    hashes = samples.both_a[HASH].to_numpy()
    assert (hashes[1:] >= hashes[:-1]).all()
    column = Column("head", "feature", "float32", (6,))
    ours, theirs = (sample.vectors(t, column) for t in (samples.both_a, samples.both_b))
    np.testing.assert_allclose(ours @ rotation(6), theirs, atol=1e-5)


def test_a_classifier_never_sees_a_key_in_both_tables() -> None:
    """Else it would know rows again, and say nothing of how the tables differ."""
    hashes = np.arange(100, dtype=np.uint64)
    both = pa.table(
        {HASH: hashes, "x": [float(i) if i != 7 else np.nan for i in hashes]}
    )
    column = Column("x", "feature", "float64")
    ours, theirs = halves(Samples(both, both, both, both), column, column)
    assert (len(ours), len(theirs)) == (50, 49)  # without the row that is not finite
    assert not {*ours[:, 0]} & {*theirs[:, 0]}


def test_schemas_differ_in_what_readers_rely_on() -> None:
    key = Column("example_id", "key", "string")
    ours = Column("x", "feature", "float32", (4,), "dense", ("mean", "relu"))
    theirs = Column("x", "keep", "float16", (None,), "dense", ())
    found = compare_schemas(
        {"example_id": key, "x": ours, "word": Column("word", "keep", "string")},
        {"example_id": key, "x": theirs, "y": ours},
    )
    assert [(one.sentence(), one.computed) for one in found] == [
        ("column x has role feature in A, keep in B", True),
        ("column x has dtype float32 in A, float16 in B", True),
        ("column x has shape [4] in A, [?] in B", True),
        ("column x has reduce mean | relu in A, none in B", True),
        ("column word is only in A", False),
        ("column y is only in B", True),
    ]


TEXTS = st.sets(st.text(max_size=3), max_size=12)


@given(TEXTS, TEXTS, st.integers(1, 5))
def test_rows_of_one_table_are_those_of_sets(
    ours: set[str], theirs: set[str], size: int
) -> None:
    """Whatever the batches that keys come in, and whatever the keys."""
    batches = []
    for side, names in enumerate((sorted(ours), sorted(theirs))):
        for first in range(0, len(names), size):
            some = pa.array(names[first : first + size], pa.string())
            part = pa.array([side] * len(some), pa.int32())
            batches.append(pa.record_batch({"0": some, "part": part}))
    found = Rows(len(ours), len(theirs))
    count_keys(found, batches)
    assert found.only_a == len(ours - theirs)
    assert found.only_b == len(theirs - ours)
    assert found.both == len(ours & theirs)
    assert {*found.examples_a} <= ours - theirs
    assert len(found.examples_b) == min(5, len(theirs - ours))
    assert 0 <= found.share <= 1


def test_the_document_names_all_limits_and_verdicts() -> None:
    page = (Path(__file__).parents[1] / "docs" / "health.md").read_text()
    section = page.partition("\n## Two tables\n")[2].partition("\n## ")[0]
    assert {*re.findall(r"^\| `(\w+)=`", section, re.MULTILINE)} == {*LIMITS}
    rules = section.partition("### Verdicts")[2]
    names = re.findall(r"^\| ([a-z ]+) \|", rules, re.MULTILINE)
    assert names == ["verdict", *(v for v in get_args(Verdict) if v != "unknown")]
