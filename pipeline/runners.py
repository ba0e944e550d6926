"""Turn Beam arguments into pipeline options; only this file names runners."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import (
    EmbeddedPythonGrpcEnvironment,
    python_sdk_capabilities,
)

from transforms import device
from transforms.lookup import ConfigError

LOCAL_RUNNER = "FnApiRunner"
# runners as `_kind` names them
_LOCAL, _DATAFLOW, _DASK = "fnapirunner", "dataflowrunner", "daskrunner"
_JOB_SERVERS = {"flinkrunner", "portablerunner", "sparkrunner"}
# which by default have this process work for them
_LOOPBACK = {"directrunner", "switchingdirectrunner", "prismrunner"}
_MASTERS = {  # with a master of its own
    "flinkrunner": ("--flink_master", ("[auto]", "[local]")),
    "sparkrunner": ("--spark_master_url", ("local",)),
}
_THREADS = "multi_threading"
_NEVER = -1  # zero would be Beam's default
_DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
_LONGEST_JOB_SECONDS = 30 * 24 * 3600
_ANSWER_SECONDS = 60
_DASK_PARTITIONS = 64
_DISK_GB = 100  # an image with CUDA, model, and parts on their way
_SHARD_MINUTES = 120  # more than any shard takes; what hangs is tried again
_SMALLEST_CPU_THREADS, _MOST_CPU_THREADS, _GPU_THREADS = 2, 8, 2  # as in `device`
_OWN_GPUS = {  # machine types that come with GPUs, by what their names begin with
    "a2-highgpu-": "nvidia-tesla-a100",
    "a2-megagpu-": "nvidia-tesla-a100",
    "a2-ultragpu-": "nvidia-a100-80gb",
    "a3-highgpu-": "nvidia-h100-80gb",
}
_L4S = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}  # g2-standard-N
_ACCELERATOR = "worker_accelerator="


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Make Beam's options from arguments given after `--`.

    Without `--runner` the job runs in this process, on as many threads as `device` has
    shards in flight. What the user gives is never overridden.

    Raises:
      ConfigError: the runner needs a package that is not installed.
    """
    arguments = [*beam_args]
    given = {argument.partition("=")[0] for argument in beam_args}
    name = _runner(beam_args)
    runner = _kind(name)
    if runner == _DASK:
        name = _DASK_RUNNER  # Beam wants it in full
        _import_dask()
        if not given & {"--dask_npartitions", "--dask_partition_size"}:
            arguments.append(f"--dask_npartitions={_DASK_PARTITIONS}")
    options = PipelineOptions(arguments, save_main_session=False)
    options.view_as(StandardOptions).runner = name
    if not given & {"--job_server_timeout", "--job-server-timeout"}:
        # Beam's five minutes end the wait for a job that runs longer.
        options.view_as(PortableOptions).job_server_timeout = _LONGEST_JOB_SECONDS
    if runner in _JOB_SERVERS:
        # Else Beam stages a list of packages, and workers on other machines look for it
        # in the job server's directory.
        debug = options.view_as(DebugOptions)
        debug.add_experiment("disable_logging_submission_environment")
    if runner == _DATAFLOW:
        _supply_dataflow(options)
    if runner == _LOCAL:
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in given:
            direct.direct_num_workers = device.shards_in_flight()
        if "--direct_running_mode" not in given and direct.direct_num_workers != 1:
            direct.direct_running_mode = _THREADS
    return options


