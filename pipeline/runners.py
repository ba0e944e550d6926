"""Turn Beam arguments into pipeline options; only this file names runners."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from importlib import import_module

from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from transforms import device
from transforms.lookup import ConfigError

LOCAL_RUNNER = "FnApiRunner"
_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_FULL_NAMES = {"DaskRunner": _DASK}  # Beam wants it in full
_LONGEST_JOB_SECONDS = 30 * 24 * 3600
_DASK_PARTITIONS = 64


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Make Beam's options from arguments given after `--`.

    Without `--runner` the job runs in this process, on as many threads as `device` has
    shards in flight. What the user gives is never overridden.

    Raises:
      ConfigError: the runner needs a package that is not installed.
    """
    arguments = [*beam_args]
    given = {argument.partition("=")[0] for argument in beam_args}
    runner = _runner(beam_args)
    if runner == _DASK:
        _import_dask()
        if not given & {"--dask_npartitions", "--dask_partition_size"}:
            arguments.append(f"--dask_npartitions={_DASK_PARTITIONS}")
    options = PipelineOptions(arguments, save_main_session=False)
    options.view_as(StandardOptions).runner = runner
    if not given & {"--job_server_timeout", "--job-server-timeout"}:
        # Beam's five minutes end the wait for a job that runs longer.
        options.view_as(PortableOptions).job_server_timeout = _LONGEST_JOB_SECONDS
    if runner.endswith(LOCAL_RUNNER):
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in given:
            direct.direct_num_workers = device.shards_in_flight()
        if "--direct_running_mode" not in given and direct.direct_num_workers != 1:
            direct.direct_running_mode = "multi_threading"
    return options


def _runner(beam_args: Sequence[str]) -> str:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runner", default=LOCAL_RUNNER)
    name: str = parser.parse_known_args(beam_args)[0].runner
    return _FULL_NAMES.get(name, name)


def _import_dask() -> None:
    """Import Beam's runner for Dask, so that Beam knows its options."""
    try:
        import_module(_DASK.rpartition(".")[0])
    except ImportError as error:
        raise ConfigError(
            "--runner=DaskRunner needs the package distributed, which cannot be"
            f" imported: {error}"
        ) from error


def listings(options: PipelineOptions) -> int:
    """How many elements a pipeline should begin with, for `ExtractShards`."""
    if options.view_as(StandardOptions).runner != _DASK:
        return 1
    return int(options.get_all_options().get("npartitions") or _DASK_PARTITIONS)


def works_here(beam_args: Sequence[str]) -> bool:
    """Whether this process's own threads do the work."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--direct_running_mode")
    mode = parser.parse_known_args(beam_args)[0].direct_running_mode
    return _runner(beam_args).endswith(LOCAL_RUNNER) and mode != "multi_processing"
