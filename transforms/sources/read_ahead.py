"""Take items from an iterator before they are asked for, in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterator[Item], most: int) -> Iterator[Item]:
    """Pass items through, and have a thread make the next ones meanwhile.

    Args:
      items: none of them None. What it raises is raised where its item would come.
      most: how many items are waiting at a time.
    """
    pool = ThreadPoolExecutor(1)
    waiting: deque[Future[Item | None]] = deque()
    try:
        for _ in range(most):
            waiting.append(pool.submit(next, items, None))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, items, None))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(items, Generator):
            items.close()
