"""The rule for threads and shards in flight."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from pipeline.runners import pipeline_options
from transforms import device


@pytest.mark.parametrize(
    ("cores", "gpus", "shards", "threads"),
    [
        (1, 0, 2, 1),
        (2, 0, 3, 1),
        (8, 0, 9, 1),
        (64, 0, 9, 8),
        (16, 1, 2, 8),
        (1, 1, 2, 1),
    ],
)
def test_cores_are_shared_between_the_shards_in_flight(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, shards: int, threads: int
) -> None:
    monkeypatch.setattr(device, "cores", lambda: cores)
    monkeypatch.setattr(device, "_gpus", lambda: ["gpu"] * gpus)
    assert device.shards_in_flight() == shards
    assert device.reader_threads() == threads


def test_a_shard_that_is_alone_gets_the_cores_of_those_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "cores", lambda: 6)
    monkeypatch.setattr(device, "_gpus", list)
    with device.at_shard():
        assert device.batches_at_once() == 6
        with device.at_shard():
            assert device.batches_at_once() == 3
            with device.at_shard(), device.at_shard(), device.at_shard():
                assert device.batches_at_once() == 1
        assert device.batches_at_once() == 6
        monkeypatch.setattr(device, "_gpus", lambda: ["gpu"])
        assert device.batches_at_once() == 1


@pytest.mark.parametrize(
    ("says", "cores"),
    [
        ("max 100000", 64),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("50000 100000", 1),
        ("9900000 100000", 64),
        ("", 64),
        (None, 64),
    ],
)
def test_a_container_has_the_cores_that_its_quota_is_worth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str | None, cores: int
) -> None:
    if says is not None:
        (tmp_path / "cpu.max").write_text(f"{says}\n")
    monkeypatch.setattr(device, "_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    assert device.cores() == cores


@pytest.mark.parametrize(
    ("cores", "gpus", "processes"),
    [(1, 0, 1), (8, 0, 1), (9, 0, 2), (16, 0, 2), (64, 0, 8), (64, 1, 1), (4, 2, 2)],
)
def test_a_machine_is_filled_by_a_process_for_each_gpu_or_for_8_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, processes: int
) -> None:
    monkeypatch.setattr(device, "cores", lambda: cores)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"] * gpus)
    assert device.default_processes() == processes


def test_tensorflow_gets_the_threads_that_are_left() -> None:
    code = (
        "from transforms import device; device.cores = lambda: 16; device.configure();"
        "import tensorflow as tf;"
        "print(tf.config.threading.get_intra_op_parallelism_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2"]


def test_the_local_runner_gets_as_many_workers_as_shards_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "shards_in_flight", lambda: 5)
    options = pipeline_options([]).get_all_options()
    assert options["runner"] == "FnApiRunner"
    assert options["direct_num_workers"] == 5
    assert options["direct_running_mode"] == "multi_threading"


def test_what_the_user_gives_to_beam_is_not_overridden() -> None:
    given = ["--direct_num_workers=3", "--direct_running_mode=multi_processing"]
    options = pipeline_options(given).get_all_options()
    assert options["direct_num_workers"] == 3
    assert options["direct_running_mode"] == "multi_processing"
    other = pipeline_options(["--runner=DirectRunner"]).get_all_options()
    assert other["runner"] == "DirectRunner"
    assert other["direct_num_workers"] == 1
