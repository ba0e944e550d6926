"""Say from what each stage can do alone what a run can do, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.tune.figures import micro, round_figure
from pipeline.tune.measure import Measure

_AT_WORK = 0.75
"""Share of the cores that a stage keeps busy that does not wait."""
_OVERLAPPING = 0.9
_WAITS_FOR = {
    "reading": "it waits for its storage, or for Python's lock",
    "preprocessing": "a step sleeps, waits for something outside or for Python's lock",
    "computing": "its operations wait for each other, or for something outside",
    "writing": "it waits for the table's store",
}
Bound = Literal["cores", "waiting", "GPU"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run of one process has, as `transforms.device` decides.

    Attributes:
      cores: of one process.
      shards_in_flight: that one process computes at a time.
      reader_threads: that read and preprocess for one shard.
      gpu: whether the model runs on a GPU.
      workers: processes that share the machine, each of which has as much.
    """

    cores: int
    shards_in_flight: int
    reader_threads: int
    gpu: bool = False
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Measures:
    """What stages can do alone, in one process.

    Attributes:
      reading: from stored bytes to features.
      preparing: reading and preprocessing, as a run does them together.
      computing: the model and its taps.
      writing: describing rows, writing parts, and storing them.
    """

    reading: Measure
    preparing: Measure
    computing: Measure
    writing: Measure

    @property
    def stages(self) -> dict[str, Measure]:
        """Each stage by name; of preprocessing, what it adds to reading."""
        return {
            "reading": self.reading,
            "preprocessing": self.preparing.beyond(self.reading),
            "computing": self.computing,
            "writing": self.writing,
        }


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that this machine allows.

    Attributes:
      rows_per_second: of all workers.
      bottleneck: the stage that bounds it.
      bound: by what: all cores are busy; or the stage waits, while cores are idle; or
        the GPU is busy.
      sentence: says so.
      shares: of the CPU time of a row, by stage; of those that count.
    """

    rows_per_second: float
    bottleneck: str
    bound: Bound
    sentence: str
    shares: Mapping[str, float]


def find_ceiling(found: Measures, machine: Machine) -> Ceiling:
    """Find what bounds a run.

    Where cores do, all stages share them, so the ceiling is that of their sum. A stage
    that waits by itself bounds a run by its own pace. The CPU time of computing on a
    GPU does not count, since most of it is waiting for the GPU.
    """
    stages = found.stages
    costs = {
        name: one.cpu_per_row
        for name, one in stages.items()
        if not (machine.gpu and name == "computing")
    }
    total = sum(costs.values())
    shares = {name: cost / total if total else 0.0 for name, cost in costs.items()}
    paced = {
        _slower_of_input(found, machine): found.preparing,
        "computing": found.computing,
        "writing": found.writing,
    }
    rates = {name: one.rate or float("inf") for name, one in paced.items()}
    slowest = min(rates, key=lambda name: rates[name])
    rate = rates[slowest]
    busy = rate * paced[slowest].cpu_per_row
    by_cores = machine.cores / total if total else float("inf")
    if machine.gpu and slowest == "computing" and rate <= by_cores:
        bound: Bound = "GPU"
        text = _gpu_sentence(
            rate, min(by_cores, *(rates[n] for n in rates if n != slowest))
        )
    elif rate < by_cores and busy < _AT_WORK * machine.cores:
        bound = "waiting"
        text = _waiting_sentence(slowest, rate, busy, machine)
    else:
        bound, rate = "cores", min(rate, by_cores)
        slowest = max(costs, key=lambda name: costs[name])
        text = _cores_sentence(slowest, costs[slowest], total, machine)
    return Ceiling(rate * machine.workers, slowest, bound, text, shares)


def _slower_of_input(found: Measures, machine: Machine) -> str:
    """Tell which of reading and preprocessing decides the pace of both.

    They take turns where one thread does both; else the slower one decides.
    """
    alone, both = found.reading.rate, found.preparing.rate
    if alone is None or both is None:
        return "reading"
    share = _OVERLAPPING if machine.reader_threads > 1 else 0.5
    return "preprocessing" if both < share * alone else "reading"


def _cores_sentence(stage: str, cost: float, total: float, machine: Machine) -> str:
    share = cost / total if total else 0.0
    return (
        f"{stage} is the bottleneck: it takes {micro(cost)} of the {micro(total)} µs of"
        f" CPU time that a row takes ({share:.0%}), and at the ceiling all"
        f" {machine.cores * machine.workers} cores are busy"
    )


def _waiting_sentence(stage: str, rate: float, busy: float, machine: Machine) -> str:
    return (
        f"{stage} is the bottleneck: alone it makes {round_figure(rate)} rows/s and"
        f" keeps {busy:.1f} of {machine.cores} cores busy; the rest of the time"
        f" {_WAITS_FOR[stage]}"
    )


def _gpu_sentence(rate: float, others: float) -> str:
    return (
        f"computing is the bottleneck: the GPU makes {round_figure(rate)} rows/s, the"
        f" other stages could make {round_figure(others)}"
    )
