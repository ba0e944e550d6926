"""Ills that are planted in a table, and what its gates say of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Job
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.plan import Plan, make_plan
from pipeline.run import prepare_table, repair_table, run_plan
from pipeline.status import table_status
from pipeline.verify import verify_table
from transforms.gate_limits import GatesSpec
from transforms.lookup import ConfigError
from transforms.table import gates
from transforms.table.directory import Table
from transforms.table.gates import FEWEST_ROWS, check_gates, read_verdicts
from transforms.table.plan_file import read_plan
from transforms.table.statistics import read_sample, read_statistics, sample_files
from transforms.table.verdicts import Verdict

ROWS, WIDTH = 400, 12


class Vectors(Job):
    """Makes tables of vectors that a test has made up."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "files"
        self.files.mkdir()
        super().__init__(directory, {"reader": "parquet", "path": str(self.files)})

    def put(self, values: np.ndarray, start: int = 0) -> None:
        """Write a file of rows."""
        ids = pa.array(np.arange(start, start + len(values)))
        lists = pa.FixedSizeListArray.from_arrays(
            pa.array(values.astype(np.float32).ravel()), values.shape[1]
        )
        table = pa.table({"id": ids, "vec": lists})
        pq.write_table(table, self.files / f"{start}.parquet", row_group_size=50)

    def make(
        self, name: str, *earlier: str, workers: int | None = None, **gates: Any
    ) -> list[Verdict]:
        """Make a table and give the verdicts on it."""
        run_plan(self.plan_of(name, *earlier, **gates), workers=workers)
        return read_verdicts(Table(str(self.directory / name)))

    def plan_of(self, name: str, *earlier: str, **gates: Any) -> Plan:
        config = self.config(
            model={"build": "toolbox:twelve_model"},
            taps=[{"path": "head", "column": "v"}],
            table={"path": str(self.directory / name), "rows_per_part": 90},
            gates=gates,
        )
        return make_plan(config, earlier)


@pytest.fixture
def made(tmp_path: Path) -> Vectors:
    return Vectors(tmp_path)


def healthy(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)) + 2


def warned(verdicts: list[Verdict]) -> dict[str, Verdict]:
    return {v.gate: v for v in verdicts if v.outcome != "passed"}


def repeated(values: np.ndarray) -> None:
    values[100:300] = values[7]


def one_dead(values: np.ndarray) -> None:
    values[:, :10] = 0.5


def zeros(values: np.ndarray) -> None:
    values[20:40] = 0


def collapsed(values: np.ndarray) -> None:
    values[:] = values[:, :1] * np.linspace(1, 2, WIDTH) + values[:, :] * 1e-3


ILLS = {
    "duplicates": (repeated, r"50\.00% of the rows .*, 201 rows have the most freq"),
    "dead_dimensions": (one_dead, r"10 of 12 dimensions .* \(first: 0, 1, 2\)"),
    "zero_rows": (zeros, "20 of 400 rows are zero"),
    "effective_rank": (collapsed, r"vectors of 12 dimensions spread over 1\.0"),
}


@pytest.mark.parametrize("ill", ILLS)
def test_planted_ills_are_named_also_when_rows_are_taken_over(
    ill: str, made: Vectors
) -> None:
    values = healthy()
    spoil, detail = ILLS[ill]
    spoil(values)
    made.put(values)
    found = warned(made.make("one"))
    assert ill in found
    assert found.keys() <= {ill, "duplicates"}  # rows that are zero are duplicates
    sentence = found[ill].sentence()
    assert re.search(detail, sentence)
    more = healthy(50, seed=1)
    if ill == "dead_dimensions":
        spoil(more)
    made.put(more, start=ROWS)
    two = warned(made.make("two", str(made.directory / "one")))
    assert ill in two
    assert table_status(str(made.directory / "two")).made["carried"]["shards"] >= 4
    three = made.make("three")
    assert [(v.gate, v.value) for v in made_anew(two)] == [
        (v.gate, pytest.approx(v.value)) for v in made_anew(warned(three))
    ]


def made_anew(verdicts: dict[str, Verdict]) -> list[Verdict]:
    return sorted(verdicts.values(), key=lambda verdict: verdict.gate)


def test_healthy_rows_pass(made: Vectors) -> None:
    made.put(healthy())
    verdicts = made.make("one")
    assert warned(verdicts) == {}
    assert {v.gate for v in verdicts} == {*ILLS}


