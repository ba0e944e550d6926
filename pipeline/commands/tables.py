"""Commands that take a table, or a root of tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import show
from pipeline.commands.options import (
    EXIT_FAILED,
    Json,
    RootUri,
    Set,
    TableUri,
    errors,
    refuse,
)
from pipeline.quiet import start_tensorflow

if TYPE_CHECKING:
    from pipeline.parity.certificate import Parity


def status(table: TableUri, as_json: Json = False) -> None:
    """Tell the progress of a run anywhere, from its commit records."""
    with errors():
        from pipeline.status import table_status
        from pipeline.versions import resolve

        found = table_status(resolve(table))
    if as_json:
        show.print_json(found.to_json())
    else:
        show.print_status(found)


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
        refuse("--seed, --config and --set are for --parity, got them without it")
    if parity and not config:
        refuse(
            "--parity needs --config CONFIG, the config of the run: it runs what that"
            " names, and takes no table's word for it"
        )
    with errors():
        from pipeline.verify import verify_table
        from pipeline.versions import resolve

        table = resolve(table)
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


def report(
    table: TableUri,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FILE", help="In place of one in the table."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="COLUMN", help="Show this one in detail."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="COLUMN", help="Kept one that colours rows."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="TABLE", help="Show how far columns moved."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one page of HTML that shows what a finished table is like."""
    with errors():
        from pipeline.report.report import make_report
        from pipeline.versions import resolve

        made = make_report(
            resolve(table),
            to=to,
            columns=columns or (),
            label=label,
            against=resolve(against) if against else None,
        )
    if as_json:
        show.print_json(made.to_json())
    else:
        show.print_report(made)


def publish(
    table: TableUri,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="TARGET", help="A store, or package.module:make."),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="option=value", help="An option of the target."),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Only say where the table has gone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a finished table to a store, and prove that it arrived."""
    if listing == bool(to) or (listing and options):
        refuse("either --to TARGET, with --set, or --list")
    with errors():
        from pipeline.config_file import set_key
        from pipeline.publish.publish import publications, publish_table
        from pipeline.versions import resolve

        table = resolve(table)
        given: dict[str, Any] = {}
        for option in options or ():
            set_key(given, option)
        done = [publish_table(table, to, given).to_json()] if to else []
        found = publications(table) if listing else done
    if as_json:
        show.print_json(found if listing else found[0])
    else:
        show.print_published(found)


def forget(
    table: TableUri,
    keys: Annotated[
        str, typer.Option("--keys", metavar="FILE", help="Keys, or a CSV or Parquet.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="NEW", help="The new table.")],
    as_json: Json = False,
) -> None:
    """Make a new table of a finished one, without the rows of some keys."""
    with errors():
        from pipeline.versions import resolve

        start_tensorflow(compute=False)
        from pipeline.forget.table import forget_rows

        made = forget_rows(resolve(table), keys, to)
    if as_json:
        show.print_json(made.to_json())
    else:
        show.print_forgotten(made)


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A table's directory.")],
    b: Annotated[str, typer.Argument(metavar="B", help="One that may take its place.")],
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=VALUE", help="Exit with 1 beyond it."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME", help="Only this column."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two finished tables, and say whether one may replace the other."""
    with errors():
        from pipeline.diff.limits import parse_limits
        from pipeline.diff.tables import diff_tables
        from pipeline.show_diff import print_diff
        from pipeline.versions import resolve

        asked = parse_limits(limits or ())
        found = diff_tables(resolve(a), resolve(b), asked, columns or ())
    if as_json:
        show.print_json(found.to_json())
    else:
        print_diff(found)
    if found.beyond:
        raise typer.Exit(EXIT_FAILED)


def current(
    root: RootUri,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Make this one current.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell which table of a root is the current one, or make another one current."""
    with errors():
        from pipeline.versions import current_version, no_version, point_at, resolve

        found = point_at(root, name) if name else current_version(root)
        if found is None:
            raise no_version(root)
        path = resolve(root)
    if as_json:
        show.print_json({"path": path, **asdict(found)})
    else:
        show.say(path)


def prune(
    root: RootUri,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=1, help="The newest N stay.")
    ],
    as_json: Json = False,
) -> None:
    """Remove tables of a root that have been current, but for the newest."""
    with errors():
        from pipeline.versions import prune_tables

        done = prune_tables(root, keep)
    show.print_pruned(root, done, as_json=as_json)
