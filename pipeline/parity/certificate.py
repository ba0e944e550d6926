"""Certify a table: draw rows, compute them a second way, and compare every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.differences import check_config, with_wiring
from pipeline.parity.deviations import TOLERANCES, ColumnParity, Tally
from pipeline.parity.draw import draw_rows
from pipeline.parity.reference import Reference
from transforms import storage
from transforms.config import Config
from transforms.dtypes import null_name
from transforms.lookup import ConfigError
from transforms.shard import Piece
from transforms.table.columns import Column
from transforms.table.directory import Table, to_json
from transforms.table.plan_file import TablePlan, read_plan


@dataclass(frozen=True, slots=True)
class Parity:
    """A certificate: how far drawn rows of a table lie from the reference.

    Attributes:
      rows: number of rows that were drawn.
      seed: seed of the draw.
      fingerprint: fingerprint of the table.
      tolerances: `{type: (relative, cosine, share of unequal whole numbers)}`, the
        largest deviations that pass.
      columns: `{name: deviation}` of the key, the kept features and the activations.
    """

    rows: int
    seed: int
    fingerprint: str
    tolerances: Mapping[str, Sequence[float]]
    columns: Mapping[str, ColumnParity]

    @property
    def passed(self) -> bool:
        """Whether every column is within its tolerance."""
        return all(column.passed for column in self.columns.values())

    def to_json(self) -> dict[str, Any]:
        """Give the certificate as a JSON document."""
        return {"passed": self.passed, **asdict(self)}


def check_parity(table: str, config: Config, rows: int, seed: int = 0) -> Parity:
    """Recompute some rows of a finished table independently, and store the deviations.

    The certificate is written to `_featuretap/parity.json`, its verdict to `_SUCCESS`.
    Source, model and the user's code must be where they were when the table was made.
    What runs is what the config names: what the table says of itself is data.

    Args:
      table: URI of the table.
      config: that the table was made by; its limit may be another one.
      rows: how many rows to draw; all if there are fewer.
      seed: seed of the draw.

    Raises:
      FileNotFoundError: there is no finished table.
      ConfigError: the table was made by another config.
      RuntimeError: the table has no rows, or model or source have changed since.
    """
    place = Table(table)
    plan = read_plan(place)
    config = with_wiring(config, plan)
    check_config(place, config, plan)
    _check_reductions(place, config, plan)
    summary = place.read_success()
    if summary is None:
        raise FileNotFoundError(
            f"a table must be finished to be checked, {table!r} has no _SUCCESS;"
            " go on with featuretap run CONFIG"
        )
    if summary["rows"] == 0:
        raise RuntimeError(f"a table must have rows to be checked, {table!r} has none")
    reference = Reference(config, plan.features, plan.columns, plan.model_digest)
    tallies = {c.name: Tally(c) for c in plan.columns if _is_checked(c)}
    drawn = 0
    for stored, places in draw_rows(place, rows, seed):
        _add(tallies, reference, stored, places)
        drawn += len(stored)
    parity = Parity(
        rows=drawn,
        seed=seed,
        fingerprint=plan.fingerprint,
        tolerances=TOLERANCES,
        columns={
            name: tally.result(reference.precision, reference.magnitudes.get(name, 0.0))
            for name, tally in tallies.items()
        },
    )
    _store(place, parity, summary)
    return parity


def _check_reductions(table: Table, config: Config, plan: TablePlan) -> None:
    """See that the table's columns name no other functions than the config does."""
    known = {tap.reduce for tap in config.taps}
    for column in plan.columns:
        if column.reduce and column.reduce not in known:
            raise ConfigError(
                f"the columns of {table.uri!r} must be reduced as the config says, its"
                f" schema.json has {list(column.reduce)} for {column.name!r}; the table"
                " is damaged, or not to be trusted"
            )


def _is_checked(column: Column) -> bool:
    return column.role != "shape" and column.dtype != "timestamp"


def _add(
    tallies: Mapping[str, Tally],
    reference: Reference,
    stored: Sequence[Mapping[str, Any]],
    places: Sequence[tuple[Piece, int]],
) -> None:
    """Compute some rows again, and add them to the tallies of the columns."""
    examples = reference.read(places)
    for values, where, example in zip(stored, places, examples, strict=True):
        prepared = reference.prepare(example)
        expected = dict(reference.values(prepared))
        for name, tally in tallies.items():
            if tally.column.role != "feature":
                expected[name] = _expected_passed(
                    tally.column, example, prepared, where
                )
            tally.add(values[name], expected[name], values.get(f"{name}_shape"))


def _store(table: Table, parity: Parity, summary: Mapping[str, Any]) -> None:
    """Write the certificate, and its verdict into `_SUCCESS`."""
    storage.replace(table.internal("parity.json"), to_json(parity.to_json()))
    deviations = [c.relative for c in parity.columns.values() if c.relative is not None]
    verdict = {
        "rows": parity.rows,
        "seed": parity.seed,
        "passed": parity.passed,
        "worst_relative": max(deviations, default=0.0),
    }
    storage.replace(table.path("_SUCCESS"), to_json({**summary, "parity": verdict}))


def _expected_passed(
    column: Column,
    example: Mapping[str, Any],
    prepared: Mapping[str, Any],
    where: tuple[Piece, int],
) -> Any:
    """Give what a key or kept feature should be: as read, else as preprocessed."""
    if not column.source:
        return f"{where[0].name}#{where[1]}"
    if example.get(null_name(column.source)):
        return None
    return example.get(column.source, prepared.get(column.source))
