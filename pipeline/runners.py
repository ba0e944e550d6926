"""Turn Beam arguments into a pipeline; this file knows all that differs by runner."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import (
    EmbeddedPythonGrpcEnvironment,
    python_sdk_capabilities,
)

from pipeline.dataflow import dataflow_complaints, supply_defaults
from transforms import device
from transforms.beam import CommitTable, ExtractShards
from transforms.lookup import ConfigError
from transforms.table.directory import Table
from transforms.table.plan_file import TablePlan

LOCAL_RUNNER = "FnApiRunner"
# Runners, as `runner_kind` spells them.
_LOCAL, DATAFLOW, _DASK = "fnapirunner", "dataflowrunner", "daskrunner"
_JOB_SERVERS = {"flinkrunner", "portablerunner", "sparkrunner"}
# Runners that by default let this process do the work.
_LOOPBACK = {"directrunner", "switchingdirectrunner", "prismrunner"}
# The option that names a runner's master, and its values for a master in this process.
_MASTERS = {
    "flinkrunner": ("--flink_master", ("[auto]", "[local]")),
    "sparkrunner": ("--spark_master_url", ("local",)),
}
_THREADS = "multi_threading"
_NEVER = -1  # zero would be Beam's default
_DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
_LONGEST_JOB_SECONDS = 30 * 24 * 3600
_ANSWER_SECONDS = 60
_DASK_PARTITIONS = 64


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Make Beam's options from arguments given after `--`.

    Without `--runner` the job runs in this process, on as many threads as
    `device.shards_in_flight` says. Options that the user gives are never changed.

    Args:
      beam_args: the arguments, such as `--runner=DaskRunner`.

    Raises:
      ConfigError: the runner needs a package that is not installed.
    """
    arguments = [*beam_args]
    given = {argument.partition("=")[0] for argument in beam_args}
    name = _runner(beam_args)
    runner = runner_kind(name)
    if runner == _DASK:
        name = _DASK_RUNNER  # Beam wants it in full
        _import_dask()
        if not given & {"--dask_npartitions", "--dask_partition_size"}:
            arguments.append(f"--dask_npartitions={_DASK_PARTITIONS}")
    options = PipelineOptions(arguments, save_main_session=False)
    options.view_as(StandardOptions).runner = name
    if not given & {"--job_server_timeout", "--job-server-timeout"}:
        # By default Beam stops waiting for a job after five minutes.
        options.view_as(PortableOptions).job_server_timeout = _LONGEST_JOB_SECONDS
    if runner in _JOB_SERVERS:
        # Otherwise Beam stages a list of packages, which workers on other machines then
        # look for in the job server's directory.
        debug = options.view_as(DebugOptions)
        debug.add_experiment("disable_logging_submission_environment")
    if runner == DATAFLOW:
        supply_defaults(options)
    if runner == _LOCAL:
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in given:
            direct.direct_num_workers = device.shards_in_flight()
        if "--direct_running_mode" not in given and direct.direct_num_workers != 1:
            direct.direct_running_mode = _THREADS
    return options


def make_pipeline(options: PipelineOptions) -> beam.Pipeline:
    """Begin a pipeline with options that `pipeline_options` has made.

    For threads of this process the environment is made here. In the one that Beam 2.77
    makes, a thread sends a bundle's output on once a second, even half an element,
    which then cannot be decoded; no option turns that off.

    Raises:
      ConfigError: Beam refuses the options.
    """
    runner = runner_kind(options.view_as(StandardOptions).runner)
    direct = options.view_as(DirectOptions)
    local = None
    if runner == _LOCAL and direct.direct_running_mode == _THREADS:
        direct.direct_running_mode = None  # Beam would take its own environment
        environment = EmbeddedPythonGrpcEnvironment(
            data_buffer_time_limit_ms=_NEVER, capabilities=python_sdk_capabilities()
        )
        local = FnApiRunner(default_environment=environment)
    try:
        pipeline = beam.Pipeline(runner=local, options=options)
    except (ValueError, ImportError, AttributeError) as error:
        raise ConfigError(f"Beam refuses the arguments after --: {error}") from error
    # For transforms of other languages. Beam leaves it behind if nothing runs.
    shutil.rmtree(pipeline.local_tempdir)
    return pipeline


