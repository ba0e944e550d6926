"""The stages of a run, each done again and again by the code of a run."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROWS, Job
from toolbox import Elsewhere

from pipeline import make_plan
from pipeline.plan import Plan
from pipeline.tune import stages
from pipeline.tune.stages import Copies, Sample
from transforms import scratch
from transforms.table.directory import Table
from transforms.taps.compile import CompiledTaps, compile_taps
from transforms.worker import Worker, make_worker

NO_KEY: dict[str, Any] = {"source": {"key": None}}


def planned(job: Job, **sections: Any) -> tuple[Worker, Plan]:
    plan = make_plan(job.config(**sections))
    return make_worker(Table(str(job.directory / "scratch")), plan), plan


def compiled(worker: Worker, rows: int = 16) -> CompiledTaps:
    return compile_taps(worker.computer.model, worker.plan.taps, rows)


def taken(worker: Worker, plan: Plan, seconds: float = 60.0) -> Sample:
    return stages.take_sample(worker, plan.shards, seconds)


@pytest.fixture
def job(tmp_path: Path, sources: dict[str, dict[str, Any]]) -> Job:
    return Job(tmp_path, {**sources["user"], "sizes": [30, 45, 20]})


def counts(work: Iterator[int], number: int) -> list[int]:
    return list(itertools.islice(work, number))


def test_scanning_goes_round_the_shards_from_one_on(job: Job) -> None:
    worker, plan = planned(job)
    sizes = [shard.rows for shard in plan.shards]
    assert sizes == [20, 20, 20, 20, 15]
    pipeline = replace(worker.pipeline, batch_rows=1000)
    work = stages.scan(pipeline, plan.shards, 2, Copies())
    assert counts(work, 2 * len(sizes)) == [*sizes[2:], *sizes, *sizes[:2]]


@pytest.mark.parametrize("reader", ["parquet", "tfrecord"])
@pytest.mark.parametrize("step", ["example", "batch", None])
def test_reading_alone_reads_the_same_rows_and_drops_them(
    tmp_path: Path, sources: dict[str, dict[str, Any]], reader: str, step: str | None
) -> None:
    double = {"step": "toolbox:double", "batched": step == "batch"}
    steps = [double] if step else []
    worker, plan = planned(
        Job(tmp_path, sources[reader]), source={"preprocess": steps, "keep": []}
    )
    whole, alone = worker.pipeline, stages.only_reading(worker.pipeline)
    assert alone.preparation.takes_batches == whole.preparation.takes_batches
    for shard in itertools.islice(plan.shards, 2):
        read = list(alone.batches(shard.pieces, stages.ignore))
        made = list(whole.batches(shard.pieces, stages.ignore))
        positions = [batch.positions.tolist() for batch in read]
        assert positions == [batch.positions.tolist() for batch in made]
        assert not any(batch.inputs or batch.passed for batch in read)


def test_reading_alone_runs_no_step(job: Job) -> None:
    worker, plan = planned(job, source={"preprocess": ["toolbox:refuse_all"]})
    alone = stages.only_reading(worker.pipeline)
    assert counts(stages.scan(alone, plan.shards, 0, Copies()), 3) == [16, 4, 16]


@pytest.fixture
def remote(tmp_path: Path, sources: dict[str, dict[str, Any]]) -> Job:
    """Three files that TensorFlow cannot open where they are, in one shard."""
    path = f"{Elsewhere.protocol}://" + sources["tfrecord"]["path"]
    return Job(tmp_path, {"reader": "tfrecord", "path": path})


def copies_here() -> list[Path]:
    return list(scratch._own(os.getpid()).rglob("*.tfrecord"))


def test_a_copied_shard_is_read_again_and_its_copying_counted_once(remote: Job) -> None:
    worker, plan = planned(remote)
    assert [shard.rows for shard in plan.shards] == [None]
    copies = Copies()
    work = stages.scan(worker.pipeline, plan.shards, 0, copies)
    assert counts(work, 8) == [*[16] * 6, 4, 16]
    assert copies.rows == ROWS
    assert copies.seconds > 0
    assert copies.seconds_per_row == copies.seconds / ROWS
    before = copies.seconds
    work.close()
    assert (copies.seconds, copies.rows) == (before, ROWS)


def test_copying_counts_by_the_rows_that_were_seen_of_unknown_many(remote: Job) -> None:
    worker, plan = planned(remote)
    copies = Copies()
    work = stages.scan(worker.pipeline, plan.shards, 0, copies)
    assert counts(work, 2) == [16, 16]
    assert len(copies_here()) == 3
    work.close()
    assert copies.rows == 32
    assert not copies_here()


def test_copying_counts_by_all_rows_if_they_are_known(remote: Job) -> None:
    worker, plan = planned(remote)
    pieces = [
        replace(p, rows=n)
        for p, n in zip(plan.shards[0].pieces, (30, 45, 25), strict=True)
    ]
    copies = Copies()
    shard = replace(plan.shards[0], pieces=tuple(pieces))
    work = stages.scan(worker.pipeline, [shard], 0, copies)
    assert next(work) == 16
    work.close()
    assert copies.rows == ROWS


def test_nothing_is_copied_that_lies_here(job: Job) -> None:
    worker, plan = planned(job)
    copies = Copies()
    counts(stages.scan(worker.pipeline, plan.shards, 0, copies), 20)
    assert copies == Copies()
    assert copies.seconds_per_row == 0.0


def test_a_sample_is_real_rows(job: Job) -> None:
    worker, plan = planned(job)
    sample = taken(worker, plan)
    assert sample.shard == plan.shards[0]
    assert len(sample.batch) == sample.shard.rows
    assert sample.batch.passed["id"].numpy().tolist() == list(range(20))
    assert sample.bytes_per_row == 6 * 4
    assert sample.rows_per_second > 0


def test_a_sample_ends_after_its_seconds(job: Job) -> None:
    worker, plan = planned(job)
    assert len(taken(worker, plan, seconds=0.0).batch) == 16


@pytest.mark.parametrize(
    ("limit", "value"), [("_SAMPLE_ROWS", 10), ("_SAMPLE_BYTES", 100)]
)
def test_a_sample_is_small(
    job: Job, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(stages, limit, value)
    worker, plan = planned(job)
    assert len(taken(worker, plan).batch) == 16


def test_a_sample_gives_any_number_of_rows(job: Job) -> None:
    sample = taken(*planned(job))
    assert len(sample.some(50)) == 50
    ids = sample.some(25, first=18).passed["id"].numpy().tolist()
    assert ids == [18, 19, *range(20), 0, 1, 2]


def test_bad_rows_are_left_out_of_a_sample(job: Job) -> None:
    worker, plan = planned(job, source={"preprocess": ["toolbox:refuse_thirteen"]})
    ids = taken(worker, plan).batch.passed["id"].numpy().tolist()
    assert ids == [n for n in range(20) if n != 13]


def test_without_a_sound_row_there_is_nothing_to_measure(job: Job) -> None:
    worker, plan = planned(job, source={"preprocess": ["toolbox:refuse_all"]})
    with pytest.raises(RuntimeError, match=r"95 rows were tried.*no row will do"):
        taken(worker, plan)


def test_computing_goes_on_with_one_batch(job: Job) -> None:
    worker, plan = planned(job)
    batch = taken(worker, plan).some(40)
    assert counts(stages.compute(compiled(worker), batch), 3) == [40, 40, 40]


def test_a_sample_is_computed_as_a_run_computes_it(job: Job) -> None:
    worker, plan = planned(job)
    sample = taken(worker, plan)
    batch, values = stages.compute_sample(compiled(worker), sample, 60.0)
    assert len(batch) == len(sample.batch) == 20
    whole = compiled(worker, 20)(sample.batch.even_inputs())
    assert values.keys() == whole.keys() == {"hidden", "head"}
    for name, column in values.items():
        np.testing.assert_allclose(column, whole[name], rtol=1e-5)


def test_computing_a_sample_ends_after_its_seconds(job: Job) -> None:
    worker, plan = planned(job)
    batch, values = stages.compute_sample(compiled(worker), taken(worker, plan), 0.0)
    assert len(batch) == len(values["head"]) == 16


def test_a_model_that_fails_for_all_rows_says_so(
    tmp_path: Path, sources: dict[str, dict[str, Any]]
) -> None:
    job = Job(tmp_path, sources["parquet"])
    negative = {"preprocess": [{"step": "toolbox:double", "factor": -1.0}]}
    picky: dict[str, Any] = {
        "model": {"build": "toolbox:picky_model"},
        "taps": [{"path": "head"}],
    }
    worker, plan = planned(job, source=negative, **picky)
    with pytest.raises(RuntimeError, match=r"failed for all of 16.*negative"):
        stages.compute_sample(compiled(worker), taken(worker, plan), 0.0)


def test_computed_rows_are_cut_into_full_batches(job: Job) -> None:
    worker, plan = planned(job)
    computed = stages.compute_sample(compiled(worker), taken(worker, plan), 60.0)
    cut = stages.in_batches(computed, 8)
    assert [len(batch) for batch, _ in cut] == [8, 8, 8]
    last, values = cut[-1]
    assert last.passed["id"].numpy().tolist() == [16, 17, 18, 19, 0, 1, 2, 3]
    np.testing.assert_array_equal(values["head"][4:], cut[0][1]["head"][:4])
    (one,) = stages.in_batches(computed, 50)
    assert len(one[0]) == len(one[1]["hidden"]) == 50


@pytest.mark.parametrize("sections", [{}, NO_KEY], ids=["key", "no key"])
def test_parts_are_written_as_a_run_writes_them(
    job: Job, sections: dict[str, Any]
) -> None:
    worker, plan = planned(job, **sections)
    computed = stages.compute_sample(compiled(worker), taken(worker, plan), 60.0)
    shard = replace(plan.shards[0], index=5)
    work = stages.write(worker, shard, stages.in_batches(computed, 10), 60.0)
    assert counts(work, 3) == [20, 20, 20]
    table = Path(worker.table.uri)
    (part,) = (table / "data").iterdir()
    assert part.name.startswith("part-00005-")
    written = pq.read_table(part)
    assert written.schema.equals(plan.schema)
    assert written["head"].to_pylist() == computed[1]["head"].tolist()
    (described,) = (table / "_featuretap" / "statistics").iterdir()
    assert pq.read_table(described)["rows"].to_pylist() == [20, 20]
    assert not list((table / "_featuretap" / "uploads").iterdir())


def test_parts_are_no_larger_than_planned(job: Job) -> None:
    """Rows that were cut short are filled up; a part has as many as the shard."""
    worker, plan = planned(job, table={"rows_per_part": 30})
    sample = taken(worker, plan, seconds=0.0)
    batches = stages.in_batches(
        stages.compute_sample(compiled(worker), sample, 0.0), 10
    )
    work = stages.write(worker, sample.shard, batches, 60.0)
    assert counts(work, 3) == [20, 30, 30]
    short = stages.write(worker, sample.shard, batches, 0.0)
    assert counts(short, 2) == [20, 20]


def test_rows_of_unknown_number_are_written_by_size(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, plan = planned(job)
    monkeypatch.setattr(stages, "_PART_BYTES", 40 * plan.bytes_per_row)
    sample = taken(worker, plan)
    pieces = tuple(replace(piece, rows=None) for piece in sample.shard.pieces)
    batches = stages.in_batches(
        stages.compute_sample(compiled(worker), sample, 60.0), 10
    )
    work = stages.write(worker, replace(sample.shard, pieces=pieces), batches, 60.0)
    assert counts(work, 2) == [20, 40]


def test_kept_text_and_lists_of_any_length_are_sampled(
    tmp_path: Path, sources: dict[str, dict[str, Any]]
) -> None:
    """Inputs of differing length go through all stages."""
    import pyarrow as pa

    lengths = [3, 5, 4, 3, 5]
    table = pa.table(
        {
            "id": list(range(5)),
            "tokens": pa.array([list(range(n)) for n in lengths], pa.list_(pa.int32())),
            "mask": pa.array([[True] * n for n in lengths], pa.list_(pa.bool_())),
        }
    )
    pq.write_table(table, tmp_path / "words.parquet")
    steps = [
        {"step": "pad", "feature": name, "lengths": [4, 8]}
        for name in ("tokens", "mask")
    ]
    job = Job(tmp_path, {"reader": "parquet", "path": str(tmp_path / "words.parquet")})
    worker, plan = planned(
        job,
        source={"preprocess": steps},
        model={"build": "toolbox:token_model"},
        taps=[{"path": "hidden", "column": "hidden"}],
    )
    sample = taken(worker, plan)
    batch, values = stages.compute_sample(compiled(worker, 2), sample, 60.0)
    assert len(batch) == len(values["hidden"]) == 5
    work = stages.write(worker, sample.shard, stages.in_batches((batch, values), 3), 1)
    assert next(work) == 6
