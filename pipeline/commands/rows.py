"""The command that looks at rows of a table."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import Json, TableUri, errors, refuse


def show(
    table: TableUri,
    key: Annotated[
        str | None, typer.Option("--key", metavar="K", help="Of the row to show.")
    ] = None,
    near: Annotated[
        str | None,
        typer.Option("--near", metavar="K", help="Show the nearest rows of this one."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column", metavar="C", help="Whose vectors say which rows are near."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n", min=1, metavar="N", help="How many are near, 10 by default."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a row of a finished table, or its neighbours; by default the first row."""
    if near is None and (column is not None or count is not None):
        refuse("--column and -n are for --near, got them without it")
    if near is not None and key is not None:
        refuse("either --key K for a row, or --near K for its neighbours, got both")
    with errors():
        from pipeline import show_rows
        from pipeline.look_up import find_row
        from pipeline.neighbours import nearest_rows
        from pipeline.versions import resolve

        table = resolve(table)
        if near is None:
            row = find_row(table, key)
        else:
            found = nearest_rows(table, near, column, count or 10)
    if near is None:
        show_rows.print_row(row, is_first=key is None, as_json=as_json)
    else:
        show_rows.print_neighbours(found, as_json=as_json)
