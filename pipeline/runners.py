"""Turn Beam arguments into pipeline options; only this file names runners."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    StandardOptions,
)

from transforms import device

LOCAL_RUNNER = "FnApiRunner"


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
    """Make Beam's options from arguments given after `--`.

    Without `--runner` the job runs in this process, on as many threads as `device` has
    shards in flight. What the user gives is never overridden.
    """
    arguments = list(beam_args)
    given = [argument.partition("=")[0] for argument in arguments]
    if "--runner" not in given:
        arguments.append(f"--runner={LOCAL_RUNNER}")
    options = PipelineOptions(arguments, save_main_session=False)
    if options.view_as(StandardOptions).runner.endswith(LOCAL_RUNNER):
        direct = options.view_as(DirectOptions)
        if "--direct_num_workers" not in given:
            direct.direct_num_workers = device.shards_in_flight()
        if "--direct_running_mode" not in given and direct.direct_num_workers != 1:
            direct.direct_running_mode = "multi_threading"
    return options


def works_here(beam_args: Sequence[str]) -> bool:
    """Whether this process's own threads do the work."""
    given = dict(argument.partition("=")[::2] for argument in beam_args)
    local = given.get("--runner", LOCAL_RUNNER).endswith(LOCAL_RUNNER)
    return local and given.get("--direct_running_mode") != "multi_processing"
