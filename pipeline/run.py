"""Run a plan: validate -> prepare -> run -> finish; `repair_table` goes in between."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from pipeline.differences import refusal
from pipeline.local_workers import extract_in_processes
from pipeline.plan import Plan
from pipeline.verify import find_damage
from transforms import device, storage
from transforms.lookup import ConfigError
from transforms.shard import Shard
from transforms.stop import stopping
from transforms.table.commit import commit_table
from transforms.table.directory import Table
from transforms.table.names import DATA, NOTICE, POINTER
from transforms.table.plan_file import (
    claim_table,
    pending_shards,
    read_claim,
    write_plan,
)

_log = logging.getLogger("featuretap")
_UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR),
)
_LOOK_SECONDS = 0.2  # between looks at the claim of a table that is being cleared
Engine = Callable[[Iterator[Shard]], dict[str, Any]]
"""Extracts shards that are pending, and finishes the table; gives its summary."""


def run_plan(
    plan: Plan,
    *,
    overwrite: bool = False,
    beam_args: Sequence[str] = (),
    workers: int | None = None,
    then: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Run a plan, or what is left of it.

    Args:
      plan: what to do.
      overwrite: remove an earlier table at the same place first, once everything that
        can be refused has been accepted.
      beam_args: arguments for Beam, such as `--runner=FlinkRunner`.
      workers: run so many processes on this machine instead, without Beam.
      then: called when the table is finished, before it is published.

    Returns:
      The summary that `_SUCCESS` holds, and under `published` where the table has gone,
      if the config says where to; an empty one if the run was stopped, or handed over
      to Dataflow by a template.

    Raises:
      ConfigError: the directory holds a table of another plan, or Beam refuses its
        arguments, or something else is where the table is to be published.
      RuntimeError: the run failed; what it has committed is kept for the next.
    """
    table = Table(plan.config.table.path)
    engine = (
        _local_processes(plan, workers)
        if workers
        else _beam_runner(plan, beam_args, replacing=overwrite)
    )
    prepare_table(plan, overwrite=overwrite)
    storage.remove(table.internal(NOTICE))
    pending = pending_shards(table.uri)
    first = next(pending, None)
    if first is None:
        budget, gates = plan.config.errors.max_fraction, plan.config.gates
        summary = commit_table(table, budget, gates=gates)
    else:
        summary = engine(chain([first], pending))
    if summary:
        then()
    if summary and plan.config.publish:
        from pipeline.publish.publish import publish_as_configured

        published = publish_as_configured(plan.config)
        return {**summary, "published": [one.to_json() for one in published]}
    return summary


def check_engine(
    plan: Plan, beam_args: Sequence[str], workers: int | None, *, replacing: bool
) -> bool:
    """Refuse what `run_plan` would refuse, before anything is replaced.

    Args:
      plan: what to run.
      beam_args: for Beam.
      workers: run so many processes here instead.
      replacing: another table is about to be removed, so a job server must answer now.

    Returns:
      Whether shards at work can be finished when the run is to end.

    Raises:
      ConfigError: Beam refuses its arguments, or the table would end with the process.
      RuntimeError: no job server answers.
    """
    check_outlives(plan.config.table.path)
    if workers:
        return True
    from pipeline.runners import is_local, works_here

    _beam_runner(plan, beam_args, replacing=replacing)
    return works_here(beam_args) and is_local(beam_args)


def check_outlives(table: str) -> None:
    """Refuse a table that only this process would see, and that would end with it."""
    if storage.is_of_this_process(table):
        raise ConfigError(
            f"table.path must lie where other processes find it, got {table!r}, which"
            " ends with this one; choose a directory or a store (run_plan without"
            " workers can write there)"
        )


def _local_processes(plan: Plan, workers: int) -> Engine:
    """Make the engine of local processes."""
    check_outlives(plan.config.table.path)
    table, config = Table(plan.config.table.path), plan.config

    def run(shards: Iterator[Shard]) -> dict[str, Any]:
        device.release()
        extract_in_processes(plan, shards, workers)
        if stopping.is_set():
            return {}
        return commit_table(table, config.errors.max_fraction, gates=config.gates)

    return run