def test_shifts_and_other_models_are_seen_against_another_table(made: Vectors) -> None:
    made.put(healthy())
    made.make("before")
    against = str(made.directory / "before")
    made.put(healthy(seed=1))
    assert warned(made.make("same", drift={"against": against})) == {}
    half = healthy(seed=2)
    half[::2] += 1.5
    made.put(half)
    found = warned(made.make("shifted", drift={"against": against}))
    assert found["drift"].value == pytest.approx(np.hypot(0.75, 0.25), rel=0.1)
    mixed = healthy(seed=3)
    mixed[::2] = mixed[::2] @ np.random.default_rng(4).normal(size=(WIDTH, WIDTH))
    made.put(mixed)
    message = r"gate drift of column 'v': values lie .*; the limit is 0\.5"
    with pytest.raises(RuntimeError, match=message):
        made.make("mixed", drift={"against": against, "fail": 0.5})


def test_what_nobody_can_mean_fails_and_a_limit_finishes_at_once(
    made: Vectors,
) -> None:
    made.put(np.ones((ROWS, WIDTH)))
    with pytest.raises(RuntimeError, match="must pass its gates, 1 failed;") as failure:
        made.make("one")
    assert "--set gates.dead_dimensions=false switches one off" in str(failure.value)
    assert "12 of 12 dimensions have one value in all rows" in str(failure.value)
    assert not (made.directory / "one" / "_SUCCESS").exists()
    records = made.directory / "one" / "_featuretap" / "commits"
    before = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    made.make("one", dead_dimensions=False)
    assert {path: path.stat().st_mtime_ns for path in records.iterdir()} == before
    assert verify_table(str(made.directory / "one")) == []


def test_a_finished_table_is_judged_again_by_other_limits(made: Vectors) -> None:
    values = healthy()
    zeros(values)
    made.put(values)
    made.make("one")
    success = (made.directory / "one" / "_SUCCESS").read_bytes()
    with pytest.raises(RuntimeError, match=r"gate zero_rows .* the limit is 0\.04"):
        made.make("one", zero_rows=0.04)
    assert (made.directory / "one" / "_SUCCESS").read_bytes() == success
    assert warned(made.make("one", zero_rows=0.06, duplicates=False)) == {}


def test_examples_are_keys_of_rows_at_fault(made: Vectors) -> None:
    values = healthy()
    values[3], values[5, 2] = 0, np.nan
    values[9] *= 1000
    made.put(values)
    found = warned(
        made.make("one", zero_rows={"warn": 0}, non_finite={"warn": 0},
                  norm={"warn": [0.1, 100]}, effective_rank=False)
    )  # fmt: skip
    examples = {gate: list(verdict.examples) for gate, verdict in found.items()}
    assert examples == {"zero_rows": ["3"], "non_finite": ["5"], "norm": ["9"]}
    assert found["norm"].value == pytest.approx(np.linalg.norm(values[9]), rel=1e-5)


def test_workers_and_beam_judge_alike(made: Vectors) -> None:
    values = healthy()
    zeros(values)
    made.put(values)
    one, two = made.make("one"), made.make("two", workers=2)
    assert [(v.gate, v.outcome) for v in one] == [(v.gate, v.outcome) for v in two]
    for name in ("three", "four"):
        with pytest.raises(RuntimeError, match="gate zero_rows"):
            made.make(name, workers=2 if name == "four" else None, zero_rows=0.01)


