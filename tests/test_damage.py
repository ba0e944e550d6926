"""Damaged tables and how commands end on them: a sentence, an exit code, no abort."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Job

_THREADS = """
import os, sys

import fsspec
import pyarrow.parquet

from pipeline.parity.draw import draw_rows
from pipeline.verify import verify_table
from transforms.table.directory import Table
from transforms.table.keys import repeated_keys
from transforms.table.read import read_features


def threads():
    return len(os.listdir("/proc/self/task"))


local, remote = sys.argv[1], "memory://table"
table, store = Table(local), fsspec.filesystem("memory")
store.put(local, "/table", recursive=True)
parts = [(name, 20) for name in table.part_names()]
before = threads()
assert verify_table(local) == []
assert repeated_keys(table, "example_id", parts) == {}
assert len(list(draw_rows(table, 7, 0))) > 0
assert len(read_features(remote, "hidden").keys) == 100
print(threads() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_what_is_read_last_leaves_no_thread_that_could_abort_the_exit(job: Job) -> None:
    """A thread of Arrow that frees Python's memory while Python ends aborts it."""
    job.run()
    done = subprocess.run(
        [sys.executable, "-c", _THREADS, str(job.table)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
