"""What a job on Dataflow is given besides what its user says."""

from __future__ import annotations

from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.dataflow import (
    _own_gpus,
    _trailing_number,
    dataflow_complaints,
    supply_defaults,
)

IMAGE = "--sdk_container_image=image"
SERVICE = "--dataflow_service_options=worker_accelerator=type:nvidia-tesla-t4;count:1"


def supplied(*arguments: str) -> dict[str, Any]:
    options = PipelineOptions(list(arguments))
    supply_defaults(options)
    found: dict[str, Any] = options.get_all_options()
    return found


@pytest.mark.parametrize(
    ("machine", "gpus"),
    [
        ("g2-standard-4", ("nvidia-l4", 1)),
        ("g2-standard-96", ("nvidia-l4", 8)),
        ("g2-standard-5", None),
        ("a2-highgpu-4g", ("nvidia-tesla-a100", 4)),
        ("a2-megagpu-16g", ("nvidia-tesla-a100", 16)),
        ("a2-ultragpu-1g", ("nvidia-a100-80gb", 1)),
        ("a3-highgpu-8g", ("nvidia-h100-80gb", 8)),
        ("n1-standard-8", None),
        ("e2-micro", None),
        ("", None),
    ],
)
def test_machines_with_gpus_of_their_own_are_known(
    machine: str, gpus: tuple[str, int] | None
) -> None:
    assert _own_gpus(machine) == gpus
    said = supplied(f"--machine_type={machine}")["dataflow_service_options"] or []
    assert len(said) == (gpus is not None)
    if gpus:
        kind, count = gpus
        accelerator = f"worker_accelerator=type:{kind};count:{count}"
        assert said == [f"{accelerator};install-nvidia-driver"]


@pytest.mark.parametrize(
    ("machine", "number"),
    [
        ("n1-standard-16", 16),
        ("n2-custom-4-8192", 4),
        ("custom-6-10240", 6),
        ("c3-standard-8-lssd", 8),
        ("a2-highgpu-2g", 2),
        ("e2-medium", None),
        ("", None),
    ],
)
def test_the_number_in_a_machines_name_is_found(
    machine: str, number: int | None
) -> None:
    assert _trailing_number(machine) == number


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        ([], 2),
        (["--machine_type=n1-standard-4"], 4),
        (["--machine_type=n1-standard-1"], 1),
        (["--machine_type=n1-standard-96"], 8),
        (["--machine_type=e2-medium"], 2),
        (["--machine_type=g2-standard-16"], 2),
        (["--machine_type=n1-standard-16", SERVICE], 2),
        (["--machine_type=n1-standard-16", "--resource_hint=accelerator=type:t4"], 2),
        (["--machine_type=n1-standard-16", "--resource_hint=min_ram=8GB"], 8),
    ],
)
def test_threads_are_the_shards_that_a_machine_can_have_in_flight(
    arguments: list[str], threads: int
) -> None:
    assert supplied(*arguments)["number_of_worker_harness_threads"] == threads


def test_a_gpu_that_the_user_names_is_not_named_again() -> None:
    found = supplied("--machine_type=g2-standard-8", SERVICE)
    assert found["dataflow_service_options"] == [SERVICE.partition("=")[2]]


def test_service_options_of_the_user_stay_beside_the_gpu() -> None:
    prime = "--dataflow_service_options=enable_prime"
    found = supplied("--machine_type=g2-standard-8", prime)["dataflow_service_options"]
    assert found[0] == "enable_prime"
    assert len(found) == 2


def test_an_image_is_not_overwritten_with_beam() -> None:
    assert supplied(IMAGE)["sdk_location"] == "container"
    assert supplied(IMAGE, "--sdk_location=x.whl")["sdk_location"] == "x.whl"
    assert supplied()["sdk_location"] == "default"


def test_what_is_supplied_once_stays_when_supplied_again() -> None:
    options = PipelineOptions(["--machine_type=a2-highgpu-1g", IMAGE])
    supply_defaults(options)
    once = options.get_all_options()
    supply_defaults(options)
    assert options.get_all_options() == once
    assert (once["disk_size_gb"], once["element_processing_timeout_minutes"]) == (
        100,
        120,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [SERVICE],
        ["--resource_hint=accelerator=type:t4"],
        ["--experiments=use_multiple_sdk_containers"],
        ["--dry_run=True"],
    ],
)
def test_nothing_that_works_is_complained_of(arguments: list[str]) -> None:
    assert dataflow_complaints(PipelineOptions([IMAGE, *arguments])) == []


def test_all_that_fails_is_complained_of_at_once() -> None:
    arguments = [SERVICE, "--resource_hint=accelerator=type:t4", "--dry_run=False"]
    found = dataflow_complaints(PipelineOptions(arguments))
    begins = ("--sdk_container_image", "an accelerator", "--dry_run")
    assert [text.startswith(b) for text, b in zip(found, begins, strict=True)] == [
        True
    ] * 3
