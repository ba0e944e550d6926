"""How busy a table's workers kept their machines, and what would be faster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transforms.clock import PHASES
from transforms.usage import USAGES

_LEAST_SECONDS = 5  # of workers; what is shorter tells nothing
_CEILING = 0.9
_WHOLE = {
    "cores": "that is all they have: more of them are faster, or less work",
    "gpu": "a larger model.batch_rows, model.jit or a lower model.precision may get"
    " more out of it",
}
_REMEDIES = {
    "read": {
        "cores": "reading did not keep up: its storage may be slow, or a step"
        " (featuretap tune CONFIG tells which)",
        "gpu": "reading and preprocessing did not keep up: take more cores, or cheaper"
        " steps",
    },
    "compute": {
        "cores": "the model did not fill them: a larger model.batch_rows may, or more"
        " parts (table.rows_per_part)",
        "gpu": "batches did not fill it: a larger model.batch_rows may",
    },
    "write": dict.fromkeys(
        USAGES, "writing waited for the storage of the table: choose a nearer one"
    ),
    "describe": dict.fromkeys(
        USAGES,
        "statistics of the columns took most: reduce wide ones, or take fewer",
    ),
    "rest": dict.fromkeys(
        USAGES,
        "parts are so small that their beginnings and ends took most of the time: a"
        " larger table.rows_per_part may help",
    ),
}


@dataclass(frozen=True, slots=True)
class Busy:
    """How close the workers of a table came to the ceiling of their machines.

    Attributes:
      device: what computed, `cores` or `gpu`.
      share: of the time of the workers in which it was in use, from 0 to 1.
      advice: what would be faster.
    """

    device: str
    share: float
    advice: str

    def sentence(self) -> str:
        """Say all of it."""
        return f"{USAGES[self.device]} {self.share:.0%} of the time; {self.advice}"


def how_busy(seconds: Mapping[str, float]) -> Busy | None:
    """Tell from the seconds of a table's workers how busy their machines were.

    Args:
      seconds: of the workers, by phase, with `total`, and `cores` or `gpu` as
        `transforms.usage` counts them.

    Returns:
      None if the workers had too little to do to tell, or did not count.
    """
    total = seconds.get("total", 0.0)
    device = max(USAGES, key=lambda kind: seconds.get(kind, 0.0))
    if total < _LEAST_SECONDS or not seconds.get(device):
        return None
    share = min(seconds[device] / total, 1.0)
    if share >= _CEILING:
        return Busy(device, share, _WHOLE[device])
    phases = {phase: seconds.get(phase, 0.0) for phase in PHASES}
    phases["rest"] = total - sum(phases.values())
    most = max(phases, key=phases.__getitem__)
    return Busy(device, share, _REMEDIES[most][device])
