"""Decide how a worker process uses its cores and its accelerator.

The rule, measured in docs/performance.md:

- On a CPU, `shards_in_flight` is the number of cores, at most 8, and TensorFlow and
  tf.data get `cores // shards_in_flight` threads each. Shards do not wait for each
  other, threads inside one operation do.
- On a GPU two shards are in flight, one computes while the other reads and writes; the
  cores are shared between their readers, and TensorFlow keeps its own thread count.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

_MAX_SHARDS_IN_FLIGHT = 8
_GPU_SHARDS_IN_FLIGHT = 2
_lock = threading.Lock()


def cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shards_in_flight() -> int:
    """How many shards one process should work on at a time."""
    if _gpus():
        return _GPU_SHARDS_IN_FLIGHT
    return min(cores(), _MAX_SHARDS_IN_FLIGHT)


def reader_threads() -> int:
    """How many threads read and preprocess for one shard."""
    return max(1, cores() // shards_in_flight())


def configure() -> None:
    """Set TensorFlow's threads and memory policy; the first call in a process counts.

    GPU memory grows with need instead of being taken whole at the start. A process that
    already runs TensorFlow with settings of its own keeps them.
    """
    with _lock:
        _configure_once()


@cache
def _configure_once() -> None:
    import tensorflow as tf

    try:
        for gpu in _gpus():
            tf.config.experimental.set_memory_growth(gpu, True)
        if not _gpus():
            tf.config.threading.set_intra_op_parallelism_threads(
                cores() // shards_in_flight()
            )
    except RuntimeError:  # TensorFlow is initialized: its owner has chosen
        return


@cache
def _gpus() -> list[Any]:
    import tensorflow as tf

    return list(tf.config.list_physical_devices("GPU"))
