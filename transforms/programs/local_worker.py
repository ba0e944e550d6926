"""The program of a local worker: extracts the shards that its parent sends.

Its parent is `pipeline.local_workers`. It gets a `Job` and sends `Ready`; then it gets
one `Shard` after the other, and sends `Done` or `Failed` for each, and about once a
second `At`. Each of several threads computes a shard of its own. After a `Stop` the
shards that would take long are left.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from transforms import child_process, device
from transforms.errors.attempts import forget_attempts
from transforms.extract import extract_shard, shard_error
from transforms.lookup import ConfigError
from transforms.progress import Progress, at_work
from transforms.shard import Shard
from transforms.stop import StoppedError, stopping
from transforms.table.directory import Table
from transforms.worker import Worker, worker_for

_PAUSES_SECONDS = (1, 5)  # between the attempts at a shard, which are one more
_FINAL = (
    ConfigError,
    RuntimeError,
    FileNotFoundError,
    PermissionError,
    StoppedError,
)
_TELLING_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told when it starts.

    Attributes:
      table: URI of a planned table.
      seal: of its plan, as the launcher says.
      processes: how many workers share this machine's cores.
    """

    table: str
    seal: str
    processes: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has loaded the model and is ready for its first shard.

    Attributes:
      shards: how many shards it computes at a time.
    """

    shards: int


@dataclass(frozen=True, slots=True)
class At:
    """How far the worker is with its shards.

    Attributes:
      shards: `{index: progress}` of those of which a batch is done.
    """

    shards: Mapping[int, Progress]


@dataclass(frozen=True, slots=True)
class Stop:
    """The run is to end: the worker gets no more shards."""


@dataclass(frozen=True, slots=True)
class Done:
    """The worker has committed a shard, or has left it after `Stop`.

    Attributes:
      shard: index of the shard.
    """

    shard: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker has raised an error.

    Attributes:
      shard: index of the shard that failed; None if the worker cannot compute at all.
      message: what went wrong.
    """

    shard: int | None
    message: str


def main() -> None:
    """Extract shards until the parent closes the pipe."""
    pipe, job = child_process.parent(forget_attempts)
    # SIGTERM may reach all processes of a machine; the parent decides what to do.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lock = threading.Lock()

    def answer(message: Ready | At | Done | Failed) -> None:
        # A parent that has ended needs no answer.
        with lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            pipe.send(message)

    def extract(shard: Shard) -> None:
        try:
            with contextlib.suppress(StoppedError):
                _extract_patiently(worker, shard)
        except BaseException as error:  # the parent waits for an answer
            text = f"shard {shard.index} failed: {type(error).__name__}"
            with contextlib.suppress(Exception):  # its own text may raise an error
                text = str(shard_error(shard, error))
            answer(Failed(shard.index, text))
        else:
            answer(Done(shard.index))

    device.share_cores(job.processes)
    try:
        worker = worker_for(Table(job.table), job.seal)
    except Exception as error:
        answer(Failed(None, f"{type(error).__name__}: {error}"))
        return
    shards = device.shards_in_flight()
    answer(Ready(shards))
    threading.Thread(target=_tell, args=(answer,), daemon=True).start()
    with ThreadPoolExecutor(shards) as pool, contextlib.suppress(EOFError):
        while True:
            message = pipe.recv()
            if isinstance(message, Stop):
                stopping.set()
            else:
                pool.submit(extract, message)


def _tell(answer: Callable[[At], None]) -> None:
    """Tell the parent again and again how far the shards at work are."""
    told: dict[int, Progress] = {}
    while True:
        time.sleep(_TELLING_SECONDS)
        now = at_work()
        if now != told:
            answer(At(now))
            told = now


def _extract_patiently(worker: Worker, shard: Shard) -> None:
    """Extract a shard; try again after errors that may have been temporary.

    Those of the storage, the device or the user's code may be.
    """
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
