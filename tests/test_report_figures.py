"""What the figures of a report are drawn from, and what records and plans say in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job
from samples import commit, config, table_plan

from pipeline.health.spectrum import principal_components
from pipeline.report import sample
from pipeline.report.figures import (
    COMPONENTS,
    STRIPS,
    colours,
    legend,
    norm_figure,
    points_source,
    scatter_figure,
    spectrum_figure,
    strip_figure,
)
from pipeline.report.origin import config_of, how_to_load, origin_of
from pipeline.report.sample import CLASSES, Label
from pipeline.report.subject import Subject, open_subject
from pipeline.report.verdict import judged, sentence
from pipeline.report.work import Record, read_record
from transforms.statistics.moments import Moments
from transforms.statistics.norms import Norms
from transforms.table.columns import Column
from transforms.table.commit_record import Work
from transforms.table.directory import Table
from transforms.table.statistics import SampleFiles, read_sample
from transforms.table.verdicts import Verdict


def data_of(plot: Any) -> dict[str, Any]:
    return dict(plot.renderers[0].data_source.data)


def moments(values: np.ndarray) -> Moments:
    found = Moments(values.shape[1])
    found.add(values)
    return found


def test_lengths_are_drawn_from_the_shortest_to_the_longest() -> None:
    norms = Norms()
    norms.add(np.array([1.0, 1.0, 8.0]), pa.array(["a", "b", "c"]))
    drawn = data_of(norm_figure(norms))
    assert (drawn["low"][0], drawn["low"][-1]) == (1.0, 8.0)
    assert drawn["rows"].tolist() == [2, *[0] * 11, 1]


def test_each_dimension_has_a_strip_of_its_own() -> None:
    values = np.array([[1, 5, 0], [3, 5, 4]], np.float32)
    drawn = data_of(strip_figure(moments(values)))
    assert drawn["dimension"] == ["0", "1", "2"]
    assert drawn["mean"].tolist() == [2, 5, 2]
    assert drawn["std"].tolist() == [1, 0, 2]
    assert (drawn["least"].tolist(), drawn["most"].tolist()) == ([1, 5, 0], [3, 5, 4])
    assert [colour == "#c0392b" for colour in drawn["colour"]] == [False, True, False]


@pytest.mark.parametrize("width", [STRIPS, STRIPS + 1, 2 * STRIPS, 16_384])
def test_many_dimensions_are_drawn_together(width: int) -> None:
    values = np.tile(np.arange(width, dtype=np.float32), (3, 1))
    values[1] += 1
    drawn = data_of(strip_figure(moments(values)))
    strips = len(drawn["dimension"])
    assert strips <= STRIPS
    assert (drawn["least"][0], drawn["most"][-1]) == (0, width)
    step = -(-width // STRIPS)
    if step > 1:
        assert drawn["dimension"][0] == f"0 to {step - 1}"
    mean = np.arange(step).mean() + 1 / 3
    assert drawn["mean"][0] == pytest.approx(mean)
    assert drawn["dimension"][-1].split()[-1] == str(width - 1)


def test_values_at_the_end_of_their_type_can_be_drawn() -> None:
    values = np.array([[1e308, 1.0], [1e300, 2.0]])
    drawn = data_of(strip_figure(moments(values)))
    for name in ("mean", "std", "low", "high", "least", "most"):
        assert np.isfinite(drawn[name]).all(), name
    components = principal_components(values)
    source = points_source(["a", "b"], None, {})
    scatter_figure(components, [0, 1], source, "c")
    assert np.isfinite(source.data["c_x"]).all()


def test_the_spectrum_leaves_out_components_that_have_nothing() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 9))
    drawn = data_of(spectrum_figure(principal_components(flat)))
    assert drawn["component"].tolist() == [1, 2, 3]
    assert drawn["sum"][-1] == pytest.approx(100)
    wide = principal_components(rng.normal(size=(300, 200)))
    assert len(data_of(spectrum_figure(wide))["share"]) == COMPONENTS


def test_rows_that_a_column_cannot_place_are_not_drawn() -> None:
    source = points_source(["a", "b", "c"], None, {2: "data:"})
    components = principal_components(np.array([[1.0, 0.0], [3.0, 0.0]]))
    scatter_figure(components, [0, 2], source, "c1")
    np.testing.assert_array_equal(np.abs(source.data["c1_x"]), [1, np.nan, 1])
    assert source.data["shown"] == ["none", "none", "block"]
    assert source.data["picture"] == ["", "", "picture2"]


def test_keys_that_are_long_are_cut_until_they_fit() -> None:
    few = points_source(["k" * 80] * 10, None, {})
    assert few.data["key"][0] == "k" * 80
    many = points_source(["鍵" * 80] * 1024, Label("l", ["名" * 80] * 1024), {})
    for name in ("key", "label"):
        assert len(json.dumps(many.data[name])) <= 150_000
        assert len(many.data[name][0]) == 10
    escaped = points_source(["&" * 80] * 1024, None, {})
    assert len(escaped.data["key"][0]) == 20  # a page has &amp; for each


def test_each_class_has_a_colour_and_others_are_grey() -> None:
    few = Label("l", ["b", "a", "b"])
    assert list(legend(few)) == ["a", "b"]
    first, second, third = colours(few, 3)
    assert first == third != second
    many = Label("l", [str(i) for i in range(CLASSES + 5)] + ["0"])
    assert len(legend(many)) == CLASSES
    assert colours(many, CLASSES + 5).count("#9aa3ad") == 5
    assert len({*colours(None, 4)}) == 1


def test_numbers_have_colours_from_the_least_to_the_greatest() -> None:
    numbers = np.array([2.0, 4.0, 3.0, np.nan, np.inf])
    label = Label("size", [str(n) for n in numbers], numbers)
    low, high, _, missing, infinite = colours(label, 5)
    assert (low, high) == ("#440154", "#FDE724")
    assert missing == infinite == "#9aa3ad"
    same = Label("size", ["1", "1"], np.array([1.0, 1.0]))
    assert len({*colours(same, 2)}) == 1
    none = Label("size", [""], np.array([np.nan]))
    assert colours(none, 1) == ["#9aa3ad"]


def verdict(outcome: Any, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        **{"gate": "norm", "column": "h", "value": 1.0, "warn": None, "fail": None},
        **{"outcome": outcome, "detail": "it is so", "examples": ()},
    }
    return Verdict(**{**values, **changes})


def subject(*verdicts: Verdict, finished: bool = True, **plan: Any) -> Subject:
    return Subject(
        Table("/t"), table_plan(**plan), finished, {}, verdicts, SampleFiles()
    )


def record(rows: int = 1000, **changes: Any) -> Record:
    values: dict[str, Any] = {
        **{"rows": rows, "bytes": 1, "shards": 1, "work": Work()},
        **{"slowest": (), "bad": ()},
    }
    return Record(**{**values, **changes})


@pytest.mark.parametrize(
    ("outcomes", "outcome", "words"),
    [
        ([], "passed", "no gate judged it"),
        (["passed", "passed"], "passed", "all 2 gates passed"),
        (["passed", "warned"], "warned", "1 of its 2 gates warned"),
        (["warned", "failed", "failed"], "failed", "2 of its 3 gates failed"),
    ],
)
def test_the_worst_gate_is_the_verdict(
    outcomes: list[str], outcome: str, words: str
) -> None:
    found = sentence(subject(*map(verdict, outcomes)), record())
    text = f"The table is finished with 1,000 rows in 5 columns; {words}."
    assert (found.outcome, found.text) == (outcome, text)


def test_the_worst_gates_come_first_with_their_limits() -> None:
    lines = judged(
        [
            verdict("passed"),
            verdict("warned", warn=0.25, examples=("a\x1b[1m", "b" * 200)),
            verdict("failed", fail=(0.5, 2.0)),
        ]
    )
    assert [line.outcome for line in lines] == ["failed", "warned", "passed"]
    assert [(line.warn, line.fail) for line in lines] == [
        ("", "0.5 to 2"),
        ("0.25", ""),
        ("", ""),
    ]
    assert lines[1].examples == ["a\\x1b[1m", "b" * 80]


def test_a_record_says_how_busy_the_machines_were() -> None:
    work = Work()
    work.add(commit(seconds={"compute": 9.0, "cores": 5.0, "total": 10.0}))
    busy = record(work=work).busy
    assert busy is not None
    assert (busy.device, busy.share) == ("cores", 0.5)
    assert record().busy is None


def test_seconds_that_no_phase_explains_are_the_rest() -> None:
    work = Work()
    work.add(commit(seconds={"read": 1.0, "compute": 2.0, "total": 4.0}))
    shares = {name: (s, part) for name, s, part in record(work=work).shares()}
    assert shares["computing"] == (2.0, 0.5)
    assert shares["the rest"] == (1.0, 0.25)
    assert sum(part for _, part in shares.values()) == 1.0
    assert {part for _, _, part in record().shares()} == {0.0}


def errors_file(place: Path, shard: int, rows: list[dict[str, Any]]) -> int:
    directory = place / "_featuretap" / "errors"
    directory.mkdir(parents=True, exist_ok=True)
    made = commit(shard, len(rows))
    assert made.errors
    pq.write_table(pa.Table.from_pylist(rows), place / made.errors.path)
    return len(rows)


def bad(key: str | None, exception: str, stage: str = "read") -> dict[str, Any]:
    where = {"file": "in/0", "row": 3}
    message = f"{exception} at {key}"
    return {
        **{"example_id": key, "stage": stage, "exception": exception},
        **{"message": message, **where},
    }


def test_bad_rows_are_counted_by_kind_and_kinds_are_bounded(tmp_path: Path) -> None:
    rows = [bad(f"k{i}", "ValueError") for i in range(5)] + [bad(None, "KeyError")]
    others = [bad("o", f"Error{i}", "infer") for i in range(30)]
    counts = [errors_file(tmp_path, s, r) for s, r in enumerate((rows, others))]
    table = Table(str(tmp_path))
    for shard, count in enumerate(counts):
        table.create_commit(commit(shard, count, seconds={"total": 1.0 + shard}))
    found = read_record(
        Subject(table, table_plan(shard_count=2), True, {}, (), SampleFiles())
    )
    assert (found.rows, found.bad_rows, found.shards) == (20 - sum(counts), 36, 2)
    by_kind = {(kind.stage, kind.exception): kind for kind in found.bad}
    assert by_kind["read", "ValueError"].rows == 5
    assert by_kind["read", "ValueError"].examples == ["k0", "k1", "k2"]
    assert by_kind["read", "ValueError"].message == "ValueError at k0"
    assert by_kind["read", "KeyError"].examples == ["row 3 of in/0"]
    assert len(by_kind) == 21
    assert by_kind["infer", ""].rows == 12
    assert [one.shard for one in found.slowest] == [1, 0]


def test_the_origin_has_no_secrets() -> None:
    source = {"path": "https://host/x?sig=abcdef0123456789"}
    plan = table_plan(config=config(source=source))
    found = Subject(Table("/t"), plan, True, {}, (), SampleFiles())
    text = json.dumps([origin_of(found), config_of(plan)])
    assert "abcdef0123456789" not in text
    assert "https://host/x" in text
    assert ["took over from", "before"] in json.loads(text)[0]
    assert json.loads(config_of(plan))["model"]["build"] == "nowhere:model"
    # Limits are not part of what a table keeps: these would be the default ones.
    assert not {"gates", "publish"} & json.loads(config_of(plan)).keys()


def test_a_remote_table_is_loaded_from_where_it_is() -> None:
    found = Subject(
        Table("memory://bucket/t"), table_plan(), True, {}, (), SampleFiles()
    )
    vector = Column("v", "feature", "float32", (4, 2))
    assert how_to_load(found, [Column("n", "feature", "float32"), vector]) == (
        "import pandas\n"
        "frame = pandas.read_parquet('memory://bucket/t')\n"
        "\n"
        "from pipeline import read_features\n"
        "keys, matrix = read_features('memory://bucket/t', 'v')  # [rows, 4, 2]"
    )
    assert "read_features" not in how_to_load(found, [])


def test_vectors_are_read_some_columns_at_a_time(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.run()
    found = open_subject(str(job.table))
    columns = found.described()
    together = {c.name: v for c, v in sample.read_vectors(found, columns)}
    assert list(together) == ["hidden", "head"]
    reads: list[Any] = []

    def counted(*args: Any) -> pa.Table:
        reads.append(args[-1])
        return read_sample(*args)

    monkeypatch.setattr(sample, "_BYTES_AT_A_TIME", 1)
    monkeypatch.setattr(sample, "read_sample", counted)
    apart = {c.name: v for c, v in sample.read_vectors(found, columns)}
    assert reads == [["hidden"], ["head"]]
    for name, vectors in together.items():
        np.testing.assert_array_equal(vectors, apart[name])
