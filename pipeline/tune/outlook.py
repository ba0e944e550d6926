"""Say what the whole dataset takes at some number of rows a second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REACHED = 0.9
"""Share of the ceiling that a run comes to where cores bound it (performance.md)."""
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a run takes.

    Attributes:
      rows: of the plan; None if only reading tells.
      rows_per_second: the most that the machine allows.
      plan_seconds: that planning took.
      price: of an hour of the machine; None if it was not given.
    """

    rows: int | None
    rows_per_second: float
    plan_seconds: float
    price: float | None = None

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Seconds at the ceiling, and at what a run comes to; None without rows."""
        if self.rows is None:
            return None
        least = self.rows / self.rows_per_second
        return self.plan_seconds + least, self.plan_seconds + least / REACHED

    @property
    def cost(self) -> tuple[float, float] | None:
        """What that costs, in the unit of the price."""
        if self.price is None or self.seconds is None:
            return None
        least, likely = self.seconds
        return least / _HOUR * self.price, likely / _HOUR * self.price

    def to_json(self) -> dict[str, Any]:
        """The outlook as a part of a JSON document."""
        seconds, cost = self.seconds or (None, None), self.cost or (None, None)
        return {
            "rows": self.rows,
            "plan_seconds": self.plan_seconds,
            "run_seconds_at_least": seconds[0],
            "run_seconds_likely": seconds[1],
            "price_per_hour": self.price,
            "cost_at_least": cost[0],
            "cost_likely": cost[1],
        }
