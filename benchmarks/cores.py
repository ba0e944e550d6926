"""Measure what two cores tell of machines with more: Python's lock, and memory.

A thread on a core of its own computes shards, and a profiler counts how often it holds
Python's lock. Two such threads in one process, and two such processes, are measured
beside it. From the share of the lock follows how many rows more threads would
make in one process, if nothing but the lock is shared (mean value analysis of a closed
network: one queue, and the work outside of it).

    python benchmarks/cores.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATA = HERE / "data"
MACHINES = (1, 2, 4, 8, 16, 32, 64)
_SAMPLES_PER_SECOND = 200


def main() -> None:
    """Measure all; print one JSON document."""
    arguments = _arguments()
    if arguments.child:
        _child(arguments)
        return
    from workload import make_files, make_model

    make_files(DATA, arguments.files, arguments.rows_per_file)
    make_model().save(DATA / "cnn.keras")
    rounds = [_measure(arguments) for _ in range(arguments.repeats)]
    found = {name: max(one[name] for one in rounds) for name in rounds[0]}
    lock = min(one["lock"] for one in rounds)
    one, threads, processes = (
        found[n] for n in ("one", "two_threads", "two_processes")
    )
    print(
        json.dumps(
            {
                "batch_rows": arguments.batch_rows,
                "rows_per_second": {
                    n: round(r) for n, r in found.items() if n != "lock"
                },
                "share_of_the_lock": round(lock, 3),
                "two_threads": {
                    "measured": round(threads / one, 2),
                    "by_the_lock": round(speed(2, lock), 2),
                },
                "two_processes": {"measured": round(processes / one, 2)},
                "threads_of_one_process": {
                    n: round(speed(n, lock), 1) for n in MACHINES
                },
            },
            indent=2,
        )
    )


def speed(threads: int, lock: float) -> float:
    """Tell how many times the rows of one thread several make in one process.

    Args:
      threads: how many, each on a core of its own.
      lock: share of the time of a thread that is alone in which it holds Python's lock.

    >>> speed(1, 0.2), round(speed(100, 0.2), 2)
    (1.0, 5.0)
    """
    waiting = made = 0.0
    for count in range(1, threads + 1):
        at_lock = lock * (1 + waiting)
        made = count / (1 - lock + at_lock)
        waiting = made * at_lock
    return made


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=13, help="one warms up")
    parser.add_argument("--rows-per-file", type=int, default=50_000)
    parser.add_argument("--batch-rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="the best counts")
    parser.add_argument("--child", type=int, nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Give rows/s of one thread, two threads, two processes; the share of the lock."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    with _children(arguments, [[first]]) as (alone,):
        one = _rate(alone)
    with _children(arguments, [[first]]) as (watched,):
        _begin(watched)
        lock = _lock_share(watched.pid)
        _rate_of(watched)
    with _children(arguments, [[first, second]]) as (both,):
        two_threads = _rate(both)
    with _children(arguments, [[first], [second]]) as children:
        for child in children:
            _begin(child)
        two_processes = sum(_rate_of(child) for child in children)
    return {
        "one": one,
        "two_threads": two_threads,
        "two_processes": two_processes,
        "lock": lock,
    }


@contextmanager
def _children(
    arguments: argparse.Namespace, cores: Sequence[Sequence[int]]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each list of cores, and wait until all are ready."""
    options = ("files", "rows_per_file", "batch_rows")
    given = [f"--{o.replace('_', '-')}={getattr(arguments, o)}" for o in options]
    command = [sys.executable, __file__, *given, "--child"]
    children = [
        subprocess.Popen(
            [*command, *map(str, some)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for some in cores
    ]
    try:
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise RuntimeError("a process has ended before it was ready")
        yield children
    finally:
        for child in children:
            child.communicate()  # ends what it reads, and so the child, which tidies up


def _begin(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("begin\n")
    child.stdin.flush()


def _rate_of(child: subprocess.Popen[str]) -> float:
    assert child.stdout is not None
    return float(child.stdout.readline())


def _rate(child: subprocess.Popen[str]) -> float:
    _begin(child)
    return _rate_of(child)


def _lock_share(pid: int) -> float:
    """Sample for some seconds whether a process's threads hold Python's lock."""
    seconds = 5
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "samples"
        subprocess.run(
            [
                *(str(Path(sys.executable).parent / "py-spy"), "record", "--gil"),
                *("--rate", str(_SAMPLES_PER_SECOND), "--duration", str(seconds)),
                *("--format", "raw", "--output", str(out), "--pid", str(pid)),
            ],
            check=True,
            capture_output=True,
        )
        held = sum(
            int(line.rpartition(" ")[2]) for line in out.read_text().splitlines()
        )
    return held / (seconds * _SAMPLES_PER_SECOND)


def _child(arguments: argparse.Namespace) -> None:
    """Compute all shards on some cores, one a thread; print rows/s."""
    os.sched_setaffinity(0, arguments.child)
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    from throughput import _plan
    from workload import make_files

    from pipeline.run import prepare_table
    from transforms.extract import extract_shard
    from transforms.table.directory import Table
    from transforms.worker import worker_for

    files = make_files(DATA, arguments.files, arguments.rows_per_file)
    with tempfile.TemporaryDirectory(dir=HERE) as made:
        plan = _plan(files, Path(made) / "table", arguments.batch_rows)
        prepare_table(plan)
        worker = worker_for(Table(plan.config.table.path), plan.seal)
        warm, *shards = plan.shards
        del shards[len(shards) // 2 * 2 :]  # as many for each of two threads
        if not shards:  # small files are put together into one
            raise RuntimeError("there must be rows for three shards or more")
        extract_shard(worker, warm)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.perf_counter()
        with ThreadPoolExecutor(len(arguments.child)) as pool:
            done: list[Any] = list(pool.map(partial(extract_shard, worker), shards))
        seconds = time.perf_counter() - began
        print(sum(commit.part.rows for commit in done) / seconds, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
