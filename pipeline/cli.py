"""The `featuretap` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, cast

import typer

from pipeline.text import size_text, table_lines

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.status import Status
    from transforms.schema import Column

EXIT_FAILED = 1
EXIT_MISUSE = 2
EXIT_INTERRUPTED = 130
_POLL_SECONDS = 0.5
_REPORT_SECONDS = 5
_TRACEBACK = "Traceback (most recent call last)"

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


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file.")]
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
        from pipeline.config import load_config

        checked = load_config(config, overrides or ())
        _start_tensorflow()
        from pipeline import listing
        from pipeline.plan import list_taps

        found = list_taps(checked, pattern)
    for complaint in found.complaints:
        typer.echo(f"featuretap: {complaint}", err=True)
    if as_json:
        _print_json(listing.documents(found))
        return
    rows = listing.tree_rows(found) if tree else listing.table_rows(found)
    _print_table(listing.HEAD, list(rows))


@app.command()
def plan(
    config: ConfigPath,
    as_json: Json = False,
    overrides: Set = None,
    limit: Limit = None,
) -> None:
    """Show shards, columns, sizes and fingerprint; run nothing."""
    with _errors():
        made = _make_plan(config, overrides, limit)
    if as_json:
        _print_json(_plan_json(made))
        return
    from transforms.lookup import shape_text

    _print_table(
        ("column", "role", "type", "shape", "a row", "from"),
        [
            (
                c.name,
                c.role,
                c.dtype,
                shape_text(c.shape),
                size_text(c.bytes_per_row),
                " | ".join((_origin(c), *c.reduce)),
            )
            for c in made.columns
        ],
    )
    rows = made.rows
    total = "unknown" if rows is None else size_text(rows * made.bytes_per_row)
    typer.echo(
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
) -> None:
    """Extract the table; what an earlier run has committed is kept."""
    if beam_args and not beam_args[0].startswith("-"):
        _fail(f"one CONFIG is enough, got also {beam_args[0]!r}", EXIT_MISUSE)
    with _errors():
        made = _make_plan(config, overrides, limit)
        with _quiet_import():
            from pipeline.run import prepare_table, run_plan
            from transforms.table import Table

        prepare_table(made, overwrite=overwrite)
        finished = Table(made.config.table.path).read_success() is not None
        debug = os.environ.get("FEATURETAP_DEBUG")
        quiet = redirect_stderr(cast(TextIO, _WithoutTracebacks(sys.stderr)))
        with (
            nullcontext() if debug else quiet,
            _interruptible(made.config.table.path, overwrite=overwrite),
            _progress(made),
        ):
            summary = run_plan(made, beam_args=beam_args or ())
    if as_json:
        _print_json({"table": made.config.table.path, **summary})
        return
    bad = (
        f", {summary['quarantined']} bad rows set apart"
        if summary["quarantined"]
        else ""
    )
    typer.echo(
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
        _print_json(found.to_json())
        return
    state = "finished" if found.finished else "not finished"
    of = "" if found.planned_rows is None else f" of {found.planned_rows}"
    typer.echo(
        f"{found.table}: {state}, {found.committed} of {found.shards} shards,"
        f" {found.rows}{of} rows, {found.quarantined} bad rows,"
        f" {size_text(found.bytes)}"
    )
    if found.committed:
        typer.echo(_time_line(found))


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
        _fail("--seed is for the rows that --parity draws, got it alone", EXIT_MISUSE)
    with _errors():
        with _quiet_import():
            from pipeline.verify import verify_table

        differences = verify_table(table)
        if parity and not differences:
            _start_tensorflow()
            from pipeline.parity import PARITY_HEAD, check_parity, describe

            certificate = check_parity(table, parity, seed or 0)
    if as_json:
        document: dict[str, Any] = {"table": table, "differences": differences}
        if parity:
            document["parity"] = certificate.to_json() if certificate else None
        _print_json(document)
    else:
        for difference in differences:
            typer.echo(difference)
        if not differences:
            typer.echo(f"{table}: as its manifest says")
        if certificate:
            _print_table(PARITY_HEAD, describe(certificate))
            typer.echo(
                f"parity of {certificate.rows} rows (seed {certificate.seed}):"
                f" {'within' if certificate.passed else 'OUTSIDE'} tolerance"
            )
    if differences or (certificate and not certificate.passed):
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Run the command line."""
    app()


