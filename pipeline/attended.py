"""Run a plan in front of somebody: progress, quiet logs, Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any, TextIO, cast

from pipeline.interrupt import InterruptedRunError, interruptible, progress_text
from pipeline.plan import Plan
from pipeline.progress import shown_progress
from pipeline.quiet import Discreet
from pipeline.run import check_engine, prepare_table, repair_table, run_plan
from pipeline.show import say
from transforms.table.directory import Table


def run_attended(
    plan: Plan,
    beam_args: Sequence[str],
    workers: int | None,
    *,
    overwrite: bool,
    repair: bool,
    then: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], bool]:
    """Run a plan; a first Ctrl-C ends it in order, a second one at once.

    Args:
      plan: what to run.
      beam_args: for Beam.
      workers: run so many processes here instead.
      overwrite: replace an earlier table.
      repair: take back first what is damaged.
      then: called when the table is finished, before it is published.

    Returns:
      The summary that `_SUCCESS` holds, empty if the run was handed over to Dataflow;
      and whether the table was finished before.

    Raises:
      InterruptedRunError: it was ended by a signal.
    """
    in_order = check_engine(plan, beam_args, workers, replacing=overwrite)
    prepare_table(plan, overwrite=overwrite)
    for difference in repair_table(plan) if repair else ():
        say(f"repairing: {difference}", err=True)
    table = plan.config.table.path
    finished = Table(table).read_success() is not None
    again = "Run the same command again"
    again += " without --overwrite to go on." if overwrite else " to go on."
    discreet = cast(TextIO, Discreet(sys.stderr))
    with (
        redirect_stderr(discreet),
        shown_progress(table) as give_back,
        interruptible(table, again, give_back, in_order=in_order) as signals,
    ):
        try:
            summary = run_plan(plan, beam_args=beam_args, workers=workers, then=then)
        except Exception:
            if not signals:
                raise
            summary = {}
    if signals and not summary:
        sys.stderr.write(progress_text(table, again))
        raise InterruptedRunError(signals[0])
    return summary, finished
