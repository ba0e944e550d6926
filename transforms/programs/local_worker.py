"""The program of a local worker: extracts the shards that its parent sends, one by one.

Its parent is `pipeline.processes`. A thread for each shard in flight computes it.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from transforms import child_process, device
from transforms.errors.attempts import forget_attempts
from transforms.extract import extract_shard, shard_error
from transforms.shard import Shard
from transforms.table.directory import Table
from transforms.worker import Worker, worker_for

_PAUSES_SECONDS = (1, 5)  # between tries
_FINAL = (RuntimeError, FileNotFoundError, PermissionError)


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is for.

    Attributes:
      table: URI of a planned table.
      processes: how many workers share this machine's cores.
    """

    table: str
    processes: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker takes so many shards at a time."""

    shards: int


@dataclass(frozen=True, slots=True)
class Done:
    """The shard of this index is committed."""

    shard: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Work raised an error.

    Attributes:
      shard: its index; None if the worker cannot work at all.
      message: what went wrong.
    """

    shard: int | None
    message: str


def main() -> None:
    """Work until the parent has no more."""
    pipe, job = child_process.parent(forget_attempts)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # for the parent, which decides
    lock = threading.Lock()

    def answer(message: Ready | Done | Failed) -> None:
        # a parent that has gone needs no answer
        with lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            pipe.send(message)

    def extract(shard: Shard) -> None:
        try:
            _extract_patiently(worker, shard)
        except BaseException as error:  # the parent waits for an answer
            text = f"shard {shard.index} failed: {type(error).__name__}"
            with contextlib.suppress(Exception):  # it may not say what it is
                text = str(shard_error(shard, error))
            answer(Failed(shard.index, text))
        else:
            answer(Done(shard.index))

    device.share_cores(job.processes)
    try:
        worker = worker_for(Table(job.table))
    except Exception as error:
        answer(Failed(None, f"{type(error).__name__}: {error}"))
        return
    shards = device.shards_in_flight()
    answer(Ready(shards))
    with ThreadPoolExecutor(shards) as pool, contextlib.suppress(EOFError):
        while True:
            pool.submit(extract, pipe.recv())


def _extract_patiently(worker: Worker, shard: Shard) -> None:
    """Try again where the store, the device or the user's code may do better."""
    for seconds in _PAUSES_SECONDS:
        try:
            extract_shard(worker, shard)
        except _FINAL:
            raise
        except Exception:
            time.sleep(seconds)
        else:
            return
    extract_shard(worker, shard)
