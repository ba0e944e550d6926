"""Storage that is full, closed, slow to show what it has, or fails half-way."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from jobs import job_document, outcome
from proxy import CUT_REQUEST, LOSE_ANSWER, REFUSE, STALL, Proxy
from stores import WARNINGS, gcs, s3
from zygote import Zygote

from pipeline import make_plan, run_plan, verify_table
from pipeline.config_file import parse_config
from transforms import storage

__all__ = ["gcs", "s3"]  # fixtures
pytestmark = WARNINGS
NOBODY = 65534


def unavailable(reason: str) -> None:
    if os.environ.get("REQUIRE_FAULTS"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if (
        os.getuid()
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        unavailable("a small tmpfs must be mounted, which takes root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def big_job(table: Path) -> dict[str, Any]:
    """Two parts of some 200 KiB each."""
    random = np.random.default_rng(0).random((20_000, 6), np.float32)
    source = table.parent.parent / "vec.npy"
    np.save(source, random)
    return {
        "source": {"reader": "numpy", "path": str(source), "feature": "vec"},
        "model": {"build": "toolbox:dict_model", "batch_rows": 100},
        "taps": [{"path": "stem", "column": "stem"}],
        "table": {"path": str(table), "rows_per_part": 10_000},
    }


def test_a_full_disk_fails_the_run_and_room_lets_it_go_on(
    small_disk: Path, zygote: Zygote, tmp_path: Path
) -> None:
    log, table = tmp_path / "log", small_disk / "table"
    config = big_job(table)
    assert zygote.run("run", log, config=config) == 1
    assert "No space left on device" in log.read_text()
    assert not (table / "_SUCCESS").exists()
    assert len(list((table / "_featuretap" / "commits").glob("*"))) < 2
    subprocess.run(["mount", "-o", "remount,size=9m", str(small_disk)], check=True)
    assert zygote.run("run", log, config=config) == 0, log.read_text()
    whole = tmp_path / "elsewhere" / "table"
    whole.parent.mkdir()
    again = {**config, "table": {"path": str(whole), "rows_per_part": 10_000}}
    assert zygote.run("run", log, config=again) == 0
    assert outcome(table) == outcome(whole)


def test_a_disk_that_is_full_at_the_end_lets_the_run_go_on(
    small_disk: Path, zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """All shards are committed, but the manifest finds no room."""
    log, table = tmp_path / "log", small_disk / "table"
    config = job_document(table)
    assert zygote.run("prepare", log, config=config) == 0
    for shard in range(3):
        assert zygote.run("one_shard", log, config=config, shard=shard) == 0
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    assert zygote.run("finish", log, config=config) == 1
    assert "No space left on device" in log.read_text()
    assert not (table / "_SUCCESS").exists()
    filler.unlink()
    assert zygote.run("run", log, config=config) == 0, log.read_text()
    assert outcome(table) == whole


def test_a_closed_directory_fails_the_run_by_name(
    zygote: Zygote, whole: dict[str, bytes], tmp_path: Path
) -> None:
    tmp_path = Path(tempfile.mkdtemp())
    try:
        tmp_path.chmod(0o755)
        table, log = tmp_path / "table", tmp_path / "log"
        table.mkdir()
        log.touch()
        log.chmod(0o666)
        table.chmod(0o555)
        uid = 0 if os.getuid() else NOBODY
        config = job_document(table)
        assert zygote.run("run", log, config=config, uid=uid) == 1
        assert re.search("table.*Permission denied", log.read_text())
        assert list(table.iterdir()) == []
        table.chmod(0o777)
        assert zygote.run("run", log, config=config) == 0, log.read_text()
        assert outcome(table) == whole
    finally:
        shutil.rmtree(tmp_path)


class Slow(MemoryFileSystem):
    """Shows what was written only after some looks: `slow://`."""

    protocol = ("slow",)
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    looks: dict[str, int] = {}  # noqa: RUF012
    unlisted = 3
    unread = 2

    def _seen(self, path: str, most: int) -> bool:
        path = self._strip_protocol(path)
        self.looks[path] = self.looks.get(path, 0) + 1
        return self.looks[path] > most

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        found = super().ls(path, detail=True, **kwargs)
        shown = [
            one
            for one in found
            if one["type"] == "directory"
            or self._seen(f"ls {one['name']}", self.unlisted)
        ]
        return shown if detail else [one["name"] for one in shown]

    def cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if not self._seen(path, self.unread):
            raise FileNotFoundError(path)
        return super().cat_file(path, *args, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        found = super().info(path, **kwargs)
        if found["type"] == "file" and not self._seen(f"info {path}", self.unread):
            raise FileNotFoundError(path)
        return found


def test_a_store_that_shows_late_what_it_has_loses_nothing(
    whole: dict[str, bytes],
) -> None:
    fsspec.register_implementation("slow", Slow, clobber=True)
    uri = "slow://bucket/table"
    plan = make_plan(parse_config(job_document(uri)))
    run_plan(plan)
    Slow.unlisted = Slow.unread = 0
    assert verify_table(uri) == []
    manifest = storage.read(f"{uri}/_featuretap/manifest.parquet")
    assert manifest == whole["m"]


@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", ["s3", "gcs"])
@pytest.mark.parametrize("fault", [REFUSE, CUT_REQUEST, LOSE_ANSWER, STALL])
@pytest.mark.parametrize("verb", ["write", "read"])
def test_a_store_that_fails_half_way_loses_nothing(
    verb: str,
    fault: str,
    store: str,
    zygote: Zygote,
    whole: dict[str, bytes],
    tmp_path: Path,
    request: Any,
) -> None:
    bucket = request.getfixturevalue(store)
    uri = f"{bucket}/{verb}-{fault.replace(' ', '-')}"
    configuration = {n: dict(values) for n, values in fsspec.config.conf.items()}
    name = "s3" if store == "s3" else "gs"
    port = urlsplit(configuration[name]["endpoint_url"]).port
    assert port
    verbs = ("PUT", "POST") if verb == "write" else ("GET", "HEAD")
    seen = 0

    def decide(method: str, path: str) -> str | None:
        nonlocal seen
        seen += method in verbs
        return fault if method in verbs and seen % 7 == 3 else None

    with Proxy(port).running() as proxy:
        proxy.decide = decide
        for values in configuration.values():
            if "endpoint_url" in values:
                values["endpoint_url"] = proxy.url
        if "s3" in configuration:
            configuration["s3"]["config_kwargs"] = {"read_timeout": 2}
        codes = []
        log = tmp_path / "log"
        for _ in range(8):  # what the client does not try again, the next run does
            codes.append(
                zygote.run("run", log, config=job_document(uri), stores=configuration)
            )
            if codes[-1] == 0:
                break
    assert proxy.faults
    assert codes[-1] == 0, log.read_text()
    assert verify_table(uri) == []
    assert storage.read(f"{uri}/_featuretap/manifest.parquet") == whole["m"]


def test_an_upload_that_is_cut_off_unnoticed_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def truncated(self: Any, source: str, target: str, **kwargs: Any) -> None:
        self.pipe_file(target, Path(source).read_bytes()[:-10])

    monkeypatch.setattr(MemoryFileSystem, "put_file", truncated)
    source = tmp_path / "part"
    source.write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="must have 100 bytes, its upload has 90"):
        storage.publish(source, "memory://cut/part")
    assert source.exists()
