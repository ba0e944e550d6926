"""Decide how a worker process uses its cores and its accelerator.

The rules, measured in docs/performance.md:

- On a CPU a worker fills its cores, 8 at most, with a shard each, and TensorFlow and
  tf.data get an equal share of all cores for each of these. Shards do not wait for each
  other, but threads inside one operation do.
- One more shard is in flight, since each waits now and then: for its reader, the disk,
  Python's lock, or to be woken up.
- Where fewer shards are left than cores, it computes several batches of a shard at a
  time, so that as many are computed in all.
- On a GPU a worker computes two shards at a time: one computes while the other reads
  and writes. Their readers share the cores; TensorFlow keeps its own number of threads.
- A process that computes holds one GPU, which no other process of this user gets.
- So a machine is filled by a process for each GPU, or for each 8 cores where it has
  none: more threads would wait for Python's lock.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transforms import scratch
from transforms.imports import quick_imports

_MOST_CORES = 8  # that a process fills with a shard each
_GPU_SHARDS_IN_FLIGHT = 2
_PATIENCE_SECONDS = 60  # a worker that is being replaced takes a while to end
_LOOK_SECONDS = 0.5
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_lock = threading.Lock()
_processes = 1
_leases: dict[str, int] = {}
_borrowed: str | None = None
_configured = False
_shards_at_work = 0


def share_cores(processes: int) -> None:
    """Share the cores of this machine with other workers.

    Must be called before any other function of this module.

    Args:
      processes: number of workers on this machine, this one included.
    """
    global _processes
    _processes = processes


def cores() -> int:
    """Tell how many cores this process should use, of those that it may run on.

    Those are the cores that the system gives it, and no more than its container's
    quota of CPU time is worth.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, _quota(_CPU_MAX)) // _processes)


@functools.cache
def _quota(place: Path) -> int:
    """Give how many cores a container's CPU time is worth, rounded up; many if all."""
    try:
        most, period = place.read_text().split()
        return math.ceil(int(most) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # without a limit it is a word
        return sys.maxsize


def default_processes() -> int:
    """Tell how many processes should compute on this machine, if nobody says.

    One for each GPU; without GPUs as many as leave none of them more cores than it
    fills with a shard each.
    """
    with quick_imports():
        import tensorflow as tf

    gpus = len(tf.config.list_physical_devices("GPU"))
    return gpus or math.ceil(cores() / _MOST_CORES)


def shards_in_flight() -> int:
    """Tell how many shards one process should compute at a time."""
    if _gpus():
        return _GPU_SHARDS_IN_FLIGHT
    return cores_with_a_shard() + 1


def cores_with_a_shard() -> int:
    """Tell how many of its cores a process without a GPU fills with a shard each."""
    return min(cores(), _MOST_CORES)


def reader_threads() -> int:
    """Tell how many threads should read and preprocess for one shard."""
    shards = _GPU_SHARDS_IN_FLIGHT if _gpus() else cores_with_a_shard()
    return max(1, cores() // shards)


@contextlib.contextmanager
def at_shard() -> Iterator[None]:
    """Count a shard among those that this process is computing, for a block."""
    global _shards_at_work
    with _lock:
        _shards_at_work += 1
    try:
        yield
    finally:
        with _lock:
            _shards_at_work -= 1


def batches_at_once() -> int:
    """Tell how many batches of each shard this process should compute at a time.

    On a CPU shards that are not there leave cores idle; a GPU is filled by one batch.
    """
    if _gpus():
        return 1
    return max(1, cores_with_a_shard() // max(1, _shards_at_work))


def configure(*, compute: bool = True) -> None:
    """Set TensorFlow's devices and threads; only the first call in a process counts.

    GPU memory is taken as it is needed, not all at the start. A process in which
    TensorFlow has been initialized before keeps the settings that it has.

    Args:
      compute: whether this process will compute. If so it holds one GPU as long as it
        lives; if not it leaves all of them to other processes.

    Raises:
      RuntimeError: other processes hold all GPUs, and go on doing so for a minute.
    """
    global _configured
    with _lock:
        if not _configured:
            _configure(compute=compute)
            _configured = True


def has_gpu() -> bool:
    """Whether this process computes on a GPU."""
    return _configured and bool(_gpus())


def release() -> None:
    """Release this process's GPU for others; this one must not compute any more."""
    while _leases:
        os.close(_leases.popitem()[1])


def held() -> str | None:
    """Name the GPU that this process computes on, so that a child can `borrow` it."""
    return next(iter(_leases), _borrowed)


def borrow(gpu: str | None) -> None:
    """Let this process, a child, compute on the GPU that its parent holds.

    Must be called before any other function of this module.

    Args:
      gpu: name of the GPU, as the parent's `held` gives it; None if it holds none.
    """
    global _borrowed
    _borrowed = gpu


def _configure(*, compute: bool) -> None:
    with quick_imports():
        import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    mine = [_lease(gpus)] if gpus and compute else []
    try:
        tf.config.set_visible_devices(mine, "GPU")
        for gpu in mine:
            tf.config.experimental.set_memory_growth(gpu, True)
        if not _gpus():
            tf.config.threading.set_intra_op_parallelism_threads(
                cores() // cores_with_a_shard()
            )
    except RuntimeError:  # TensorFlow is initialized already, with other settings
        release()


def _lease(gpus: list[Any]) -> Any:
    """Choose a GPU that no other process holds, and hold it.

    The locks are named as CUDA_VISIBLE_DEVICES names the GPUs, or else by number.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in given.split(",")] if given else []
    names = [*names, *map(str, range(len(names), len(gpus)))]
    if _borrowed in names[: len(gpus)]:
        return gpus[names.index(_borrowed)]
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        for name, gpu in zip(names, gpus, strict=False):
            lease = scratch.hold(f"gpu-{name.replace('/', '-')}.lock")
            if lease is not None:
                _leases[name] = lease
                return gpu
        if time.monotonic() > end:
            raise RuntimeError(
                "a process that computes must have a GPU of its own, other processes"
                f" hold all {len(gpus)}; wait for them, or start as many workers as"
                " there are GPUs"
            )
        time.sleep(_LOOK_SECONDS)


def _gpus() -> list[Any]:
    """List the GPUs that this process uses."""
    import tensorflow as tf

    return list(tf.config.get_visible_devices("GPU"))
