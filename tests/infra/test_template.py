"""The Flex Template's launcher, started as the service starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toolbox
from dataflow_api import DataflowApi
from schemas import ROOT, container_spec
from test_dataflow import ARGUMENTS, GPU, IMAGE
from test_engines import job

from pipeline import table_status

pytestmark = pytest.mark.heavy
LAUNCH = ROOT / "infra" / "dataflow" / "launch.py"
TEMPLATE = ROOT / "infra" / "dataflow" / "metadata.json"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    model, path = tmp_path / "model.keras", tmp_path / "job.toml"
    toolbox.dict_model().save(model)
    document = job(tmp_path / "elsewhere", str(model))
    lines = [
        f"[{section}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in one.items())
        for section, one in document.items()
        if section != "taps"
    ]
    taps = "\n".join(f"{k} = {json.dumps(v)}" for k, v in document["taps"][0].items())
    path.write_text("\n".join([*lines, f"[[taps]]\n{taps}\n"]))
    return path


def launch(dataflow: DataflowApi, config: Path, *more: str) -> tuple[Any, str]:
    """Start it with what the service adds; the exit code, and what it said."""
    done = subprocess.run(
        [
            *(sys.executable, LAUNCH, f"--config={config}", *more, *ARGUMENTS),
            *("--no_auth", f"--dataflow_endpoint={dataflow.url}", "--job_name=a-job"),
            f"--template_location={config.parent / 'job.json'}",
        ],
        cwd=config.parent,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "CUDA_VISIBLE_DEVICES": "-1",
        },
    )
    return done.returncode, done.stdout + done.stderr


def test_a_template_becomes_a_job(dataflow: DataflowApi, config: Path) -> None:
    """The launcher writes the job, which the service submits, and is done."""
    table = config.parent / "table"
    more = ["--machine_type=g2-standard-8", f"--table={table}", "--limit=100"]
    code, said = launch(dataflow, config, *more)
    assert code == 0, said
    assert "handed over; featuretap status follows it" in said
    assert dataflow.jobs == []  # the service does that
    assert dataflow.unknown == []
    found = table_status(str(table))
    assert (found.planned_rows, found.committed, found.finished) == (100, 0, False)

    from google.cloud.dataflow_v1beta3 import types
    from google.protobuf import json_format

    written = json.loads((config.parent / "job.json").read_text())
    made = json_format.ParseDict(written, types.Job.pb()(), ignore_unknown_fields=True)
    assert made.environment.service_options == [GPU]
    assert "no_use_multiple_sdk_containers" in made.environment.experiments
    (pool,) = made.environment.worker_pools
    assert pool.machine_type == "g2-standard-8"
    assert pool.num_threads_per_worker == 2
    assert pool.sdk_harness_container_images[0].container_image == IMAGE


def test_a_wrong_config_ends_the_launcher_before_anything_is_rented(
    dataflow: DataflowApi, config: Path
) -> None:
    config.write_text(config.read_text().replace("activation_1", "activation_9"))
    code, said = launch(dataflow, config)
    assert code == 2
    assert "must match an activation" in said
    assert not (config.parent / "job.json").exists()
    assert dataflow.objects == {}


def test_the_container_spec_is_what_google_expects() -> None:
    """And a launch of it."""
    from google.cloud.dataflow_v1beta3 import types

    spec = container_spec(json.loads(TEMPLATE.read_text()), IMAGE)
    assert spec.sdk_info.language == types.SDKInfo.Language.PYTHON
    needed = [one.name for one in spec.metadata.parameters if not one.is_optional]
    assert needed == ["config", "sdk_container_image"]
    request = types.LaunchFlexTemplateRequest(
        project_id="a-project",
        location="europe-west4",
        launch_parameter=types.LaunchFlexTemplateParameter(
            job_name="a-job",
            container_spec=spec,
            parameters={"config": "gs://a-bucket/job.toml"},
        ),
    )
    assert request.launch_parameter.container_spec.image == IMAGE
