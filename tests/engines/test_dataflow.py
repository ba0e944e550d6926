"""Jobs for Dataflow: submitted by the real client to a server on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import toolbox
from apache_beam.options.pipeline_options import SetupOptions
from apache_beam.portability.api import beam_runner_api_pb2
from dataflow_api import DataflowApi
from test_engines import job

from pipeline import make_plan, run_plan
from pipeline.config_file import parse_config
from pipeline.runners import complaints, make_pipeline, pipeline_options
from transforms.beam import CommitTable, ExtractShards
from transforms.lookup import ConfigError

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("default")]
IMAGE = "europe-west4-docker.pkg.dev/a-project/featuretap/gpu:1"
ARGUMENTS = [
    "--runner=DataflowRunner",
    "--project=a-project",
    "--region=europe-west4",
    "--temp_location=gs://a-bucket/tmp",
    "--staging_location=gs://a-bucket/staging",
    f"--sdk_container_image={IMAGE}",
]
GPU = "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"


def submitted(dataflow: DataflowApi, table: Path, *more: str) -> dict[str, Any]:
    """Run a job, which the server calls done without having done it."""
    model = table.parent / "model.keras"
    toolbox.dict_model().save(model)
    plan = make_plan(parse_config(job(table, str(model))))
    arguments = [*ARGUMENTS, "--no_auth", f"--dataflow_endpoint={dataflow.url}", *more]
    with pytest.raises(RuntimeError, match="must leave a _SUCCESS file"):
        run_plan(plan, beam_args=arguments)
    assert dataflow.unknown == []
    (document,) = dataflow.jobs
    return document


@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow"])
def test_a_gpu_job_is_submitted_with_what_it_needs(
    runner: str, dataflow: DataflowApi, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    more = ("--machine_type=g2-standard-8", f"--runner={runner}")
    document = submitted(dataflow, table, *more)
    environment = document["environment"]
    assert environment["serviceOptions"] == [GPU]
    assert {"no_use_multiple_sdk_containers", "use_runner_v2"} <= {
        *environment["experiments"]
    }
    (pool,) = environment["workerPools"]
    assert pool["machineType"] == "g2-standard-8"
    assert pool["diskSizeGb"] == 100
    assert pool["numThreadsPerWorker"] == 2
    assert pool["workerHarnessContainerImage"] == IMAGE
    (container,) = pool["sdkHarnessContainerImages"]
    assert container["containerImage"] == IMAGE
    # neither packages nor a main session: the image has all
    assert {one["name"] for one in pool["packages"]} == {
        "submission_environment_dependencies.txt"
    }
    options = environment["sdkPipelineOptions"]["options"]
    assert options["element_processing_timeout_minutes"] == 120
    assert options["sdk_location"] == "container"
    assert not options.get("save_main_session")
    bucket, name = options["pipelineUrl"].removeprefix("gs://").split("/", 1)
    proto = beam_runner_api_pb2.Pipeline.FromString(dataflow.objects[bucket, name])
    names = {one.unique_name for one in proto.components.transforms.values()}
    steps = ("Listings", "PendingShards", "Spread", "ExtractShard")
    assert {f"ExtractShards/{step}" for step in steps} <= names
    assert {"CommitTable/AllShards", "CommitTable/Finish"} <= names
    images = [one.payload for one in proto.components.environments.values()]
    assert any(IMAGE.encode() in payload for payload in images)
    hints = [dict(e.resource_hints) for e in proto.components.environments.values()]
    assert not any(hints)  # they would not go with the service option


def test_what_the_user_says_is_kept(dataflow: DataflowApi, tmp_path: Path) -> None:
    document = submitted(
        dataflow,
        tmp_path / "table",
        "--machine_type=n1-standard-16",
        "--experiments=use_multiple_sdk_containers",
        "--number_of_worker_harness_threads=5",
        "--disk_size_gb=70",
        "--element_processing_timeout_minutes=7",
        "--dataflow_service_options=enable_prime",
    )
    environment = document["environment"]
    assert environment["serviceOptions"] == ["enable_prime"]
    assert "no_use_multiple_sdk_containers" not in environment["experiments"]
    (pool,) = environment["workerPools"]
    assert (pool["diskSizeGb"], pool["numThreadsPerWorker"]) == (70, 5)
    options = environment["sdkPipelineOptions"]["options"]
    assert options["element_processing_timeout_minutes"] == 7


def test_a_job_renders_without_credentials_or_network(tmp_path: Path) -> None:
    apiclient = pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient")
    arguments = [*ARGUMENTS, "--machine_type=n1-standard-16", "--dry_run=True"]
    options = pipeline_options([*arguments, "--no_auth"])
    pipeline = beam.Pipeline(options=options)
    table = str(tmp_path / "table")
    _ = pipeline | ExtractShards(table) | CommitTable(table)
    pipeline.run()
    made = apiclient.Environment(
        packages=[],
        options=options,
        environment_version="8",
        proto_pipeline_staged_url="gs://a-bucket/staging/pipeline.pb",
        proto_pipeline=pipeline.runner.job.proto_pipeline,
    ).proto
    (pool,) = made.worker_pools
    assert pool.num_threads_per_worker == 8
    assert options.view_as(SetupOptions).save_main_session is False
    assert pool.machine_type == "n1-standard-16"
    assert "no_use_multiple_sdk_containers" in made.experiments


def test_what_a_job_lacks_is_named_before_it_is_submitted(
    dataflow: DataflowApi,
) -> None:
    pytest.importorskip("apache_beam.runners.dataflow.internal.apiclient")
    given = [one for one in [*ARGUMENTS, "--no_auth"] if "project=" not in one]
    with pytest.raises(ConfigError, match=r"Missing required option: project\."):
        make_pipeline(pipeline_options(given))


COMPLAINTS = {
    "an image with featuretap": ([], False),
    "as a resource hint": (
        [f"--dataflow_service_options={GPU}", "--resource_hint=accelerator=type:t4"],
        True,
    ),
    "a process for each vCPU": (
        ["--machine_type=g2-standard-8", "--experiments=use_multiple_sdk_containers"],
        True,
    ),
    "any value of it": (["--dry_run=False"], True),
    "one GPU for each VM": (["--machine_type=a2-highgpu-2g"], True),
}


@pytest.mark.parametrize("text", COMPLAINTS)
def test_combinations_that_fail_are_named(text: str) -> None:
    more, with_image = COMPLAINTS[text]
    given = [one for one in ARGUMENTS if with_image or "image" not in one]
    (complaint,) = complaints(pipeline_options([*given, *more]))
    assert text in complaint