def make_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Begin a pipeline with options that `pipeline_options` has made.

    For threads of this process the environment is given here, since Beam 2.77 has no
    option for it: with its own, a thread sends off each second what a bundle has put
    out, be it half an element, which nobody can decode.

    Raises:
      ConfigError: Beam refuses the options.
    """
    runner = _kind(options.view_as(StandardOptions).runner)
    direct = options.view_as(DirectOptions)
    if runner != _LOCAL or direct.direct_running_mode != _THREADS:
        try:
            return beam.Pipeline(options=options)
        except (ValueError, ImportError, AttributeError) as error:
            raise ConfigError(f"arguments behind -- must suit Beam: {error}") from error
    direct.direct_running_mode = None  # Beam would take its own environment
    environment = EmbeddedPythonGrpcEnvironment(
        data_buffer_time_limit_ms=_NEVER, capabilities=python_sdk_capabilities()
    )
    local = FnApiRunner(default_environment=environment)
    return beam.Pipeline(runner=local, options=options)


def await_job_server(options: PipelineOptions) -> None:
    """See that a job server answers; the wait for its job has no end.

    Raises:
      RuntimeError: it does not.
    """
    portable = options.view_as(PortableOptions)
    endpoint, seconds = portable.job_endpoint, portable.job_server_timeout
    if not endpoint or endpoint == "embed":
        return
    if seconds == _LONGEST_JOB_SECONDS:
        seconds = _ANSWER_SECONDS
    with grpc.insecure_channel(endpoint) as channel:
        try:
            grpc.channel_ready_future(channel).result(seconds)
        except grpc.FutureTimeoutError:
            raise RuntimeError(
                f"a job server must answer at --job_endpoint={endpoint}, none did for"
                f" {seconds} seconds; start it, or correct the address"
            ) from None


def _supply_dataflow(options: PipelineOptions) -> None:
    """Set what a job on Dataflow needs and the user has not said.

    One process for each VM, since each holds a model and a GPU, with as many threads as
    shards are to be in flight.
    """
    debug, worker = options.view_as(DebugOptions), options.view_as(WorkerOptions)
    setup, cloud = options.view_as(SetupOptions), options.view_as(GoogleCloudOptions)
    said = debug.experiments or []
    if not any("use_multiple_sdk_containers" in one for one in said):
        debug.add_experiment("no_use_multiple_sdk_containers")
    own = _own_gpus(worker.machine_type or "")
    if own and not _accelerator(options):
        cloud.dataflow_service_options = [
            *(cloud.dataflow_service_options or []),
            f"{_ACCELERATOR}type:{own[0]};count:{own[1]};install-nvidia-driver",
        ]
    if debug.number_of_worker_harness_threads is None:
        cores = _trailing_number(worker.machine_type or "") or _SMALLEST_CPU_THREADS
        threads = min(cores, _MOST_CPU_THREADS)
        gpu = _accelerator(options) or _hinted_accelerator(options)
        debug.number_of_worker_harness_threads = _GPU_THREADS if gpu else threads
    if worker.sdk_container_image and setup.sdk_location == "default":
        setup.sdk_location = "container"
    if worker.disk_size_gb is None:
        worker.disk_size_gb = _DISK_GB
    if worker.element_processing_timeout_minutes is None:
        worker.element_processing_timeout_minutes = _SHARD_MINUTES


def complaints(options: PipelineOptions) -> list[str]:
    """Name combinations of options that are known to fail, a sentence each."""
    if _kind(options.view_as(StandardOptions).runner) != _DATAFLOW:
        return []
    debug, worker = options.view_as(DebugOptions), options.view_as(WorkerOptions)
    experiments = debug.experiments or []
    accelerator = _accelerator(options)
    count = re.search(r"count:(\d+)", accelerator)
    checks = {
        "--sdk_container_image should name an image with featuretap (infra/docker has"
        " one): Beam's own has neither it nor TensorFlow": (
            not worker.sdk_container_image
        ),
        "an accelerator as a service option and as a resource hint should not be"
        " combined: right-fitted pools leave the service option out": (
            accelerator and _hinted_accelerator(options)
        ),
        "a process for each vCPU (use_multiple_sdk_containers) should not be asked for"
        " with a GPU: each holds a model, and one GPU has room for few": (
            accelerator and "use_multiple_sdk_containers" in experiments
        ),
        "one GPU for each VM is enough, the others would idle: a process uses one": (
            count and int(count[1]) > 1
        ),
        "--dry_run should be left out: any value of it, False too, means yes": (
            options.view_as(TestOptions).dry_run == "False"
        ),
    }
    return [text for text, holds in checks.items() if holds]


def _accelerator(options: PipelineOptions) -> str:
    """The service option for GPUs, empty if there is none."""
    said = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    return next((one for one in said if one.startswith(_ACCELERATOR)), "")


def _hinted_accelerator(options: PipelineOptions) -> bool:
    hints = options.view_as(StandardOptions).resource_hints or []
    return any("accelerator" in hint for hint in hints)


def _own_gpus(machine_type: str) -> tuple[str, int] | None:
    """Which GPUs a machine type comes with, and how many.

    >>> _own_gpus("g2-standard-24"), _own_gpus("n1-standard-8")
    (('nvidia-l4', 2), None)
    """
    number = _trailing_number(machine_type)
    if machine_type.startswith("g2-standard-") and number in _L4S:
        return "nvidia-l4", _L4S[number]
    kinds = [kind for name, kind in _OWN_GPUS.items() if machine_type.startswith(name)]
    return (kinds[0], number) if kinds and number else None


def _trailing_number(machine_type: str) -> int | None:
    """How many vCPUs, or GPUs, a machine type says that it has.

    >>> _trailing_number("c3-standard-8-lssd"), _trailing_number("a2-highgpu-2g")
    (8, 2)
    >>> _trailing_number("n2-custom-4-8192")
    4
    """
    found = re.search(r"custom-(\d+)|-(\d+)g?(?:-lssd)?$", machine_type)
    return int(found[1] or found[2]) if found else None


def _kind(runner: str) -> str:
    """Which runner is meant, in one spelling, of the several that Beam takes.

    >>> {_kind(name) for name in ("Dataflow", "apache_beam.runners.DataflowRunner")}
    {'dataflowrunner'}
    """
    name = runner.rpartition(".")[2].lower()
    return name if name.endswith("runner") else f"{name}runner"


def _runner(beam_args: Sequence[str]) -> str:
    return _argument(beam_args, "--runner") or LOCAL_RUNNER


def _argument(beam_args: Sequence[str], name: str) -> str | None:
    """The value of one argument, before Beam reads them all."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value")
    value: str | None = parser.parse_known_args(beam_args)[0].value
    return value


