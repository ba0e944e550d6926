"""Object stores on loopback, for tests: moto's server of S3 and fake-gcs-server."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import fsspec
import pytest
from ports import free_port

WARNINGS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


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
    bucket = f"features-{port}"  # moto's servers of one process share their buckets
    fsspec.filesystem("s3").mkdir(bucket)
    yield f"s3://{bucket}"
    fsspec.config.conf.clear()
    fsspec.config.conf.update(before)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    """A bucket of fake-gcs-server."""
    binary = os.environ.get("FAKE_GCS_SERVER") or shutil.which("fake-gcs-server")
    if not binary:
        unavailable(
            "fake-gcs-server is not on the path; make test-stores builds it with Go"
        )
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