def _beam_runner(plan: Plan, beam_args: Sequence[str], *, replacing: bool) -> Engine:
    """Make the engine of a Beam runner.

    Args:
      plan: what to run.
      beam_args: for Beam.
      replacing: another table is about to be removed, so a job server must answer now.

    Raises:
      ConfigError: Beam refuses its arguments.
    """
    from pipeline.runners import BeamRun, works_here

    job = BeamRun(plan, beam_args)
    if replacing:
        job.await_job_server()

    def run(_: Iterator[Shard]) -> dict[str, Any]:
        # the pipeline lists the pending shards itself, on a worker
        for complaint in job.complaints():
            _log.warning(complaint)
        if not works_here(beam_args):
            device.release()
        job.await_job_server()
        return job.run()

    return run


def prepare_table(plan: Plan, *, overwrite: bool = False) -> None:
    """Write the plan to the table's directory, unless it is there already.

    Args:
      plan: what to write.
      overwrite: remove an earlier table there first.

    Raises:
      ConfigError: the directory holds a table of another plan, or of another format.
    """
    table = Table(plan.config.table.path)
    mine = None
    with writing(table):
        claimed = storage.exists(table.internal("config.json"))
        if overwrite and claimed:
            _check_format(table)
            mine = claim_table(table, plan, replace=True)
        elif not claimed:
            _check_empty(table)
            claim_table(table, plan)  # or somebody else has, just now
    there = read_claim(table, written=True)
    if there.fingerprint != plan.fingerprint:
        raise ConfigError(refusal(table, plan, there))
    if there.clearing and there.id != mine:  # by a call that was cut off, or is at it
        claim_table(table, plan, replace=True)
        there = read_claim(table, written=True)
    if there.clearing:
        table.clear(_still(table, there.id))
    write_plan(table, plan, plan.shards, there)


@contextmanager
def writing(table: Table) -> Iterator[None]:
    """Refuse a directory in which nothing can be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ConfigError(
            "table.path must be a directory that can be written, got"
            f" {table.uri!r}: {error.strerror or error}"
        ) from None


def _still(table: Table, claim: str) -> Callable[[], None]:
    """Make a function that fails once the table is no longer of a claim."""
    looked = -_LOOK_SECONDS

    def check() -> None:
        nonlocal looked
        if time.monotonic() - looked < _LOOK_SECONDS:
            return
        if read_claim(table, written=True).id != claim:
            raise RuntimeError(
                f"the table in {table.uri!r} has been replaced while this run cleared"
                " it; run the same command again"
            )
        looked = time.monotonic()

    return check


def _check_empty(table: Table) -> None:
    """Refuse a directory in which readers would find other parts than ours."""
    if storage.exists(table.path(POINTER)):
        raise ConfigError(
            f"table.path must not be a directory of tables, {table.uri!r} holds"
            f" {POINTER}; make another of them with --as NAME"
        )
    found = [
        name
        for name in table.visible_names()
        if name.startswith(f"{DATA}/") or name.endswith(".parquet")
    ]
    if storage.exists(table.path("_SUCCESS")):
        found.append("_SUCCESS")
    if found:
        raise ConfigError(
            f"table.path must not hold parts without a plan, {table.uri!r} does"
            f" ({found[0]}); choose another path, or remove them"
        )


def _check_format(table: Table) -> None:
    """Refuse to clear a table of another format, whose files have other names."""
    try:
        table.read_config()
    except ConfigError:
        raise
    except ValueError:  # a damaged document says nothing of its format
        pass


def repair_table(plan: Plan) -> list[str]:
    """Take back what is damaged in a table, so that the next run computes it again.

    Args:
      plan: of the table, which `prepare_table` has accepted.

    Returns:
      What is taken back, a sentence each. Files that are not featuretap's are left to
      whoever put them there, as `verify` says.
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
        for file in commit.files if commit else ():
            storage.remove(table.path(file.path))
    return [*whole, *(text for texts in damage.shards.values() for text in texts)]
