"""Commands that take a config: init, taps, plan, tune, run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import show, show_taps
from pipeline.commands.options import (
    As,
    ConfigPath,
    From,
    Json,
    Limit,
    RetryErrors,
    Set,
    errors,
    refuse,
)
from pipeline.interrupt import ended_by_signals
from pipeline.quiet import default_processes, quiet_import, start_tensorflow
from pipeline.show_tune import print_tuning

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.versions import Place
    from transforms.table.verdicts import Verdict

_TAKEN = "--out must name a new file, {!r} exists; remove it or give another name"


def init(
    data: Annotated[
        str, typer.Option("--data", metavar="PATH", help="Files, directory or glob.")
    ],
    model: Annotated[
        str,
        typer.Option("--model", metavar="PATH", help="A model, or package.module:make"),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="CONFIG", help="The file to write.")
    ] = "job.toml",
    yes: Annotated[
        bool, typer.Option("--yes", help="Never ask: take what is likeliest.")
    ] = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Look at data and a model, and write a config that runs."""
    with errors():
        from transforms import storage

        if storage.exists(out):
            refuse(_TAKEN.format(out))
        start_tensorflow(compute=False)
        from pipeline.init.draft import draft_config
        from pipeline.init.questions import Questions

        asks = sys.stdin.isatty() and not yes and not as_json
        table = f"out/{PurePath(out).stem}"
        made = draft_config(data, model, table, overrides or (), Questions(asks))
        if not storage.create(out, made.text.encode()):
            refuse(_TAKEN.format(out))
    if as_json:
        show.print_json(show.draft_json(out, made))
    else:
        show.print_draft(out, made)


def taps(
    config: ConfigPath,
    as_json: Json = False,
    overrides: Set = None,
    pattern: Annotated[
        str | None,
        typer.Option("--filter", metavar="PATTERN", help="Only addresses that match."),
    ] = None,
    tree: Annotated[bool, typer.Option("--tree", help="Show the tree of layers.")] = (
        False
    ),
) -> None:
    """List every activation address of the model and its cost; mark the tapped ones."""
    with errors():
        from pipeline.config_file import load_config

        checked = load_config(config, overrides or ())
        start_tensorflow(compute=False)
        from pipeline.list_taps import list_taps

        found = list_taps(checked, pattern)
    for complaint in found.complaints:
        show.say(f"featuretap: {complaint}", err=True)
    if as_json:
        show.print_json(show_taps.documents(found))
        return
    rows = show_taps.tree_rows(found) if tree else show_taps.table_rows(found)
    show.print_table(show_taps.HEAD, list(rows))


def plan(
    config: ConfigPath,
    as_json: Json = False,
    overrides: Set = None,
    limit: Limit = None,
    earlier: From = None,
    retry_errors: RetryErrors = False,
    name: As = None,
) -> None:
    """Show shards, columns, sizes and fingerprint; run nothing."""
    with errors():
        place = _place(config, overrides, limit, earlier, name)
        made = _make_plan(place, retry_errors, compute=False)
        from pipeline.earlier import outlook

        ahead = outlook(made, made.shards)
    if as_json:
        show.print_json(show.plan_json(made, ahead))
    else:
        show.print_plan(made, ahead)


def tune(
    config: ConfigPath,
    as_json: Json = False,
    overrides: Set = None,
    limit: Limit = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long to measure, about.")
    ] = 60,
    price: Annotated[
        float | None,
        typer.Option("--price", min=0, help="Of an hour of this machine."),
    ] = None,
) -> None:
    """Measure what a run can do on this machine, and with which settings."""
    with errors(), ended_by_signals():
        from pipeline.config_file import load_config
        from transforms import device

        checked = load_config(config, overrides or (), limit)
        workers = default_processes()
        device.share_cores(workers)
        start_tensorflow(compute=True)
        from pipeline.tune.tune import tune_config

        found = tune_config(checked, seconds, price, workers, show.say_progress)
    if as_json:
        show.print_json(found.to_json())
    else:
        print_tuning(found)


