"""A table is data: what it names is run only where the user's own config names it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Job, vectors, write_parquet

from pipeline import (
    check_parity,
    find_row,
    prepare_table,
    run_plan,
    table_status,
    verify_table,
)
from transforms.beam import ExtractShards
from transforms.lookup import ConfigError
from transforms.table.directory import Table
from transforms.table.plan_file import read_plan
from transforms.worker import worker_for

Edit = Callable[[dict[str, Any]], None]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "data.parquet"
    write_parquet(path, range(40), vectors(), group=20)
    return Job(tmp_path, {"reader": "parquet", "path": str(path)})


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file behind when it is imported."""
    (tmp_path / "stowaway.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "def step(example): return example\n"
        "def make(): pass\n"
        "def reduce(values): return values\n"
        "class Reader: pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "ran"
    sys.modules.pop("stowaway", None)


def edit(table: Path, name: str, change: Edit) -> None:
    path = table / "_featuretap" / name
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _reader(document: dict[str, Any]) -> None:
    document["config"]["source"]["reader"] = "stowaway:Reader"


def _step(document: dict[str, Any]) -> None:
    document["config"]["source"]["preprocess"] = [{"step": "stowaway:step"}]


def _build(document: dict[str, Any]) -> None:
    document["config"]["model"]["build"] = "stowaway:make"


def _import(document: dict[str, Any]) -> None:
    document["config"]["model"]["imports"] = ["stowaway"]


def _trusted(document: dict[str, Any]) -> None:
    document["config"]["model"] |= {"trusted": True, "imports": ["stowaway"]}


def _tap(document: dict[str, Any]) -> None:
    document["taps"][0]["reduce"] = ["stowaway:reduce"]


def _column(document: dict[str, Any]) -> None:
    document["columns"][1]["reduce"] = ["stowaway:reduce"]


EDITS: dict[str, tuple[str, Edit]] = {
    "the reader": ("config.json", _reader),
    "a step": ("config.json", _step),
    "the model": ("config.json", _build),
    "an import": ("config.json", _import),
    "trust": ("config.json", _trusted),
    "a tap": ("schema.json", _tap),
    "a column": ("schema.json", _column),
}


@pytest.mark.parametrize("what", EDITS)
def test_workers_run_what_their_launcher_has_planned_and_nothing_else(
    what: str, job: Job, planted: Path
) -> None:
    plan = job.plan()
    prepare_table(plan)
    edit(job.table, *EDITS[what])
    table = Table(str(job.table))
    with pytest.raises(RuntimeError, match="must be made from their launcher's plan"):
        worker_for(table, plan.seal)
    assert not planted.exists()


def test_without_the_seal_workers_run_what_the_table_says(
    job: Job, planted: Path
) -> None:
    """The planted fault: what the test above is for."""
    prepare_table(job.plan())
    edit(job.table, *EDITS["an import"])
    table = Table(str(job.table))
    with pytest.raises(RuntimeError):  # of the digest, after the import
        worker_for(table, read_plan(table).seal)
    assert planted.exists()


def test_the_same_command_puts_back_what_its_config_says(
    job: Job, planted: Path
) -> None:
    plan = job.plan()
    prepare_table(plan)
    for name, change in EDITS.values():
        edit(job.table, name, change)
    run_plan(plan)
    assert verify_table(str(job.table)) == []
    assert not planted.exists()


@pytest.mark.parametrize("what", EDITS)
def test_whoever_looks_at_a_table_runs_nothing_that_it_names(
    what: str, job: Job, planted: Path
) -> None:
    job.run()
    config = job.config()
    edit(job.table, *EDITS[what])
    table_status(str(job.table))
    verify_table(str(job.table))
    find_row(str(job.table))
    if what == "a column":
        with pytest.raises(ConfigError, match="must be reduced as the config says"):
            check_parity(str(job.table), config, 3)
    else:
        assert check_parity(str(job.table), config, 3).passed
    assert not planted.exists()


def test_parity_refuses_another_config_and_says_how_it_differs(job: Job) -> None:
    job.run(limit=10)
    assert check_parity(str(job.table), job.config(), 3).passed  # of another limit
    other = job.config(model={"batch_rows": 8})
    with pytest.raises(ConfigError, match=r"differs \(in: batch_rows\)") as raised:
        check_parity(str(job.table), other, 3)
    assert "there: 16\n    here:  8" in str(raised.value)


def test_a_seal_survives_the_directory_and_other_error_policies(job: Job) -> None:
    plan = job.plan()
    prepare_table(plan)
    assert read_plan(Table(str(job.table))).seal == plan.seal
    assert job.plan(errors={"max_fraction": 0.5}).seal == plan.seal
    assert job.plan(model={"batch_rows": 8}).seal != plan.seal


def test_a_pipeline_of_ones_own_is_sealed_when_it_is_made(job: Job) -> None:
    early = ExtractShards(str(job.table))
    plan = job.plan()
    prepare_table(plan)
    with pytest.raises(RuntimeError, match="prepare the table before the pipeline"):
        worker_for(Table(str(job.table)), early._seal)
    made = ExtractShards(str(job.table))
    edit(job.table, *EDITS["a step"])
    assert made._seal == plan.seal
