"""Measure the stages of a run, one after the other, with the worker of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.plan import Plan
from pipeline.tune import stages
from pipeline.tune.batch_sizes import Stop, Trial, choose, sweep
from pipeline.tune.ceiling import Machine, Measures
from pipeline.tune.machine import available_bytes
from pipeline.tune.measure import Measure, Work, measure
from transforms import device
from transforms.config import Config
from transforms.lookup import ConfigError
from transforms.models.model import Model
from transforms.sources.batches import InputPipeline
from transforms.taps.compile import CompiledTaps, compile_taps
from transforms.taps.xla import check_xla
from transforms.worker import Worker

_SHARES = {"sample": 0.1, "sizes": 0.45, "read": 0.15, "prepare": 0.15, "write": 0.15}
"""Of the seconds, by what they are for."""
_SIZES = 9
"""Attempts that share the seconds for sizes of batches; there are seldom more."""
_JIT_GAIN = 1.05
_MEMORY_SHARE = 0.5
_ALIVE = 3  # activations of the largest size that may be in memory at a time
_NO_MEMORY = "the device ran out of memory"
Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What came of trying batches of several sizes.

    Attributes:
      trials: what was measured, by rising size; then XLA at the chosen one.
      stop: why there is no larger size.
      xla: why the other way, with XLA or without, was not tried; None if it was.
      chosen: the best of them.
    """

    trials: tuple[Trial, ...]
    stop: Stop
    xla: str | None
    chosen: Trial

    def settings(self, config: Config) -> dict[str, int | bool]:
        """Give the keys of `[model]` that differ from a config's."""
        wanted = {"batch_rows": self.chosen.batch_rows, "jit": self.chosen.jit}
        return {k: v for k, v in wanted.items() if v != getattr(config.model, k)}