def run(
    config: ConfigPath,
    beam_args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- BEAM ARGS]", help="Passed to Beam as they are."),
    ] = None,
    as_json: Json = False,
    overrides: Set = None,
    limit: Limit = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier table there.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Compute again what is damaged.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, metavar="N", help="Run N processes here."),
    ] = None,
    earlier: From = None,
    retry_errors: RetryErrors = False,
    name: As = None,
) -> None:
    """Extract the table; what an earlier run has committed is kept."""
    given = beam_args or []
    _check_run(given, workers, overwrite=overwrite, repair=repair)
    with errors():
        place = _place(config, overrides, limit, earlier, name, overwrite)
        summary, finished = place.done, True
        notes: tuple[str, ...] = ()
        if summary is None or repair:
            _begin(place, overwrite=overwrite)
            workers = workers or _default_workers(given)
            threads = not workers and _works_here(given)
            made = _make_plan(place, retry_errors, compute=threads)
            notes = made.notes
            show.say_notes(made)
            how = {"overwrite": overwrite, "repair": repair}
            summary, finished = _extract(place, made, given, workers, **how)
    _say_made(place.config.table.path, summary, notes, finished, as_json)


def _extract(
    place: Place, made: Plan, given: list[str], workers: int | None, **how: bool
) -> tuple[dict[str, Any], bool]:
    """Run a plan in front of somebody; then its table is the current one of its root.

    Args:
      place: where the table goes.
      made: the plan.
      given: arguments for Beam.
      workers: run so many processes here.
      how: `overwrite` and `repair`.
    """
    with quiet_import():
        from pipeline.attended import run_attended

    then = partial(_make_current, place)
    return run_attended(made, given, workers, then=then, **how)


def _say_made(
    table: str,
    summary: Mapping[str, Any],
    notes: Sequence[str],
    finished: bool,
    as_json: bool,
) -> None:
    show.warn_of_non_finite(summary)
    gates = _judged(table) if summary else []
    show.warn_of_gates(gates)
    if as_json:
        judged = [asdict(verdict) for verdict in gates]
        found = {**summary, "notes": list(notes), "gates": judged}
        show.print_json({"table": table, **found})
    else:
        show.print_summary(table, summary, finished=finished)


def _judged(table: str) -> list[Verdict]:
    from transforms.table.directory import Table
    from transforms.table.gates import read_verdicts

    return read_verdicts(Table(table))


def _check_run(
    beam_args: list[str], workers: int | None, *, overwrite: bool, repair: bool
) -> None:
    """Refuse options of `run` that exclude each other."""
    if overwrite and repair:
        refuse("either --overwrite or --repair, got both")
    if beam_args and not beam_args[0].startswith("-"):
        refuse(f"one CONFIG is enough, got also {beam_args[0]!r}")
    if workers and beam_args:
        refuse(
            f"either --workers or arguments for Beam, got --workers {workers} and"
            f" {beam_args[0]!r}"
        )


def _default_workers(beam_args: list[str]) -> int | None:
    """Give how many processes fill this machine, where threads of one would not."""
    processes = 1 if beam_args else default_processes()
    return processes if processes > 1 else None


def _works_here(beam_args: list[str]) -> bool:
    """Whether this process's own threads will compute."""
    with quiet_import():
        from pipeline.runners import works_here

    return works_here(beam_args)


def _place(
    config: str,
    overrides: list[str] | None,
    limit: int | None,
    earlier: list[str] | None,
    name: str | None,
    overwrite: bool = False,
) -> Place:
    """Load a config, and find where its table goes and what it is made from."""
    from pipeline.config_file import load_config
    from pipeline.versions import Place, place, resolve

    checked = load_config(config, overrides or (), limit)
    froms = tuple(map(resolve, earlier or ()))
    if name:
        return place(checked, name, froms, overwrite=overwrite)
    return Place(checked, froms)


def _begin(place: Place, *, overwrite: bool) -> None:
    """Note which version a table in a root follows."""
    if place.root:
        from pipeline.versions import begin

        begin(place, overwrite=overwrite)


def _make_current(place: Place) -> None:
    """Make a finished table the current one of its root, if it is in one."""
    if place.root:
        from pipeline.versions import point_at

        name = place.config.table.path.rpartition("/")[2]
        point_at(place.root, name, place.after)


def _make_plan(place: Place, retry_errors: bool, *, compute: bool) -> Plan:
    if retry_errors and not place.earlier:
        refuse("--retry-errors is for --from, got it without")
    start_tensorflow(compute=compute)
    from pipeline.plan import make_plan

    return make_plan(place.config, place.earlier, retry_errors=retry_errors)
