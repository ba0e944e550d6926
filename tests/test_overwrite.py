"""`--overwrite` of a table, also of one at which workers are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Job, vectors, worker_of, write_parquet

from pipeline import Plan, prepare_table, run_plan, table_status, verify_table
from transforms import storage
from transforms.extract import extract_shard
from transforms.table.directory import Table
from transforms.table.plan_file import claim_table, read_claim

Remove = Callable[[str], None]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "data.parquet"
    write_parquet(path, range(100), vectors(), group=20)
    return Job(tmp_path, {"reader": "parquet", "path": str(path)})


def other(job: Job) -> Plan:
    return job.plan(taps=[{"path": "stem"}])


def files(table: Path) -> list[str]:
    return sorted(str(p.relative_to(table)) for p in table.rglob("*") if p.is_file())


def test_workers_of_the_old_table_stop_as_soon_as_another_is_to_come(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long removing its files takes."""
    old = job.plan()
    prepare_table(old)
    worker = worker_of(job.table)
    for shard in list(old.shards)[:2]:
        extract_shard(worker, shard)
    remove, tried = storage.remove, iter(list(old.shards)[2:])
    stopped = []

    def slowly(uri: str) -> None:
        if shard := next(tried, None):
            with pytest.raises(RuntimeError, match="has been replaced while"):
                extract_shard(worker, shard)
            stopped.append(shard.index)
        remove(uri)

    monkeypatch.setattr(storage, "remove", slowly)
    run_plan(other(job), overwrite=True)
    assert sorted(stopped) == [2, 3, 4]
    assert verify_table(str(job.table)) == []


def test_a_claim_that_is_taken_last_lets_old_workers_commit(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted fault: what the test above is for."""
    old = job.plan()
    prepare_table(old)
    worker = worker_of(job.table)
    Table(str(job.table)).clear(lambda: None)
    extract_shard(worker, next(iter(old.shards)))
    claim_table(Table(str(job.table)), other(job), replace=True)
    assert Table(str(job.table)).committed() == [0]


@pytest.mark.parametrize("again", [False, True])
def test_an_overwrite_that_is_cut_off_goes_on_with_the_same_command(
    job: Job, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    job.run()
    run_plan(other(job), overwrite=True)
    wanted = files(job.table / "data")
    remove = storage.remove
    for cut in itertools.count(0, 5):
        run_plan(job.plan(), overwrite=True)
        left = itertools.count(-cut)

        def cut_off(uri: str, left: itertools.count[int] = left) -> None:
            if next(left) == 0:
                raise KeyboardInterrupt
            remove(uri)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove", cut_off)
            try:
                prepare_table(other(job), overwrite=True)
            except KeyboardInterrupt:
                pass
            else:
                break
        assert read_claim(Table(str(job.table))).clearing
        run_plan(other(job), overwrite=again)
        assert verify_table(str(job.table)) == []
        assert files(job.table / "data") == wanted
        assert not read_claim(Table(str(job.table))).clearing
    assert cut > 5


def test_who_finds_a_table_half_cleared_takes_it_from_who_is_at_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two launchers of one plan must not clear what the other has committed."""
    monkeypatch.setattr("pipeline.run._LOOK_SECONDS", 0.0)
    job.run()
    plan, remove = other(job), storage.remove
    ended = []

    def overtaken(uri: str) -> None:
        remove(uri)
        if not ended:
            ended.append("here")
            run_plan(plan)  # another launcher, from the claim on to the end

    monkeypatch.setattr(storage, "remove", overtaken)
    with pytest.raises(RuntimeError, match="has been replaced while this run cleared"):
        prepare_table(plan, overwrite=True)
    assert verify_table(str(job.table)) == []
    assert table_status(str(job.table)).finished


def test_a_table_that_is_being_cleared_is_refused_to_other_plans(job: Job) -> None:
    job.run()
    claim_table(Table(str(job.table)), other(job), replace=True)
    with pytest.raises(ValueError, match="holds another"):
        run_plan(job.plan())
    assert os.path.exists(job.table / "_SUCCESS")
    assert table_status(str(job.table)).finished
    run_plan(job.plan(), overwrite=True)
    assert verify_table(str(job.table)) == []
