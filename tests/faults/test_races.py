"""Several workers at one shard: one winner, consistent bytes, nothing left behind."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from jobs import job_document, outcome
from stores import WARNINGS, gcs, s3
from toolbox import wait_until
from zygote import Zygote

from pipeline import verify_table
from transforms import storage
from transforms.table.directory import Table

__all__ = ["gcs", "s3"]  # fixtures
pytestmark = WARNINGS


# Of Zstandard: the least that give files of this size different bytes. Workers have 1.
LEVELS = (1, 5, 11, 13)


def stores() -> dict[str, Any]:
    """The configuration of fsspec that children need, too."""
    return {name: dict(values) for name, values in fsspec.config.conf.items()}


def race(zygote: Zygote, uri: str, workers: int, log: Path) -> None:
    """Let workers whose bytes differ run each shard at once; finish the table."""
    common = {"config": job_document(uri), "stores": stores()}
    assert zygote.run("prepare", log, **common) == 0, log.read_text()
    for shard in range(3):
        pids = [
            zygote.start("one_shard", log, shard=shard, level=LEVELS[n % 4], **common)
            for n in range(workers)
        ]
        assert [zygote.wait(pid) for pid in pids] == [0] * workers, log.read_text()
    assert zygote.run("finish", log, **common) == 0, log.read_text()


def is_one_table(uri: str) -> None:
    assert verify_table(uri) == []
    table = Table(uri)
    assert len(table.part_names()) == 3
    ids = [
        pq.read_table(io.BytesIO(storage.read(table.path(name))))["example_id"]
        for name in table.part_names()
    ]
    assert [one for column in ids for one in column.to_pylist()] == list(range(40))
    assert table.attempts() == []


@pytest.mark.parametrize("workers", [2, 10])
def test_workers_at_one_shard_have_one_winner(
    workers: int, zygote: Zygote, tmp_path: Path
) -> None:
    race(zygote, str(tmp_path / "table"), workers, tmp_path / "log")
    is_one_table(str(tmp_path / "table"))


@pytest.mark.heavy
@pytest.mark.parametrize("store", ["s3", "gcs"])
@pytest.mark.parametrize("workers", [2, 10])
def test_workers_at_one_shard_have_one_winner_in_object_stores(
    workers: int, store: str, zygote: Zygote, tmp_path: Path, request: Any
) -> None:
    uri = f"{request.getfixturevalue(store)}/race{workers}"
    race(zygote, uri, workers, tmp_path / "log")
    is_one_table(uri)


def wait_until_stopped(pid: int) -> None:
    stat = Path(f"/proc/{pid}/stat")
    wait_until(
        lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", seconds=60
    )


def with_a_zombie(
    zygote: Zygote, uri: str, before: str, log: Path, plant: str = ""
) -> None:
    """Stop a worker at a step, finish the table, and wake the worker up."""
    common = {"config": job_document(uri), "stores": stores()}
    assert zygote.run("prepare", log, **common) == 0, log.read_text()
    zombie = zygote.start(
        "one_shard", log, shard=1, stop_before=before, level=13, plant=plant, **common
    )
    wait_until_stopped(zombie)
    for shard in range(3):
        code = zygote.run("one_shard", log, shard=shard, **common)
        assert code == 0, log.read_text()
    assert zygote.run("finish", log, **common) == 0, log.read_text()
    os.kill(zombie, signal.SIGCONT)
    zygote.wait(zombie)


@pytest.mark.parametrize("step", ["write", "publish", "create_commit", "link"])
def test_a_zombie_changes_nothing(
    step: str, zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    table = tmp_path / "table"
    with_a_zombie(zygote, str(table), f"before {step}", tmp_path / "log")
    assert outcome(table) == whole


@pytest.mark.heavy
@pytest.mark.parametrize("store", ["s3", "gcs"])
@pytest.mark.parametrize("step", ["publish", "create_commit"])
def test_a_zombie_changes_nothing_in_object_stores(
    step: str, store: str, zygote: Zygote, tmp_path: Path, request: Any
) -> None:
    uri = f"{request.getfixturevalue(store)}/zombie-{step}"
    with_a_zombie(zygote, uri, f"before {step}", tmp_path / "log")
    is_one_table(uri)


def test_dropping_the_create_only_flag_is_caught(
    zygote: Zygote, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    step, plant = "before create_commit", "drop create-only"
    with_a_zombie(zygote, str(table), step, tmp_path / "log", plant)
    assert any("differs from the manifest" in text for text in verify_table(str(table)))


def test_a_worker_of_a_table_that_was_replaced_commits_nothing(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    table, log = tmp_path / "table", tmp_path / "log"
    config = job_document(table)
    assert zygote.run("prepare", log, config=config) == 0
    zombie = zygote.start(
        "one_shard", log, config=config, shard=1, stop_before="before publish"
    )
    wait_until_stopped(zombie)
    assert zygote.run("prepare", log, config=config, overwrite=True) == 0
    os.kill(zombie, signal.SIGCONT)
    assert zygote.wait(zombie) == 1
    assert Table(str(table)).committed() == []
    assert zygote.run("run", log, config=config) == 0
    assert outcome(table) == whole