class Bench:
    """Measures the stages of a run of a plan.

    Attributes:
      machine: what a run has of it.
    """

    def __init__(
        self, worker: Worker, plan: Plan, seconds: float, tell: Tell, workers: int
    ) -> None:
        """Read some rows to measure with.

        Args:
          worker: for the plan, whose table takes what is written.
          plan: of the run.
          seconds: to measure for, all together.
          tell: called with what is measured next.
          workers: that share the machine.

        Raises:
          RuntimeError: no row comes through.
        """
        self.machine = Machine(
            cores=device.cores(),
            shards_in_flight=device.shards_in_flight(),
            reader_threads=device.reader_threads(),
            gpu=device.has_gpu(),
            workers=workers,
        )
        self._worker = worker
        self._plan = plan
        self._tell = tell
        self._seconds = {name: share * seconds for name, share in _SHARES.items()}
        self._compiled: dict[tuple[int, bool], CompiledTaps] = {}
        tell("reading some rows")
        shards = (plan.shards[at] for at in self._starts())
        self._sample = stages.take_sample(worker, shards, self._seconds["sample"])

    def sizes(self) -> Sizes:
        """Try sizes of batches, and XLA at the best of them.

        Raises:
          RuntimeError: the device has no room for the smallest.
        """
        model, given = self._worker.computer.model, self._plan.config.model.batch_rows
        attempt, seconds = (
            partial(self._attempt, model),
            self._seconds["sizes"] / _SIZES,
        )
        in_flight = self.machine.shards_in_flight
        trials, stop = sweep(
            given, model.batch_rows, attempt, self._fits, in_flight, seconds
        )
        if not trials:
            raise RuntimeError(f"{_NO_MEMORY} with the smallest batch")
        chosen = choose(trials, given, stop)
        rows = min(chosen.batch_rows, trials[-1].batch_rows)
        other, why = self._other_way(model, rows)
        if other is None:
            return Sizes(tuple(trials), stop, why, chosen)
        if other.rate >= _JIT_GAIN * chosen.rate:
            chosen = replace(other, batch_rows=chosen.batch_rows)
        return Sizes((*trials, other), stop, None, chosen)

    def stages(self, chosen: Trial) -> Measures:
        """Measure the other stages with the chosen size of batches.

        Where rows come so slowly that a batch takes too long, batches to read are
        smaller.
        """
        most = self._sample.rows_per_second * self._seconds["prepare"] / 4
        rows = max(min(chosen.batch_rows, int(most)), 1)
        pipeline = replace(self._worker.pipeline, batch_rows=rows)
        self._tell("measuring reading")
        reading = self._read(stages.only_reading(pipeline), self._seconds["read"])
        self._tell("measuring reading and preprocessing")
        preparing = self._read(pipeline, self._seconds["prepare"])
        self._tell("measuring writing")
        return Measures(reading, preparing, chosen.measure, self._write(chosen))

    def _starts(self) -> list[int]:
        """Spread the shards in flight over the dataset."""
        count, threads = len(self._plan.shards), self.machine.shards_in_flight
        return [count * thread // threads for thread in range(threads)]

    def _attempt(self, model: Model, rows: int) -> Trial | None:
        """Measure computing; None if memory does not suffice."""
        import tensorflow as tf

        how = ", compiled by XLA" if model.jit else ""
        self._tell(f"measuring computing, batches of {rows} rows{how}")
        try:
            compiled = self._compile(model, rows)
            batch = self._sample.some(rows)
            threads = range(self.machine.shards_in_flight)
            works = [stages.compute(compiled, batch) for _ in threads]
            found = self._measure(works, self._seconds["sizes"] / _SIZES)
        except (RuntimeError, tf.errors.ResourceExhaustedError) as error:
            causes = (error, error.__cause__)
            if any(isinstance(c, tf.errors.ResourceExhaustedError) for c in causes):
                return None
            raise
        return Trial(rows, model.jit, found)

    def _other_way(self, model: Model, rows: int) -> tuple[Trial | None, str | None]:
        """Measure with XLA if the config is without, and the other way round.

        Returns:
          What was measured, or why it was not.
        """
        import tensorflow as tf

        other = replace(model, jit=not model.jit, compiled={})
        try:
            check_xla(other, self._compile(other, rows))
            tried = self._attempt(other, rows)
        except (ConfigError, tf.errors.OpError) as error:
            return None, str(error).splitlines()[0]
        return tried, None if tried else _NO_MEMORY

    def _compile(self, model: Model, rows: int) -> CompiledTaps:
        key = (rows, model.jit)
        if key not in self._compiled:
            self._compiled[key] = compile_taps(model, self._plan.taps, rows)
        return self._compiled[key]

    def _fits(self, rows: int) -> bool:
        """Whether memory is likely to suffice for batches of a size."""
        largest = max((a.bytes_per_row or 0 for a in self._plan.activations), default=0)
        row = self._sample.bytes_per_row + self._plan.bytes_per_row
        row += 0 if self.machine.gpu else _ALIVE * largest
        needed = row * rows * self.machine.shards_in_flight
        return needed < _MEMORY_SHARE * available_bytes()

    def _read(self, pipeline: InputPipeline, seconds: float) -> Measure:
        copies, shards = stages.Copies(), self._plan.shards
        works = [stages.scan(pipeline, shards, at, copies) for at in self._starts()]
        found = self._measure(works, seconds)
        return found.slower(copies.seconds_per_row / len(works))

    def _write(self, chosen: Trial) -> Measure:
        rows, jit = max(key for key in self._compiled if key[1] == chosen.jit)
        rows = chosen.batch_rows if (chosen.batch_rows, jit) in self._compiled else rows
        seconds, sample = self._seconds["write"], self._sample
        computed = stages.compute_sample(self._compiled[rows, jit], sample, seconds / 4)
        batches = stages.in_batches(computed, chosen.batch_rows)
        shards = [
            replace(sample.shard, index=n) for n in range(self.machine.shards_in_flight)
        ]
        works = [stages.write(self._worker, s, batches, seconds / 4) for s in shards]
        return self._measure(works, seconds / 2)

    def _measure(self, works: Sequence[Work], seconds: float) -> Measure:
        return measure(works, seconds, self.machine.cores)
