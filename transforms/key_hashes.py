"""Hash keys, whole columns of them at once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_ODD = np.uint64(0x9E3779B97F4A7C15)


def hash_keys(keys: pa.Array) -> np.ndarray:
    """Hash text, whole numbers or times to uint64 below 2^32; equal ones alike."""
    if pa.types.is_integer(keys.type) or pa.types.is_temporal(keys.type):
        mixed = keys.cast(pa.int64(), safe=False).to_numpy().astype(np.uint64) * _ODD
        return np.asarray(mixed >> np.uint64(32))
    array = keys.cast(pa.large_binary())
    offsets = np.frombuffer(array.buffers()[1], np.int64)
    offsets = offsets[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2] or b"", np.uint8)
    data = data[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)
    lengths = np.diff(offsets)
    starts = offsets[:-1] - offsets[0]
    inside = np.arange(len(data)) - np.repeat(starts, lengths)
    weights = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, _ODD))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(data * weights[inside])])
    totals = sums[starts + lengths] - sums[starts]
    return np.asarray(totals >> np.uint64(32))


def combine(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Hash pairs of hashes, uint64 `[rows]`, into one."""
    found: np.ndarray = hashes * _ODD + others
    return found
