"""Run a plan: prepare the directory, hand the shards to Beam, finish the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apache_beam as beam

from pipeline.plan import Plan
from pipeline.runners import pipeline_options
from transforms import storage
from transforms.commit import CommitTable, commit_table
from transforms.extract import ExtractShards, pending_shards
from transforms.lookup import ConfigError
from transforms.table import Table

_NAMED_FILES = 5


def run_plan(
    plan: Plan, *, overwrite: bool = False, beam_args: Sequence[str] = ()
) -> dict[str, Any]:
    """Run a plan, or what is left of it.

    Args:
      plan: what to do.
      overwrite: remove an earlier table at the same place first.
      beam_args: arguments for Beam, such as `--runner=FlinkRunner`.

    Returns:
      The summary that `_SUCCESS` holds.

    Raises:
      ConfigError: the directory holds a table of another plan.
      RuntimeError: the run failed; what it has committed is kept for the next.
    """
    table = Table(plan.config.table.path)
    prepare_table(plan, overwrite=overwrite)
    budget = plan.config.errors.max_fraction
    if next(pending_shards(table.uri), None) is None:
        return commit_table(table, budget)
    options = pipeline_options(beam_args)
    with beam.Pipeline(options=options) as pipeline:
        _ = pipeline | ExtractShards(table.uri) | CommitTable(table.uri, budget)
    summary = table.read_success()
    if summary is None:
        raise RuntimeError(
            f"the run must leave a _SUCCESS file in {table.uri!r}, found none; follow a"
            " run that goes on elsewhere with featuretap status"
        )
    return summary


def prepare_table(plan: Plan, *, overwrite: bool = False) -> None:
    """Write the plan to the table's directory, unless it is there already.

    Raises:
      ConfigError: the directory holds a table of another plan.
    """
    table = Table(plan.config.table.path)
    claimed = storage.exists(table.internal("config.json"))
    if overwrite and claimed:
        table.clear()
        claimed = False
    if not claimed:
        if storage.exists(table.path("_SUCCESS")) or table.part_names():
            raise ConfigError(
                f"table.path must not hold parts without a plan, {table.uri!r} does;"
                " choose another path, or remove them"
            )
        plan.claim(table)  # or somebody else has, just now
    there = table.read_json("config.json")
    if there["fingerprint"] != plan.fingerprint:
        names = [
            name
            for name, digest in plan.ingredients.items()
            if there["ingredients"].get(name) != digest
        ]
        changed = "".join(f"  {line}\n" for line in _changed_files(table, plan))
        raise ConfigError(
            f"table.path must hold a table of this plan, {table.uri!r} holds another"
            f" (different: {', '.join(names)})\n{changed}"
            f"  there: {there['fingerprint']}\n"
            f"  here:  {plan.fingerprint}\n"
            "choose another table.path, or replace the table with --overwrite"
        )
    if not storage.exists(table.internal("plan.parquet")):
        plan.write(table)


def _changed_files(table: Table, plan: Plan) -> list[str]:
    """Name the first few files of the source that are not those of the table."""
    if not storage.exists(table.internal("plan.parquet")):
        return []
    there, here = table.shards().files(), plan.shards.files()
    changed = [
        *(f"new: {uri}" for uri in here if uri not in there),
        *(f"gone: {uri}" for uri in there if uri not in here),
        *(
            f"changed: {uri} (there {there[uri]}; here {here[uri]})"
            for uri in here
            if there.get(uri, here[uri]) != here[uri]
        ),
    ]
    if len(changed) > _NAMED_FILES:
        rest = len(changed) - _NAMED_FILES
        changed = [*changed[:_NAMED_FILES], f"and {rest} files more"]
    return changed
