"""Memory for blocks of rows, used again and again.

The system zeroes what it gives, which costs as much as to work on it.
"""

from __future__ import annotations

import threading

import numpy as np

BLOCK_BYTES = 1 << 20
"""Of a block of rows as 8 bytes a value: larger ones leave the caches, and of smaller
ones the calls of NumPy take longer than the arithmetic (both measured in runs)."""
_own = threading.local()


def reused(name: str, shape: tuple[int, int], kind: type[np.generic]) -> np.ndarray:
    """Give an array whose values are left from its last use.

    Args:
      name: what it is for; the array is valid until the thread asks for it again.
      shape: values of `kind`.
      kind: their type.
    """
    size = shape[0] * shape[1] * np.dtype(kind).itemsize
    if size > BLOCK_BYTES:  # one long row
        return np.empty(shape, kind)
    if not hasattr(_own, name):
        setattr(_own, name, np.empty(BLOCK_BYTES, np.uint8))
    block: np.ndarray = getattr(_own, name)
    return block[:size].view(kind).reshape(shape)
