"""Say how far the shards are that are being computed, for whoever watches the run.

What is known here is what this process computes, and what its workers tell it. Of
shards that are done the commit records tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a shard is.

    Attributes:
      rows: how many of its rows are done, bad ones included.
      bad: how many of them are bad.
    """

    rows: int
    bad: int


_at_work: dict[int, Progress] = {}


def at_work() -> dict[int, Progress]:
    """Tell how far the shards at work are, by index."""
    return dict(_at_work)


def report(shard: int, progress: Progress) -> None:
    """Say how far a shard is, by its index."""
    _at_work[shard] = progress


def forget(shard: int) -> None:
    """Say that a shard is no longer at work; if it is done, after its commit."""
    _at_work.pop(shard, None)


@contextlib.contextmanager
def followed(shard: int) -> Iterator[None]:
    """Forget at the end of a block what is reported of a shard in it."""
    try:
        yield
    finally:
        forget(shard)
