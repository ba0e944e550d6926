"""What a run does before its first row: it imports and traces no more than it must."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Job, worker_of

from pipeline import prepare_table, run_plan
from pipeline.config_file import load_config
from pipeline.plan import make_plan
from transforms.extract import extract_shard
from transforms.imports import quick_imports
from transforms.models import load
from transforms.table.plan_file import pending_shards

TESTS = Path(__file__).parent
CONFIG = """
source = {{ reader = "parquet", path = "{data}/parquet", key = "id" }}
model = {{ build = "toolbox:sated_model" }}
taps = [{{ path = "head" }}]
table = {{ path = "{table}" }}
"""
STOCK = {"model": {"build": "toolbox:sated_model"}, "taps": [{"path": "head"}]}
RUN = """
import gc, sys
from pipeline.cli import main

sys.argv[1:] = ["run", "job.toml", "--workers", "1"]
try:
    main()
except SystemExit as end:
    assert not end.code
print(sorted({"apache_beam", "sklearn", "tensorflow"} & sys.modules.keys()))
print(gc.isenabled(), gc.get_freeze_count() > 100_000)

import keras
from sklearn.base import BaseEstimator

print(issubclass(keras.wrappers.SKLearnClassifier, BaseEstimator))
"""


def test_a_run_imports_only_what_it_needs(tmp_path: Path, data: Path) -> None:
    config = tmp_path / "job.toml"
    config.write_text(CONFIG.format(data=data, table=tmp_path / "table"))
    run_plan(make_plan(load_config(str(config), [])))  # no worker has to start below
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-3:] == ["['tensorflow']", "True True", "True"]


@pytest.mark.parametrize("enabled", [True, False])
def test_quick_imports_leave_python_as_it_was(enabled: bool) -> None:
    finders, frozen = list(sys.meta_path), gc.get_freeze_count()
    try:
        if not enabled:
            gc.disable()
        with suppress(ImportError), quick_imports():
            assert not gc.isenabled()
            import no_such_module  # noqa: F401
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert sys.meta_path == finders
    assert gc.get_freeze_count() == frozen  # objects of others are here too


def test_a_worker_goes_on_with_the_function_of_the_plan(job: Job) -> None:
    plan = job.plan(**STOCK)
    (model,) = load._models.values()
    (planned,) = model.compiled.values()
    prepare_table(plan)
    worker = worker_of(job.table)
    assert worker.compiled._compiled is planned
    assert planned.batch_rows == plan.config.model.batch_rows
    for shard in pending_shards(str(job.table)):
        extract_shard(worker, shard)
    assert [*model.compiled.values()] == [planned]
