"""Measure what a run of a config can do on this machine, before it is run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.plan import make_plan
from pipeline.run import check_outlives, writing
from pipeline.tune.batch_sizes import Stop, Trial
from pipeline.tune.bench import Bench, Tell
from pipeline.tune.ceiling import Ceiling, Machine, Measures, find_ceiling
from pipeline.tune.machine import Load
from pipeline.tune.measure import Measure
from pipeline.tune.outlook import Outlook
from transforms import storage
from transforms.config import Config
from transforms.table.directory import Table
from transforms.worker import make_worker


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured, and what follows from it.

    Attributes:
      machine: what one process has.
      measures: of the stages, with the settings that are recommended.
      trials: of sizes of batches, and of XLA at the chosen one.
      stop: why there is no larger size.
      xla: why XLA was not tried; None if it was.
      ceiling: what the machine allows, with the settings that are recommended.
      settings: keys of `[model]` to be changed; empty if the config is best as it is.
      outlook: what the whole dataset takes.
      taken_cores: cores that other programs kept busy; None if that is not known.
    """

    machine: Machine
    measures: Measures
    trials: tuple[Trial, ...]
    stop: Stop
    xla: str | None
    ceiling: Ceiling
    settings: dict[str, int | bool]
    outlook: Outlook
    taken_cores: float | None

    @property
    def fragment(self) -> str:
        """The settings as TOML; empty if there are none."""
        if not self.settings:
            return ""
        lines = [f"{key} = {str(v).lower()}" for key, v in self.settings.items()]
        return "\n".join(["[model]", *lines, ""])

    def to_json(self) -> dict[str, Any]:
        """The tuning as a JSON document."""
        shares = self.ceiling.shares
        return {
            "rows_per_second": self.ceiling.rows_per_second,
            "bottleneck": self.ceiling.bottleneck,
            "bound": self.ceiling.bound,
            "sentence": self.ceiling.sentence,
            "settings": {"model": self.settings} if self.settings else {},
            "fragment": self.fragment,
            "workers": self.machine.workers,
            "cores_per_worker": self.machine.cores,
            "shards_in_flight_per_worker": self.machine.shards_in_flight,
            "gpu": self.machine.gpu,
            "cores_taken_by_others": self.taken_cores,
            "stages": {
                name: {**_numbers(one), "cpu_share": shares.get(name)}
                for name, one in self.measures.stages.items()
            },
            "batch_sizes": [
                {"batch_rows": t.batch_rows, "jit": t.jit, **_numbers(t.measure)}
                for t in self.trials
            ],
            "batch_sizes_ended_by": self.stop,
            "xla_not_tried": self.xla,
            **self.outlook.to_json(),
        }


def _numbers(found: Measure) -> dict[str, Any]:
    return {
        "rows": found.rows,
        "rows_per_second": found.rate,
        "cpu_us_per_row": found.cpu_per_row * 1e6,
    }


def tune_config(
    config: Config,
    seconds: float = 60.0,
    price: float | None = None,
    workers: int = 1,
    tell: Tell = lambda _: None,
) -> Tuning:
    """Measure each stage of a run alone, on rows of the dataset, on this machine.

    Nothing is left behind: what is written goes beside the table, and is removed.

    Args:
      config: of the run.
      seconds: to measure for, about; planning and compiling come on top.
      price: of an hour of this machine.
      workers: processes of a run that share this machine (`run --workers`). One is
        measured, and the others are taken to be like it: where there are several,
        `device.share_cores` must have been told.
      tell: called with what is measured next.

    Raises:
      ConfigError: the run would be refused.
      RuntimeError: no row comes through.
    """
    check_outlives(config.table.path)
    tell("planning")
    began = time.perf_counter()
    plan = make_plan(config)
    planned = time.perf_counter() - began
    load = Load()
    with _beside(plan.config.table.path) as table:
        bench = Bench(make_worker(table, plan), plan, seconds, tell, workers)
        sizes = bench.sizes()
        measures = bench.stages(sizes.chosen)
    machine = bench.machine
    ceiling = find_ceiling(measures, machine)
    return Tuning(
        machine=machine,
        measures=measures,
        trials=sizes.trials,
        stop=sizes.stop,
        xla=sizes.xla,
        ceiling=ceiling,
        settings=sizes.settings(plan.config),
        outlook=Outlook(plan.rows, ceiling.rows_per_second, planned, price),
        taken_cores=load.of_others(),
    )


@contextmanager
def _beside(path: str) -> Iterator[Table]:
    """Give a place for a table beside the planned one; nothing of it is left."""
    table = Table(f"{path}.tune-{uuid.uuid4().hex[:8]}")
    missing = _missing_parents(path)
    with writing(Table(path)):
        storage.make_directory(table.uri)
    try:
        yield table
    finally:
        storage.remove_tree(table.uri)
        for parent in missing:
            storage.remove_empty(parent)


def _missing_parents(path: str) -> list[str]:
    """List the local directories above a path that are not there, from below."""
    local = storage.local_path(path)
    parents = () if local is None else local.parents
    return [str(one) for one in parents if not one.exists()]
