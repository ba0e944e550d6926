"""The `featuretap` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from pipeline import show
from pipeline.interrupt import SIGNALLED, InterruptedRunError
from pipeline.quiet import is_debugging, quiet_import, start_tensorflow
from transforms.credentials import mask

if TYPE_CHECKING:
    from pipeline.parity.certificate import Parity
    from pipeline.plan import Plan
    from transforms.config import Config

EXIT_FAILED = 1
EXIT_MISUSE = 2
_TAKEN = "--out must name a new file, {!r} exists; remove it or give another name"
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
From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="TABLE",
        help="Take over from a finished table what it has; may be given again.",
    ),
]
RetryErrors = Annotated[
    bool,
    typer.Option("--retry-errors", help="With --from: compute bad rows' shards again."),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Only the first so many rows.")
]


@app.command()
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
    with _errors():
        from transforms import storage

        if storage.exists(out):
            _refuse(_TAKEN.format(out))
        start_tensorflow(compute=False)
        from pipeline.init.draft import draft_config
        from pipeline.init.questions import Questions

        asks = sys.stdin.isatty() and not yes and not as_json
        table = f"out/{PurePath(out).stem}"
        made = draft_config(data, model, table, overrides or (), Questions(asks))
        if not storage.create(out, made.text.encode()):
            _refuse(_TAKEN.format(out))
    if as_json:
        show.print_json(show.draft_json(out, made))
    else:
        show.print_draft(out, made)


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
        from pipeline.list_taps import list_taps

        found = list_taps(checked, pattern)
    for complaint in found.complaints:
        show.say(f"featuretap: {complaint}", err=True)
    if as_json:
        show.print_json(show.documents(found))
        return
    rows = show.tree_rows(found) if tree else show.table_rows(found)
    show.print_table(show.HEAD, list(rows))


@app.command()
def plan(
    config: ConfigPath,
    as_json: Json = False,
    overrides: Set = None,
    limit: Limit = None,
    earlier: From = None,
    retry_errors: RetryErrors = False,
) -> None:
    """Show shards, columns, sizes and fingerprint; run nothing."""
    with _errors():
        checked = _load(config, overrides, limit)
        made = _make_plan(checked, earlier, retry_errors, compute=False)
        from pipeline.earlier import outlook

        ahead = outlook(made, made.shards)
    if as_json:
        show.print_json(show.plan_json(made, ahead))
    else:
        show.print_plan(made, ahead)


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
    earlier: From = None,
    retry_errors: RetryErrors = False,
) -> None:
    """Extract the table; what an earlier run has committed is kept."""
    given = beam_args or []
    _check_run(given, workers, overwrite=overwrite, repair=repair)
    with _errors():
        threads = not workers and _works_here(given)
        checked = _load(config, overrides, limit)
        made = _make_plan(checked, earlier, retry_errors, compute=threads)
        show.say_notes(made)
        with quiet_import():
            from pipeline.attended import run_attended

        summary, finished = run_attended(
            made, given, workers, overwrite=overwrite, repair=repair
        )
    show.warn_of_non_finite(summary)
    if as_json:
        notes = {"notes": list(made.notes)}
        show.print_json({"table": made.config.table.path, **summary, **notes})
    else:
        show.print_summary(made.config.table.path, summary, finished=finished)


@app.command()
def status(table: TableUri, as_json: Json = False) -> None:
    """Tell the progress of a run anywhere, from its commit records."""
    with _errors():
        from pipeline.status import table_status

        found = table_status(table)
    if as_json:
        show.print_json(found.to_json())
    else:
        show.print_status(found)


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
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="CONFIG", help="Of the run, for --parity."),
    ] = None,
    overrides: Set = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the rows drawn, 0 by default.")
    ] = None,
) -> None:
    """Re-read a finished table and compare it with its manifest, or its model."""
    certificate = None
    if parity is None and (seed is not None or config or overrides):
        _refuse("--seed, --config and --set are for --parity, got them without it")
    if parity and not config:
        _refuse(
            "--parity needs --config CONFIG, the config of the run: it runs what that"
            " names, and takes no table's word for it"
        )
    with _errors():
        from pipeline.verify import verify_table

        differences = verify_table(table)
        if parity and config and not differences:
            certificate = _certify(table, config, overrides, parity, seed or 0)
    if as_json:
        document: dict[str, Any] = {"table": table, "differences": differences}
        if parity:
            document["parity"] = certificate.to_json() if certificate else None
        show.print_json(document)
    else:
        show.print_differences(table, differences)
        if certificate:
            show.print_certificate(certificate)
    if differences or (certificate and not certificate.passed):
        raise typer.Exit(EXIT_FAILED)


def _certify(
    table: str, config: str, overrides: list[str] | None, rows: int, seed: int
) -> Parity:
    """Recompute rows of a table by the config of its run."""
    from pipeline.config_file import load_config

    checked = load_config(config, overrides or ())
    start_tensorflow(compute=True)
    from pipeline.parity.certificate import check_parity

    return check_parity(table, checked, rows, seed)


def main() -> None:
    """Run the command line."""
    app()


def _check_run(
    beam_args: list[str], workers: int | None, *, overwrite: bool, repair: bool
) -> None:
    """Refuse options of `run` that exclude each other."""
    if overwrite and repair:
        _refuse("either --overwrite or --repair, got both")
    if beam_args and not beam_args[0].startswith("-"):
        _refuse(f"one CONFIG is enough, got also {beam_args[0]!r}")
    if workers and beam_args:
        _refuse(
            f"either --workers or arguments for Beam, got --workers {workers} and"
            f" {beam_args[0]!r}"
        )


def _works_here(beam_args: list[str]) -> bool:
    """Whether this process's own threads will compute."""
    with quiet_import():
        from pipeline.runners import works_here

    return works_here(beam_args)


def _load(config: str, overrides: list[str] | None, limit: int | None) -> Config:
    from pipeline.config_file import load_config

    return load_config(config, overrides or (), limit)


def _make_plan(
    config: Config, earlier: list[str] | None, retry_errors: bool, *, compute: bool
) -> Plan:
    if retry_errors and not earlier:
        _refuse("--retry-errors is for --from, got it without")
    start_tensorflow(compute=compute)
    from pipeline.plan import make_plan

    return make_plan(config, earlier or (), retry_errors=retry_errors)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn exceptions into messages and exit codes."""
    from transforms.lookup import ConfigError, TableError

    try:
        yield
    except typer.Exit:
        raise
    except InterruptedRunError as error:
        raise typer.Exit(SIGNALLED + error.signal) from None
    except KeyboardInterrupt:
        _fail("interrupted", SIGNALLED + signal.SIGINT)
    except Exception as error:
        if is_debugging():
            sys.stderr.write(mask(traceback.format_exc()))
        misuse = isinstance(error, ConfigError | FileNotFoundError)
        named = misuse or isinstance(error, TableError)
        message = str(error) if named else show.last_words(error)
        _fail(message, EXIT_MISUSE if misuse else EXIT_FAILED)


def _refuse(message: str) -> NoReturn:
    _fail(message, EXIT_MISUSE)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        show.say(f"featuretap: {line}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
