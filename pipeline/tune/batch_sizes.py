"""Try the model with batches of more and more rows, and choose a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.tune.measure import Measure

FIRST = 16
MOST = 4096
_ENOUGH = 0.97
"""Share of the best rate at which a size is as good as the best."""
Stop = Literal["largest", "fixed", "no gain", "time", "memory"]


@dataclass(frozen=True, slots=True)
class Trial:
    """The model, measured with one size of batches.

    Attributes:
      batch_rows: rows in a batch.
      jit: whether XLA compiled it.
      measure: of computing alone.
    """

    batch_rows: int
    jit: bool
    measure: Measure

    @property
    def rate(self) -> float:
        """Rows a second by the clock."""
        return self.measure.rate or 0.0


def sweep(
    given: int,
    fixed: int | None,
    attempt: Callable[[int], Trial | None],
    fits: Callable[[int], bool],
    in_flight: int,
    seconds: float,
) -> tuple[list[Trial], Stop]:
    """Try sizes from 16 on, each twice the last, and the given one on the way.

    Args:
      given: `model.batch_rows` of the config.
      fixed: the only size that the model takes; None if it takes any.
      attempt: measures a size; None if the device's memory does not suffice.
      fits: whether this machine's memory is likely to suffice for a size.
      in_flight: batches that are computed at a time.
      seconds: that a single batch may take.

    Returns:
      What was measured, by rising size, at least one unless memory is short even for
      the first; and why there is no larger one.
    """
    if fixed is not None:
        only = attempt(fixed)
        return ([only], "fixed") if only else ([], "memory")
    trials: list[Trial] = []
    for size in _sizes(given):
        if trials and in_flight * size > seconds * trials[-1].rate:
            return trials, "time"
        if _stands_still(trials):
            return trials, "no gain"
        tried = attempt(size) if fits(size) or not trials else None
        if tried is None:
            return trials, "memory"
        trials.append(tried)
    return trials, "largest"


def _sizes(given: int) -> list[int]:
    powers = [FIRST << n for n in range((MOST // FIRST).bit_length())]
    return sorted({*powers, min(given, MOST)})


def _stands_still(trials: Sequence[Trial]) -> bool:
    """Whether neither of the last two sizes was faster than all before by 3 %."""
    if len(trials) < 3:
        return False
    before = max(trial.rate for trial in trials[:-2])
    return max(trial.rate for trial in trials[-2:]) < before * (2 - _ENOUGH)


def choose(trials: Sequence[Trial], given: int, stop: Stop) -> Trial:
    """Choose the given size if it is as good as the best, else the smallest that is.

    A larger one than the largest that was tried is taken to be as good as that, unless
    memory has ended the trials.

    Args:
      trials: by rising size, at least one.
      given: `model.batch_rows` of the config.
      stop: why there is no larger one.
    """
    enough = _ENOUGH * max(trial.rate for trial in trials)
    good = [trial for trial in trials if trial.rate >= enough]
    same = [trial for trial in good if trial.batch_rows == given]
    last = trials[-1]
    if not same and given > last.batch_rows and last in good and stop != "memory":
        return Trial(given, last.jit, last.measure)
    return (same or good)[0]