def _start_tensorflow() -> None:
    """Import TensorFlow without what it says before it can be told to be quiet.

    With FEATURETAP_DEBUG set, or if the import fails, nothing is held back.
    """
    if os.environ.get("FEATURETAP_DEBUG"):
        from transforms import device

        device.configure()
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for name in ("absl", "tensorflow", "apache_beam"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Beam leaves out arguments that it does not know: say so.
    logging.getLogger("apache_beam.options").setLevel(logging.WARNING)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            from transforms import device

            device.configure()
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Keep Beam from warning, as it is imported, of extras that are not needed."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _make_plan(config: Path, overrides: list[str] | None, limit: int | None) -> Plan:
    from pipeline.config import load_config

    checked = load_config(config, overrides or (), limit)
    _start_tensorflow()
    from pipeline.plan import make_plan

    return make_plan(checked)


@contextmanager
def _errors() -> Iterator[None]:
    """Turn exceptions into messages and exit codes."""
    from transforms.lookup import ConfigError

    try:
        yield
    except (ConfigError, FileNotFoundError) as error:
        if os.environ.get("FEATURETAP_DEBUG"):
            traceback.print_exc()
        _fail(str(error), EXIT_MISUSE)
    except Exception as error:
        if os.environ.get("FEATURETAP_DEBUG"):
            raise
        _fail(_last_words(error), EXIT_FAILED)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"featuretap: {line}", err=True)
    raise typer.Exit(code)


def _last_words(error: Exception) -> str:
    """What an exception says at its end, below the worker's tracebacks."""
    lines = str(error).strip().splitlines()
    if not isinstance(error, RuntimeError) or not lines:
        lines = (
            [f"{type(error).__name__}: {lines[0]}", *lines[1:]]
            if lines
            else [type(error).__name__]
        )
    heads = [i for i, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if heads:
        # Frames are indented, what was raised is not.
        below = range(heads[-1] + 1, len(lines))
        start = next((i for i in below if lines[i][:1].strip()), 0)
        lines = lines[start:]
    text = "\n".join(lines).removeprefix("RuntimeError: ")
    text = re.sub(r"\s*\[while running '[^']*'\]|\[\[.*?\]\] \[Op:.*", "", text)
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    return f"{text}\nset FEATURETAP_DEBUG=1 to see where"


class _WithoutTracebacks:
    """A stderr that leaves out the tracebacks that Beam prints besides raising them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if text.startswith(_TRACEBACK) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _interruptible(table: str, *, overwrite: bool) -> Iterator[None]:
    """On Ctrl-C stop at once: commits are atomic, nothing has to be put in order.

    A thread of its own waits for the signal, since Python's handlers wait for the main
    thread, which may be inside an operation of TensorFlow.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def report() -> None:
        from pipeline.status import table_status

        found = table_status(table)
        sys.stderr.write(
            f"{found.committed} of {found.shards} shards are committed. Run the same"
            f" command again{' without --overwrite' if overwrite else ''} to go on.\n"
        )

    def stop() -> None:
        while (number := receiver.recv(1)) != bytes([signal.SIGINT]):
            if not number:
                return
        try:
            shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor
            sys.stderr.write(f"{shown}\nfeaturetap: interrupted; ")
            reporting = threading.Thread(target=report, daemon=True)
            reporting.start()
            reporting.join(_REPORT_SECONDS)
            sys.stderr.flush()
        finally:
            os._exit(EXIT_INTERRUPTED)

    waiting = threading.Thread(target=stop, daemon=True)
    waiting.start()
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGINT, handler)
        sender.close()
        waiting.join()
        receiver.close()


@contextmanager
def _progress(made: Plan) -> Iterator[None]:
    """Draw a progress bar on stderr from the table's commit records."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    from pipeline.status import Watch
    from transforms.table import Table

    watch = Watch(Table(made.config.table.path))
    total = made.rows if made.rows is not None else len(made.shards)
    unit = "rows" if made.rows is not None else "shards"
    progress = Progress(
        TextColumn("extracting"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    task = progress.add_task("extract", total=total)
    stopped = threading.Event()

    def look() -> None:
        with suppress(Exception):  # a look that fails must not fail the run
            found = watch.status()
            done = found.rows + found.quarantined if unit == "rows" else found.committed
            progress.update(task, completed=done)

    def follow() -> None:
        while not stopped.wait(_POLL_SECONDS):
            look()

    follower = threading.Thread(target=follow, daemon=True)
    with progress:
        follower.start()
        try:
            yield
        finally:
            stopped.set()
            follower.join()
            look()


def _origin(column: Column) -> str:
    if column.is_computed and not column.source:
        return "the model's result"
    return repr(column.source) if column.source else ""


def _plan_json(made: Plan) -> dict[str, Any]:
    rows = made.rows
    return {
        "table": made.config.table.path,
        "fingerprint": made.fingerprint,
        "shards": len(made.shards),
        "rows": rows,
        "bytes_per_row": made.bytes_per_row,
        "bytes": None if rows is None else rows * made.bytes_per_row,
        "columns": [
            {**column.to_json(), "bytes_per_row": column.bytes_per_row}
            for column in made.columns
        ],
    }


def _time_line(found: Status) -> str:
    total = found.seconds["total"] or 1.0
    shares = [
        f"{name} {found.seconds[phase] / total:.0%}"
        for phase, name in (
            ("read", "waiting for the reader"),
            ("compute", "computing"),
            ("write", "waiting for the writer"),
        )
    ]
    return f"workers spent {total:.1f} s: {', '.join(shares)}"


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for line in table_lines(head, rows):
        typer.echo(line)


if __name__ == "__main__":
    main()