def test_ranks_are_of_few_columns_at_a_time(
    made: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps = [{"path": "head", "column": name} for name in "abc"]
    read, asked = gates.read_sample, []

    def noted(table: Table, plan: Any, sample: Any, names: Any, **given: Any) -> Any:
        asked.append([*names])
        return read(table, plan, sample, names, **given)

    made.put(healthy())
    monkeypatch.setattr(gates, "read_sample", noted)
    monkeypatch.setattr(gates, "_BYTES_AT_A_TIME", 2 * 4096 * WIDTH * 4)
    config = made.config(model={"build": "toolbox:twelve_model"}, taps=taps)
    run_plan(make_plan(config))
    ranks = [
        verdict.value
        for verdict in read_verdicts(Table(str(made.table)))
        if verdict.gate == "effective_rank"
    ]
    assert asked == [["a", "b"], ["c"]]
    assert ranks == [ranks[0]] * 3


def test_every_gate_can_be_switched_off(made: Vectors) -> None:
    made.put(np.zeros((ROWS, WIDTH)))
    assert made.make("one", **dict.fromkeys(GatesSpec.model_fields, False)) == []


def test_few_rows_are_not_judged(made: Vectors) -> None:
    made.put(np.ones((FEWEST_ROWS - 1, WIDTH)))
    assert made.make("one") == []


def test_columns_are_those_that_a_gate_is_for(job: Job) -> None:
    job.run(
        taps=[
            {"path": "head"},
            {"path": "head", "reduce": ["first"], "column": "class"},
            {"path": "head", "reduce": ["mean"], "column": "mean"},
        ],
        gates={"duplicates": {"fail": 0.9, "columns": "class"}},
    )
    verdicts = read_verdicts(Table(str(job.table)))
    assert [v.column for v in verdicts if v.gate == "duplicates"] == ["class"]
    assert {v.column for v in verdicts if v.gate != "duplicates"} == {"head"}


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (
            {"zero_rows": {"warn": 0, "columns": "hed"}},
            r"gates\.zero_rows\.columns .*'head'",
        ),
        ({"drift": {"against": "nowhere"}}, r"gates\.drift\.against must name a fin"),
        ({"zero_row": 0.1}, r"gates\.zero_row"),
        ({"norm": 3}, r"gates\.norm"),
        ({"effective_rank": "high"}, r"gates\.effective_rank"),
        ({"drift": {"fail": 1}}, r"gates\.drift\.against"),
    ],
)
def test_wrong_gates_are_refused_before_anything_is_computed(
    gates: dict[str, Any], message: str, job: Job
) -> None:
    with pytest.raises(ConfigError, match=message):
        job.plan(gates=gates)


def test_a_table_of_other_columns_cannot_be_compared_with(job: Job) -> None:
    job.run(taps=[{"path": "head"}], table={"path": str(job.directory / "there")})
    against = {"drift": {"against": str(job.directory / "there")}}
    with pytest.raises(ConfigError, match=r"column 'hidden' .* has no such column"):
        job.plan(gates=against)
    columns = read_plan(Table(str(job.directory / "there"))).columns
    check_gates(GatesSpec.model_validate(against), columns)


def test_warnings_are_said_at_the_end_and_by_status(made: Vectors) -> None:
    values = healthy()
    zeros(values)
    made.put(values)
    text = f"""
[source]
reader = "parquet"
path = "{made.files}"
key = "id"
[model]
build = "toolbox:twelve_model"
[[taps]]
path = "head"
[table]
path = "{made.directory / "table"}"
"""
    (made.directory / "job.toml").write_text(text)
    done = CliRunner().invoke(app, ["run", str(made.directory / "job.toml")])
    assert done.exit_code == 0
    sentence = "gate zero_rows of column 'head': 20 of 400 rows are zero in all"
    assert sentence in done.stderr
    command = ["status", str(made.directory / "table")]
    assert sentence in CliRunner().invoke(app, command).output
    document = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    (one,) = [g for g in document["gates"] if g["gate"] == "zero_rows"]
    assert (one["value"], one["outcome"]) == (0.05, "warned")


def test_statistics_and_sample_of_a_table_are_those_of_its_rows(made: Vectors) -> None:
    values = healthy(12_000)
    made.put(values)
    made.make("one")
    table = Table(str(made.directory / "one"))
    plan = read_plan(table)
    found = read_statistics(table)["v"]
    rows = values.astype(np.float32).astype(np.float64)
    assert found.moments is not None
    np.testing.assert_allclose(found.moments.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.moments.std, rows.std(axis=0), rtol=1e-12)
    commits = list(table.read_commits(range(plan.shard_count)))
    assert all(commit.statistics.sample for commit in commits)
    sample = read_sample(table, plan, sample_files(commits))
    assert len(sample) == 4096
    ids = sample["example_id"].to_numpy()
    vectors = np.stack(sample["v"].to_numpy(zero_copy_only=False))
    assert np.array_equal(vectors, values[ids].astype(np.float32))


def test_damaged_statistics_are_found_and_mended(made: Vectors) -> None:
    made.put(healthy())
    made.make("one")
    place = made.directory / "one"
    before = {p: p.read_bytes() for p in place.rglob("*.parquet")}
    record = Table(str(place)).read_commit(0)
    assert record is not None
    of_part = place / record.statistics.columns.path
    of_table = place / "_featuretap" / "statistics" / "table.parquet"
    for damage in (lambda p: p.write_bytes(b"nothing"), lambda p: p.unlink()):
        for path in (of_part, of_table):
            damage(path)
            (text,) = verify_table(str(place))
            assert path.name in text
            plan = made.plan_of("one")
            prepare_table(plan)
            repair_table(plan)
            run_plan(plan)
            assert verify_table(str(place)) == []
            assert {p: p.read_bytes() for p in place.rglob("*.parquet")} == before
