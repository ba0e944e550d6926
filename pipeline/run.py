"""Run a plan: prepare the directory, hand the shards to Beam, finish the table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain
from typing import Any

from pipeline.differences import refusal
from pipeline.local_workers import extract_in_processes
from pipeline.plan import Plan
from pipeline.runners import (
    await_job_server,
    complaints,
    listings,
    make_pipeline,
    pipeline_options,
    works_here,
)
from pipeline.verify import find_damage
from transforms import device, storage
from transforms.beam import CommitTable, ExtractShards
from transforms.lookup import ConfigError
from transforms.stop import stopping
from transforms.table.commit import commit_table
from transforms.table.directory import Table, to_json
from transforms.table.plan_file import pending_shards

_log = logging.getLogger("featuretap")


def run_plan(
    plan: Plan,
    *,
    overwrite: bool = False,
    beam_args: Sequence[str] = (),
    workers: int | None = None,
) -> dict[str, Any]:
    """Run a plan, or what is left of it.

    Args:
      plan: what to do.
      overwrite: remove an earlier table at the same place first.
      beam_args: arguments for Beam, such as `--runner=FlinkRunner`.
      workers: run so many processes on this machine instead, without Beam.

    Returns:
      The summary that `_SUCCESS` holds; an empty one if the run was stopped, or handed
      over to Dataflow by a template.

    Raises:
      ConfigError: the directory holds a table of another plan.
      RuntimeError: the run failed; what it has committed is kept for the next.
    """
    table = Table(plan.config.table.path)
    prepare_table(plan, overwrite=overwrite)
    budget = plan.config.errors.max_fraction
    pending = pending_shards(table.uri)
    first = next(pending, None)
    if first is None:
        return commit_table(table, budget)
    if workers or not works_here(beam_args):
        device.release()
    if workers:
        extract_in_processes(plan.config, chain([first], pending), workers)
        return {} if stopping.is_set() else commit_table(table, budget)
    options = pipeline_options(beam_args)
    for complaint in complaints(options):
        _log.warning(complaint)
    await_job_server(options)
    pipeline = make_pipeline(options)
    commits = pipeline | ExtractShards(table.uri, listings(options))
    _ = commits | CommitTable(table.uri, budget)
    result = pipeline.run()
    if not getattr(result, "has_job", True):
        return {}  # it has been made a template's, which Dataflow runs
    result.wait_until_finish()
    summary = table.read_success(written=True)
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
        plan.claim(table)
    elif not claimed:
        if storage.exists(table.path("_SUCCESS")) or table.part_names():
            raise ConfigError(
                f"table.path must not hold parts without a plan, {table.uri!r} does;"
                " choose another path, or remove them"
            )
        plan.claim(table)  # or somebody else has, just now
    there = table.read_json("config.json", written=True)
    if there["fingerprint"] != plan.fingerprint:
        raise ConfigError(refusal(table, plan, there))
    here = plan.config.model_dump(mode="json", exclude_none=True)
    if there["config"] != here:  # in what changes no byte, such as [errors]
        storage.replace(
            table.internal("config.json"), to_json({**there, "config": here})
        )
    plan.write(table)


def repair_table(plan: Plan) -> list[str]:
    """Take back what is damaged in a table, so that the next run computes it again.

    Args:
      plan: of the table, which `prepare_table` has accepted.

    Returns:
      What was wrong, a sentence each.
    """
    table = Table(plan.config.table.path)
    damage = find_damage(table)
    whole = damage.whole if storage.exists(table.path("_SUCCESS")) else []
    if whole or damage.shards:
        storage.remove(table.path("_SUCCESS"))
    for shard in damage.shards:
        try:
            commit = table.read_commit(shard)
        except ValueError:
            commit = None  # what it names is not to be trusted: tidying finds the files
        table.remove_commit(shard)
        for file in (commit.part, commit.errors) if commit else ():
            if file:
                storage.remove(table.path(file.path))
    return [*whole, *(text for texts in damage.shards.values() for text in texts)]
