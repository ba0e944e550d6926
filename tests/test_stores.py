"""Sources on real object stores: S3 and GCS servers on loopback, real clients.

Heavy tests; fake-gcs-server must be on the path, or FAKE_GCS_SERVER name it. With
REQUIRE_STORES set they fail where they would be skipped.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from conftest import Job
from readers import CASES
from test_readers import is_the_same_elsewhere, job_of, sections, written

from pipeline import prepare_table, run_plan, verify_table
from transforms.extract import extract_shard, worker_for
from transforms.table import Table

__all__ = ["written"]  # a fixture
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def unavailable(reason: str) -> None:
    if os.environ.get("REQUIRE_STORES"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of moto's server."""
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    before = dict(fsspec.config.conf)
    fsspec.config.conf["s3"] = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "key": "test",
        "secret": "test",
    }
    fsspec.filesystem("s3").mkdir("features")
    yield "s3://features"
    fsspec.config.conf.clear()
    fsspec.config.conf.update(before)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    """A bucket of fake-gcs-server."""
    binary = os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")
    if not binary:
        unavailable("fake-gcs-server is not on the path; make stores builds it with Go")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    options += ["-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [str(binary), *options, "-external-url", endpoint, "-log-level", "error"]
    )
    before = dict(fsspec.config.conf)
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    fsspec.config.conf["gcs"] = {"endpoint_url": endpoint, "token": "anon"}
    fsspec.config.conf["gs"] = fsspec.config.conf["gcs"]
    try:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"{endpoint}/storage/v1/b?project=p")
                break
            except OSError:
                time.sleep(0.1)
        fsspec.filesystem("gs").mkdir("features", location=None)
        yield "gs://features"
    finally:
        fsspec.config.conf.clear()
        fsspec.config.conf.update(before)
        fsspec.get_filesystem_class("gs").clear_instance_cache()
        server.terminate()
        server.wait()


def stored(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "_")


@pytest.mark.parametrize("name", CASES)
def test_rows_on_s3_are_the_same_as_local_ones(
    name: str, written: dict[str, Path], s3: str, tmp_path: Path
) -> None:
    is_the_same_elsewhere(name, written[name], f"{s3}/{stored(name)}", tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_rows_on_gcs_are_the_same_as_local_ones(
    name: str, written: dict[str, Path], gcs: str, tmp_path: Path
) -> None:
    is_the_same_elsewhere(name, written[name], f"{gcs}/{stored(name)}", tmp_path)


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_source_and_table_in_one_store(
    store: str, written: dict[str, Path], tmp_path: Path, request: Any
) -> None:
    bucket = request.getfixturevalue(store)
    fs, path = fsspec.core.url_to_fs(f"{bucket}/whole/in")
    for file in written["tfrecord"].glob("*.tfrecord"):
        fs.put_file(str(file), f"{path}/{file.name}")
    job = Job(tmp_path, {"reader": "tfrecord", "path": f"{bucket}/whole/in"})
    table = {"path": f"{bucket}/whole/out"}
    run_plan(job.plan(table=table))
    run_plan(job.plan(table=table))  # finished already
    assert verify_table(table["path"]) == []
    files, out = fsspec.core.url_to_fs(table["path"])
    ids = pq.read_table(files.glob(f"{out}/*.parquet"), filesystem=files)["example_id"]
    assert sorted(ids.to_pylist()) == list(range(100))


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_an_object_that_changes_after_planning_is_refused_by_name(
    store: str, written: dict[str, Path], tmp_path: Path, request: Any
) -> None:
    bucket = request.getfixturevalue(store)
    fs, path = fsspec.core.url_to_fs(f"{bucket}/changing")
    for file in written["tfrecord"].glob("*.tfrecord"):
        fs.put_file(str(file), f"{path}/{file.name}")
    case = CASES["tfrecord"]
    job = job_of(case, tmp_path, f"{bucket}/changing")
    plan = job.plan(**sections(case))
    prepare_table(plan)
    content = fs.cat_file(f"{path}/1.tfrecord")
    fs.pipe_file(f"{path}/1.tfrecord", content[: len(content) // 2])
    with pytest.raises(RuntimeError, match=r"as they were planned.*1\.tfrecord"):
        extract_shard(worker_for(Table(str(job.table))), plan.shards[0])
    with pytest.raises(ValueError, match=r"changed: .*1\.tfrecord"):
        run_plan(job.plan(**sections(case)))
