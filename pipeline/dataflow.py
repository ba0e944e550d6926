"""Set what a job on Dataflow needs, and warn of what is known to fail there."""

from __future__ import annotations

import re

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)

_DISK_GB = 100  # room for an image with CUDA, the model, and unfinished parts
_SHARD_MINUTES = 120  # more than any shard takes; a shard that hangs is tried again
_SMALLEST_CPU_THREADS, _MOST_CPU_THREADS, _GPU_THREADS = 2, 8, 2  # as in `device`
_OWN_GPUS = {  # beginnings of machine types that come with GPUs, and their GPUs
    "a2-highgpu-": "nvidia-tesla-a100",
    "a2-megagpu-": "nvidia-tesla-a100",
    "a2-ultragpu-": "nvidia-a100-80gb",
    "a3-highgpu-": "nvidia-h100-80gb",
}
# How many L4 GPUs a machine type g2-standard-N has, by N.
_L4S = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}
_ACCELERATOR = "worker_accelerator="


def supply_defaults(options: PipelineOptions) -> None:
    """Set the options that a job on Dataflow needs and the user has not given.

    Each VM gets one process, since each process holds a model and a GPU, and the
    process as many threads as it should compute shards at a time. A machine type that
    comes with GPUs gets them and their driver.
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


def dataflow_complaints(options: PipelineOptions) -> list[str]:
    """Name combinations of options that are known to fail, a sentence each.

    Args:
      options: options of a job on Dataflow.
    """
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
    """Give the service option for GPUs; empty if there is none."""
    said = options.view_as(GoogleCloudOptions).dataflow_service_options or []
    return next((one for one in said if one.startswith(_ACCELERATOR)), "")


def _hinted_accelerator(options: PipelineOptions) -> bool:
    hints = options.view_as(StandardOptions).resource_hints or []
    return any("accelerator" in hint for hint in hints)


def _own_gpus(machine_type: str) -> tuple[str, int] | None:
    """Tell which GPUs a machine type comes with, and how many.

    >>> _own_gpus("g2-standard-24"), _own_gpus("n1-standard-8")
    (('nvidia-l4', 2), None)
    """
    number = _trailing_number(machine_type)
    if machine_type.startswith("g2-standard-") and number in _L4S:
        return "nvidia-l4", _L4S[number]
    kinds = [kind for name, kind in _OWN_GPUS.items() if machine_type.startswith(name)]
    return (kinds[0], number) if kinds and number else None


def _trailing_number(machine_type: str) -> int | None:
    """Read from a machine type's name how many vCPUs, or GPUs, it has.

    >>> _trailing_number("c3-standard-8-lssd"), _trailing_number("a2-highgpu-2g")
    (8, 2)
    >>> _trailing_number("n2-custom-4-8192")
    4
    """
    found = re.search(r"custom-(\d+)|-(\d+)g?(?:-lssd)?$", machine_type)
    return int(found[1] or found[2]) if found else None
