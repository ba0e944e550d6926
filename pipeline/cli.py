"""The `featuretap` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer

from pipeline.interrupt import SIGNALLED, interruptible, progress_text
from pipeline.progress import progress_bar
from pipeline.quiet import (
    Discreet,
    is_debugging,
    quiet_import,
    start_tensorflow,
)
from pipeline.show import (
    column_origin,
    fail,
    last_words,
    plan_json,
    print_json,
    print_table,
    say,
    size_text,
    time_line,
)
from transforms.credentials import mask

if TYPE_CHECKING:
    from pipeline.plan import Plan

EXIT_FAILED = 1
EXIT_MISUSE = 2
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a dataset and a trained Keras model into a table of activations.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from pipeline import __version__

        typer.echo(f"featuretap {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    pass


ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="A TOML file.")]
TableUri = Annotated[str, typer.Argument(metavar="TABLE", help="A table's directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=value", help="Override a key of the config."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first so many rows.")
]


@app.command()
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
    with _errors():
        from pipeline.config_file import load_config

        checked = load_config(config, overrides or ())
        start_tensorflow(compute=False)
        from pipeline import show
        from pipeline.list_taps import list_taps

        found = list_taps(checked, pattern)
    for complaint in found.complaints:
        say(f"featuretap: {complaint}", err=True)
    if as_json:
        print_json(show.documents(found))
        return
    rows = show.tree_rows(found) if tree else show.table_rows(found)
    print_table(show.HEAD, list(rows))


@app.command()
def plan(
    config: ConfigPath,
    as_json: Json = False,
    overrides: Set = None,
    limit: Limit = None,
) -> None:
    """Show shards, columns, sizes and fingerprint; run nothing."""
    with _errors():
        made = _make_plan(config, overrides, limit, compute=False)
    if as_json:
        print_json(plan_json(made))
        return
    from transforms.messages import shape_text

    print_table(
        ("column", "role", "type", "shape", "a row", "from"),
        [
            (
                c.name,
                c.role,
                c.dtype,
                shape_text(c.shape),
                size_text(c.bytes_per_row),
                " | ".join((column_origin(c), *c.reduce)),
            )
            for c in made.columns
        ],
    )
    rows = made.rows
    total = "unknown" if rows is None else size_text(rows * made.bytes_per_row)
    say(
        f"\n{len(made.shards)} shards, {'unknown' if rows is None else rows} rows,"
        f" {made.bytes_per_row} bytes a row, {total} before compression"
        f"\nfingerprint {made.fingerprint}\ntable {made.config.table.path}"
    )


@app.command()
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
) -> None:
    """Extract the table; what an earlier run has committed is kept."""
    if overwrite and repair:
        fail("either --overwrite or --repair, got both", EXIT_MISUSE)
    if beam_args and not beam_args[0].startswith("-"):
        fail(f"one CONFIG is enough, got also {beam_args[0]!r}", EXIT_MISUSE)
    if workers and beam_args:
        fail(
            f"either --workers or arguments for Beam, got --workers {workers} and"
            f" {beam_args[0]!r}",
            EXIT_MISUSE,
        )
    with _errors():
        with quiet_import():
            from pipeline.runners import (
                is_local,
                make_pipeline,
                pipeline_options,
                works_here,
            )

        in_threads = not workers and works_here(beam_args or ())
        made = _make_plan(config, overrides, limit, compute=in_threads)
        with quiet_import():
            from pipeline.run import prepare_table, repair_table, run_plan
            from transforms.table.directory import Table

        if not workers:  # before anything is replaced
            make_pipeline(pipeline_options(beam_args or ()))
        prepare_table(made, overwrite=overwrite)
        for difference in repair_table(made) if repair else ():
            say(f"repairing: {difference}", err=True)
        table = made.config.table.path
        finished = Table(table).read_success() is not None
        again = "Run the same command again"
        again += " without --overwrite to go on." if overwrite else " to go on."
        finish = bool(workers) or (in_threads and is_local(beam_args or ()))
        discreet = cast(TextIO, Discreet(sys.stderr))
        with (
            redirect_stderr(discreet),
            interruptible(table, again, finish=finish) as signals,
            progress_bar(made),
        ):
            try:
                summary = run_plan(made, beam_args=beam_args or (), workers=workers)
            except Exception:
                if not signals:
                    raise
                summary = {}
        if signals and not summary:
            sys.stderr.write(progress_text(table, again))
            raise typer.Exit(SIGNALLED + signals[0])
    for column, rows in summary.get("non_finite", {}).items():
        say(
            f"featuretap: {rows} rows have NaN or infinite values in column {column}"
            ' (errors.non_finite = "quarantine" would set them apart)',
            err=True,
        )
    if as_json:
        print_json({"table": made.config.table.path, **summary})
        return
    if not summary:
        say(f"{made.config.table.path}: handed over; featuretap status follows it")
        return
    bad = (
        f", {summary['quarantined']} bad rows set apart"
        if summary["quarantined"]
        else ""
    )
    say(
        f"{made.config.table.path}: {'was finished before: ' if finished else ''}"
        f"{summary['rows']} rows in {summary['parts']} parts,"
        f" {size_text(summary['bytes'])}{bad}"
    )


@app.command()
def status(table: TableUri, as_json: Json = False) -> None:
    """Tell the progress of a run anywhere, from its commit records."""
    with _errors():
        from pipeline.status import table_status

        found = table_status(table)
    if as_json:
        print_json(found.to_json())
        return
    state = "finished" if found.finished else "not finished"
    of = "" if found.planned_rows is None else f" of {found.planned_rows}"
    say(
        f"{found.table}: {state}, {found.committed} of {found.shards} shards,"
        f" {found.rows}{of} rows, {found.quarantined} bad rows,"
        f" {size_text(found.bytes)}"
    )
    if found.committed:
        typer.echo(time_line(found))


@app.command()
def verify(
    table: TableUri,
    as_json: Json = False,
    parity: Annotated[
        int | None,
        typer.Option(
            "--parity", min=1, metavar="N", help="Also recompute N rows independently."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the rows drawn, 0 by default.")
    ] = None,
) -> None:
    """Re-read a finished table and compare it with its manifest, or its model."""
    certificate = None
    if seed is not None and parity is None:
        fail("--seed is for the rows that --parity draws, got it alone", EXIT_MISUSE)
    with _errors():
        with quiet_import():
            from pipeline.verify import verify_table

        differences = verify_table(table)
        if parity and not differences:
            start_tensorflow(compute=True)
            from pipeline.parity.certificate import PARITY_HEAD, check_parity, describe

            certificate = check_parity(table, parity, seed or 0)
    if as_json:
        document: dict[str, Any] = {"table": table, "differences": differences}
        if parity:
            document["parity"] = certificate.to_json() if certificate else None
        print_json(document)
    else:
        for difference in differences:
            say(difference)
        if not differences:
            say(f"{table}: as its manifest says")
        if certificate:
            print_table(PARITY_HEAD, describe(certificate))
            typer.echo(
                f"parity of {certificate.rows} rows (seed {certificate.seed}):"
                f" {'within' if certificate.passed else 'OUTSIDE'} tolerance"
            )
    if differences or (certificate and not certificate.passed):
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Run the command line."""
    app()


def _make_plan(
    config: str, overrides: list[str] | None, limit: int | None, *, compute: bool
) -> Plan:
    from pipeline.config_file import load_config

    checked = load_config(config, overrides or (), limit)
    start_tensorflow(compute=compute)
    from pipeline.plan import make_plan

    return make_plan(checked)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn exceptions into messages and exit codes."""
    from transforms.lookup import ConfigError

    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        fail("interrupted", SIGNALLED + signal.SIGINT)
    except Exception as error:
        if is_debugging():
            sys.stderr.write(mask(traceback.format_exc()))
        misuse = isinstance(error, ConfigError | FileNotFoundError)
        message = str(error) if misuse else last_words(error)
        fail(message, EXIT_MISUSE if misuse else EXIT_FAILED)


if __name__ == "__main__":
    main()
