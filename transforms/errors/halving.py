"""Find what is at fault by halves: compute together what can be computed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


def by_halves(
    count: int,
    compute: Callable[[np.ndarray], Result],
    blame: tuple[type[Exception], ...],
    alone: Callable[[int, Exception], Result | None],
) -> Iterator[Result]:
    """Compute items together; where that fails, halves of them, down to those at fault.

    Args:
      count: how many items there are.
      compute: from indexes of items, int64 `[n]`, rising, to their result.
      blame: the exceptions that mean that one of the items is at fault.
      alone: called with an item that fails by itself, and with its exception; what it
        returns is yielded in the item's place, unless it is None.

    Yields:
      Results, in the order of the items.

    >>> def invert(items):
    ...     return [1 // int(item) for item in items]
    >>> list(by_halves(3, invert, (ZeroDivisionError,), lambda item, error: None))
    [[1], [0]]
    """
    if count:
        yield from _halves(np.arange(count), compute, blame, alone)


def _halves(
    items: np.ndarray,
    compute: Callable[[np.ndarray], Result],
    blame: tuple[type[Exception], ...],
    alone: Callable[[int, Exception], Result | None],
) -> Iterator[Result]:
    try:
        result = compute(items)
    except blame as error:
        if len(items) == 1:
            instead = alone(int(items[0]), error)
            if instead is not None:
                yield instead
            return
    else:
        yield result
        return
    for half in np.array_split(items, 2):
        yield from _halves(half, compute, blame, alone)
