"""Compute several batches of a shard at a time where cores would idle otherwise.

What comes out is the same, in the same order, as if one batch were computed after the
other: values, and the failures of rows between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from transforms import device
from transforms.batch import Batch
from transforms.errors.failure import Failure
from transforms.taps.company import check_company
from transforms.taps.device_memory import FittingTaps
from transforms.taps.infer import Computed, infer

OnFailure = Callable[[Failure], None]
Read = Callable[[OnFailure], Iterator[Batch]]
"""Reads batches; calls what it is given with each row that cannot be read."""
_Outcomes = list[Computed | Failure]


def infer_ahead(
    compiled: FittingTaps, read: Read, on_failure: OnFailure, *, check_first: bool
) -> Iterator[Computed]:
    """Compute the columns of all batches of a shard, several at a time on idle cores.

    How many is asked before each batch, since other shards begin and end meanwhile:
    `device.batches_at_once`. So many are in memory at the most.

    Args:
      compiled: the compiled model and taps.
      read: reads the batches.
      on_failure: called with each row that cannot be read or computed, in the order of
        the rows.
      check_first: compute the first batch again in other company: `check_company`.

    Yields:
      As `infer`.

    Raises:
      RuntimeError: a column of the first batch depends on more than the row.
      tf.errors.OpError: the device failed, rather than a row.
    """
    waiting: deque[_Waiting] = deque()

    def unread(failure: Failure) -> None:
        if waiting:  # batches before this row have still to come
            waiting[-1].behind.append(failure)
        else:
            on_failure(failure)

    pool = ThreadPoolExecutor(thread_name_prefix="ahead")
    try:
        for batch in read(unread):
            if not waiting and device.batches_at_once() == 1:
                outcomes = _outcomes(compiled, batch, check_first)
                yield from _passed_on(outcomes, on_failure)
            else:
                future = pool.submit(_outcomes, compiled, batch, check_first)
                waiting.append(_Waiting(future))
                while len(waiting) >= device.batches_at_once():
                    yield from _finished(waiting, on_failure)
            check_first = False
        while waiting:
            yield from _finished(waiting, on_failure)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(slots=True)
class _Waiting:
    """A batch that is being computed.

    Attributes:
      future: what will come of it.
      behind: rows between this batch and the next that could not be read.
    """

    future: Future[_Outcomes]
    behind: list[Failure] = field(default_factory=list)


def _outcomes(compiled: FittingTaps, batch: Batch, check: bool) -> _Outcomes:
    """Compute a batch: what came of its rows, in their order."""
    outcomes: _Outcomes = []
    computed = infer(compiled, batch, outcomes.append)
    outcomes.extend(check_company(compiled, computed) if check else computed)
    return outcomes


def _finished(waiting: deque[_Waiting], on_failure: OnFailure) -> Iterator[Computed]:
    """Await the batch that has waited longest, and pass on what came of it."""
    yield from _passed_on(waiting[0].future.result(), on_failure)
    for failure in waiting.popleft().behind:
        on_failure(failure)


def _passed_on(outcomes: _Outcomes, on_failure: OnFailure) -> Iterator[Computed]:
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            on_failure(outcome)
        else:
            yield outcome
