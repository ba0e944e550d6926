"""Run a plan: prepare the directory, hand the shards to Beam, finish the table."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from pipeline.plan import Plan
from pipeline.processes import extract_in_processes
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
from transforms.commit import CommitTable, commit_table
from transforms.extract import ExtractShards, pending_shards, stopping
from transforms.lookup import ConfigError
from transforms.planned import versions
from transforms.table import Table, to_json

_log = logging.getLogger("featuretap")
_NAMED_DIFFERENCES = 5
_ABSENT = "nothing"
_FREE = {
    "errors.attempts",
    "errors.crash",
    "errors.max_fraction",
    "model.path",
    "model.trusted",
    "model.weights",
    "table.path",
}


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
        raise ConfigError(_refusal(table, plan, there))
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


def _refusal(table: Table, plan: Plan, there: Mapping[str, Any]) -> str:
    """Say what differs between two plans, with both values where they are short."""
    names = [
        name
        for name, digest in plan.ingredients.items()
        if there["ingredients"].get(name) != digest
    ]
    changed = [*_changed_values(plan, there), *_changed_files(table, plan)]
    if len(changed) > _NAMED_DIFFERENCES:
        rest = len(changed) - _NAMED_DIFFERENCES
        changed = [*changed[:_NAMED_DIFFERENCES], f"  and {rest} differences more"]
    return "\n".join(
        [
            f"table.path must hold a table of this plan, {table.uri!r} holds another"
            f" (different: {', '.join(names)})",
            *changed,
            "  fingerprint",
            f"    there: {there['fingerprint']}",
            f"    here:  {plan.fingerprint}",
            "choose another table.path, or replace the table with --overwrite",
        ]
    )


def _changed_values(plan: Plan, there: Mapping[str, Any]) -> Iterator[str]:
    """Yield keys of the config, versions and digests that differ, with both values."""
    config = plan.config.model_dump(mode="json", exclude_none=True)
    here = {
        **_flat(config),
        **{f"version of {name}": v for name, v in _flat(versions()).items()},
        "digest of the model": plan.model_digest,
    }
    before = {
        **_flat(there["config"]),
        **{f"version of {name}": v for name, v in _flat(there["versions"]).items()},
        "digest of the model": there["model_digest"],
    }
    for name in [*before, *(name for name in here if name not in before)]:
        one, other = before.get(name, _ABSENT), here.get(name, _ABSENT)
        if one != other and name not in _FREE:
            yield f"  {name}\n    there: {one}\n    here:  {other}"


def _flat(values: Any, place: str = "") -> dict[str, str]:
    """Lay nested values out under their dotted names, as JSON."""
    if isinstance(values, dict | list) and values:
        items = values.items() if isinstance(values, dict) else enumerate(values)
        inner = place and f"{place}."
        return {k: v for n, one in items for k, v in _flat(one, f"{inner}{n}").items()}
    return {place: json.dumps(values, ensure_ascii=False)}


def _changed_files(table: Table, plan: Plan) -> list[str]:
    """Name the files of the source that are not those of the table."""
    if not storage.exists(table.internal("plan.parquet")):
        return []
    there, here = table.shards().files(), plan.shards.files()
    return [
        *(f"  new: {uri}" for uri in here if uri not in there),
        *(f"  gone: {uri}" for uri in there if uri not in here),
        *(
            f"  changed: {uri}\n    there: {there[uri]}\n    here:  {here[uri]}"
            for uri in here
            if there.get(uri, here[uri]) != here[uri]
        ),
    ]
