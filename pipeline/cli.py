"""The `featuretap` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.configs import init, plan, run, taps, tune
from pipeline.commands.rows import show
from pipeline.commands.tables import (
    current,
    diff,
    forget,
    prune,
    publish,
    report,
    status,
    verify,
)
from transforms.imports import keep_imports

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a dataset and a trained Keras model into a table of activations.",
)
for command in (
    *(init, taps, plan, tune, run),
    *(status, verify, show, diff, report, publish, forget, current, prune),
):
    app.command()(command)


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


def main() -> None:
    """Run the command line."""
    keep_imports()
    app()


if __name__ == "__main__":
    main()