def _import_dask() -> None:
    """Import Beam's runner for Dask, so that Beam knows its options."""
    try:
        import_module(_DASK_RUNNER.rpartition(".")[0])
    except ImportError as error:
        raise ConfigError(
            "--runner=DaskRunner needs the package distributed, which cannot be"
            f" imported: {error}"
        ) from error


def listings(options: PipelineOptions) -> int:
    """How many elements a pipeline should begin with, for `ExtractShards`."""
    if _kind(options.view_as(StandardOptions).runner) != _DASK:
        return 1
    return int(options.get_all_options().get("npartitions") or _DASK_PARTITIONS)


def is_local(beam_args: Sequence[str]) -> bool:
    """Whether Beam's local runner does the work, which can end in good order."""
    return _kind(_runner(beam_args)) == _LOCAL


def works_here(beam_args: Sequence[str]) -> bool:
    """Whether this process's own threads do the work."""
    if is_local(beam_args):
        return _argument(beam_args, "--direct_running_mode") != "multi_processing"
    if any("use_loopback_process_worker" in argument for argument in beam_args):
        return False
    runner = _kind(_runner(beam_args))
    loopback = runner in _LOOPBACK
    if runner in _MASTERS:
        option, own = _MASTERS[runner]
        loopback = (_argument(beam_args, option) or own[0]).startswith(own)
    default = "LOOPBACK" if loopback else ""
    return (_argument(beam_args, "--environment_type") or default) == "LOOPBACK"