class BeamRun:
    """One run of a planned table on a Beam runner.

    Args:
      plan: of the table, where it is stored.
      beam_args: arguments for Beam, which the user gives after `--`.

    Raises:
      ConfigError: Beam refuses the arguments.
    """

    def __init__(self, plan: TablePlan, beam_args: Sequence[str]) -> None:
        self._table = plan.config.table.path
        self._seal = plan.seal
        self._max_fraction = plan.config.errors.max_fraction
        self._gates = plan.config.gates
        self._options = pipeline_options(beam_args)
        self._pipeline = make_pipeline(self._options)

    def complaints(self) -> list[str]:
        """Name combinations of options that are known to fail, a sentence each."""
        return complaints(self._options)

    def await_job_server(self) -> None:
        """Check that the job server answers, if the options name one.

        Raises:
          RuntimeError: it does not answer.
        """
        await_job_server(self._options)

    def run(self) -> dict[str, Any]:
        """Extract the pending shards and finish the table.

        Returns:
          The summary that `_SUCCESS` holds; an empty one if only a template for
          Dataflow was made.

        Raises:
          RuntimeError: the run failed, or left no `_SUCCESS`.
        """
        shards = ExtractShards(self._table, listings(self._options), self._seal)
        commits = self._pipeline | shards
        _ = commits | CommitTable(self._table, self._max_fraction, self._gates)
        result = self._pipeline.run()
        if not getattr(result, "has_job", True):
            return {}  # only a template was made, which Dataflow runs later
        result.wait_until_finish()
        summary = Table(self._table).read_success(written=True)
        if summary is None:
            raise RuntimeError(
                f"the run must leave a _SUCCESS file in {self._table!r}, found none;"
                " follow a run that goes on elsewhere with featuretap status"
            )
        return summary


def complaints(options: PipelineOptions) -> list[str]:
    """Name combinations of options that are known to fail, a sentence each."""
    runner = runner_kind(options.view_as(StandardOptions).runner)
    return dataflow_complaints(options) if runner == DATAFLOW else []


def await_job_server(options: PipelineOptions) -> None:
    """Check that the job server answers, if the options name one.

    Without this check, waiting for a job of a server that is not there would not end.

    Raises:
      RuntimeError: it does not answer.
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


def runner_kind(runner: str) -> str:
    """Give one spelling for each runner, of which Beam accepts several.

    >>> names = ("Dataflow", "apache_beam.runners.DataflowRunner")
    >>> {runner_kind(name) for name in names}
    {'dataflowrunner'}
    """
    name = runner.rpartition(".")[2].lower()
    return name if name.endswith("runner") else f"{name}runner"


def _runner(beam_args: Sequence[str]) -> str:
    return _argument(beam_args, "--runner") or LOCAL_RUNNER


def _argument(beam_args: Sequence[str], name: str) -> str | None:
    """Give the value of one argument without letting Beam parse them all."""
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
    """Tell how many elements `ExtractShards` should begin with on this runner."""
    if runner_kind(options.view_as(StandardOptions).runner) != _DASK:
        return 1
    return int(options.get_all_options().get("npartitions") or _DASK_PARTITIONS)


def is_local(beam_args: Sequence[str]) -> bool:
    """Whether Beam's local runner does the work, which Ctrl-C can end after a shard."""
    return runner_kind(_runner(beam_args)) == _LOCAL


def works_here(beam_args: Sequence[str]) -> bool:
    """Whether threads of this process do the work, rather than other processes."""
    if is_local(beam_args):
        return _argument(beam_args, "--direct_running_mode") != "multi_processing"
    if any("use_loopback_process_worker" in argument for argument in beam_args):
        return False
    runner = runner_kind(_runner(beam_args))
    loopback = runner in _LOOPBACK
    if runner in _MASTERS:
        option, own = _MASTERS[runner]
        loopback = (_argument(beam_args, option) or own[0]).startswith(own)
    default = "LOOPBACK" if loopback else ""
    return (_argument(beam_args, "--environment_type") or default) == "LOOPBACK"
