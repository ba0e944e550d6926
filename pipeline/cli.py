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
from contextlib import contextmanager, redirect_stderr, suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, cast

import typer

from pipeline.text import size_text, table_lines

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.status import Status
    from transforms.schema import Column

EXIT_FAILED = 1
EXIT_MISUSE = 2
_SIGNALLED = 128  # as shells say which signal ended a command
_ENDING = (signal.SIGINT, signal.SIGTERM)
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
        from pipeline.config import load_config

        checked = load_config(config, overrides or ())
        _start_tensorflow(compute=False)
        from pipeline import listing
        from pipeline.plan import list_taps

        found = list_taps(checked, pattern)
    for complaint in found.complaints:
        _say(f"featuretap: {complaint}", err=True)
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
        made = _make_plan(config, overrides, limit, compute=False)
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
    _say(
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
        _fail("either --overwrite or --repair, got both", EXIT_MISUSE)
    if beam_args and not beam_args[0].startswith("-"):
        _fail(f"one CONFIG is enough, got also {beam_args[0]!r}", EXIT_MISUSE)
    if workers and beam_args:
        _fail(
            f"either --workers or arguments for Beam, got --workers {workers} and"
            f" {beam_args[0]!r}",
            EXIT_MISUSE,
        )
    with _errors():
        with _quiet_import():
            from pipeline.runners import (
                is_local,
                make_pipeline,
                pipeline_options,
                works_here,
            )

        in_threads = not workers and works_here(beam_args or ())
        made = _make_plan(config, overrides, limit, compute=in_threads)
        with _quiet_import():
            from pipeline.run import prepare_table, repair_table, run_plan
            from transforms.table import Table

        if not workers:  # before anything is replaced
            make_pipeline(pipeline_options(beam_args or ()))
        prepare_table(made, overwrite=overwrite)
        for difference in repair_table(made) if repair else ():
            _say(f"repairing: {difference}", err=True)
        table = made.config.table.path
        finished = Table(table).read_success() is not None
        again = "Run the same command again"
        again += " without --overwrite to go on." if overwrite else " to go on."
        finish = bool(workers) or (in_threads and is_local(beam_args or ()))
        discreet = cast(TextIO, _Discreet(sys.stderr))
        with (
            redirect_stderr(discreet),
            _interruptible(table, again, finish=finish) as signals,
            _progress(made),
        ):
            try:
                summary = run_plan(made, beam_args=beam_args or (), workers=workers)
            except Exception:
                if not signals:
                    raise
                summary = {}
        if signals and not summary:
            sys.stderr.write(_progress_text(table, again))
            raise typer.Exit(_SIGNALLED + signals[0])
    for column, rows in summary.get("non_finite", {}).items():
        _say(
            f"featuretap: {rows} rows have NaN or infinite values in column {column}"
            ' (errors.non_finite = "quarantine" would set them apart)',
            err=True,
        )
    if as_json:
        _print_json({"table": made.config.table.path, **summary})
        return
    if not summary:
        _say(f"{made.config.table.path}: handed over; featuretap status follows it")
        return
    bad = (
        f", {summary['quarantined']} bad rows set apart"
        if summary["quarantined"]
        else ""
    )
    _say(
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
    _say(
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
            _start_tensorflow(compute=True)
            from pipeline.parity import PARITY_HEAD, check_parity, describe

            certificate = check_parity(table, parity, seed or 0)
    if as_json:
        document: dict[str, Any] = {"table": table, "differences": differences}
        if parity:
            document["parity"] = certificate.to_json() if certificate else None
        _print_json(document)
    else:
        for difference in differences:
            _say(difference)
        if not differences:
            _say(f"{table}: as its manifest says")
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


def _start_tensorflow(*, compute: bool) -> None:
    """Import TensorFlow without what it says before it can be told to be quiet.

    With FEATURETAP_DEBUG set, or if the import fails, nothing is held back.

    Args:
      compute: as for `device.configure`.
    """
    from transforms.messages import mask_logs

    mask_logs()
    if _debug():
        from transforms import device

        device.configure(compute=compute)
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

            device.configure(compute=compute)
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


def _make_plan(
    config: str, overrides: list[str] | None, limit: int | None, *, compute: bool
) -> Plan:
    from pipeline.config import load_config

    checked = load_config(config, overrides or (), limit)
    _start_tensorflow(compute=compute)
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
        _fail("interrupted", _SIGNALLED + signal.SIGINT)
    except Exception as error:
        if _debug():
            sys.stderr.write(_mask(traceback.format_exc()))
        misuse = isinstance(error, ConfigError | FileNotFoundError)
        message = str(error) if misuse else _last_words(error)
        _fail(message, EXIT_MISUSE if misuse else EXIT_FAILED)


def _fail(message: str, code: int) -> NoReturn:
    for line in message.splitlines():
        _say(f"featuretap: {line}", err=True)
    raise typer.Exit(code)


def _say(text: str, *, err: bool = False) -> None:
    """Print text that may hold anything."""
    from transforms.messages import shown

    typer.echo(shown(text), err=err)


def _mask(text: str) -> str:
    from transforms.messages import mask

    return mask(text)


def _debug() -> bool:
    return bool(os.environ.get("FEATURETAP_DEBUG"))


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


class _Discreet:
    """A stderr that shows no credentials, and no tracebacks unless asked for.

    Beam prints tracebacks besides raising them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if text.startswith(_TRACEBACK) and not _debug():
            return len(text)
        return self._stream.write(_mask(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _interruptible(table: str, again: str, *, finish: bool) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM end a run: once in order, twice at once.

    In order means that shards at work are finished, and no other begun. At once is safe
    as well: commits are atomic, nothing has to be put right.

    A thread of its own waits for signals, since Python's handlers wait for the main
    thread, which may be inside an operation of TensorFlow.

    Args:
      table: that is being made.
      again: how to go on, for the message.
      finish: whether the first signal finishes shards; else it ends the run at once.

    Yields:
      The signals that came, in order.
    """
    from transforms import extract

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signals: list[int] = []

    def report() -> None:
        with suppress(Exception):  # what cannot be reached must not keep us
            extract.forget_attempts()
        sys.stderr.write(_progress_text(table, again))

    def wait() -> None:
        while number := receiver.recv(1):
            if number[0] in _ENDING:
                signals.append(number[0])
                if finish and len(signals) == 1:
                    extract.stopping.set()
                    sys.stderr.write(
                        "\nfeaturetap: finishing the shards at work; once more to stop"
                        " at once\n"
                    )
                else:
                    stop()

    def stop() -> NoReturn:
        try:
            visible = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor
            sys.stderr.write(f"{visible}\n")
            reporting = threading.Thread(target=report, daemon=True)
            reporting.start()
            reporting.join(_REPORT_SECONDS)
            sys.stderr.flush()
        finally:
            os._exit(_SIGNALLED + signals[0])

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    handlers = {n: signal.signal(n, lambda *_: None) for n in _ENDING}
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield signals
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sender.close()
        waiting.join()
        receiver.close()
        extract.stopping.clear()


def _progress_text(table: str, again: str) -> str:
    from pipeline.status import table_status

    found = table_status(table)
    return (
        f"featuretap: interrupted; {found.committed} of {found.shards} shards are"
        f" committed. {again}\n"
    )


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
    text = json.dumps(_masked(document), indent=2, ensure_ascii=False)
    typer.echo(
        "".join(
            c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text
        )
    )


def _masked(document: Any) -> Any:
    if isinstance(document, dict):
        return {_masked(name): _masked(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [_masked(value) for value in document]
    return _mask(document) if isinstance(document, str) else document


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from transforms.messages import plain

    cells = [[plain(cell) for cell in row] for row in rows]
    typer.echo(_mask("\n".join(table_lines(head, cells))))


if __name__ == "__main__":
    main()
