"""List what could be tapped, and what it would cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.plan import trace_job
from transforms.config import Config
from transforms.lookup import ConfigError
from transforms.taps.company import refuse_mixing
from transforms.taps.language import Activation, Tap, choose_one, filter_activations
from transforms.taps.survey import list_activations


@dataclass(frozen=True, slots=True)
class TapListing:
    """What could be tapped, and what it would cost.

    Attributes:
      activations: addresses of the model.
      columns: of the chosen ones, by address.
      rows: of the source; None if it tells only when it is read.
      complaints: what is wrong with the config's taps.
    """

    activations: tuple[Activation, ...]
    columns: Mapping[str, Sequence[str]]
    rows: int | None
    complaints: tuple[str, ...]

    def bytes(self, activation: Activation) -> int | None:
        """Uncompressed bytes of an activation for the whole source."""
        each = activation.bytes_per_row
        return None if self.rows is None or each is None else self.rows * each


def list_taps(config: Config, pattern: str | None = None) -> TapListing:
    """List the activations of the config's model, with their cost.

    Args:
      config: the config; its taps may match nothing: this is where one looks them up.
      pattern: list only addresses that match it, as in a tap; None lists all.

    Raises:
      ConfigError: source or model cannot be had, or nothing matches the pattern.
    """
    job = trace_job(config)
    activations = refuse_mixing(job.model, list_activations(job.model))
    taps: list[Tap] = []
    complaints: list[str] = []
    for index, spec in enumerate(config.taps):
        try:
            taps += choose_one(spec, f"taps[{index}]", activations)
        except ConfigError as error:
            complaints.append(str(error))
    if pattern is not None:
        activations = filter_activations(pattern, activations)
    counts = [file.blocks for file in job.source.files()]
    known = [sum(blocks) for blocks in counts if blocks is not None]
    rows = sum(known) if len(known) == len(counts) else None
    columns: dict[str, list[str]] = {}
    for tap in taps:
        columns.setdefault(tap.address, []).append(tap.column)
    return TapListing(tuple(activations), columns, rows, tuple(complaints))
