"""What commands share: options, and how errors end them."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from pipeline import show
from pipeline.interrupt import SIGNALLED, InterruptedRunError
from pipeline.quiet import is_debugging
from transforms.credentials import mask

EXIT_FAILED = 1
EXIT_MISUSE = 2
ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="A TOML file.")]
TableUri = Annotated[str, typer.Argument(metavar="TABLE", help="A table's directory.")]
RootUri = Annotated[
    str, typer.Argument(metavar="ROOT", help="A directory of tables (run --as).")
]
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
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="NAME",
        help="Make the table of this name under table.path, from the current one there;"
        " it becomes the current one.",
    ),
]


@contextmanager
def errors() -> Iterator[None]:
    """Turn exceptions into messages and exit codes."""
    from transforms.lookup import ConfigError, TableError

    try:
        yield
    except typer.Exit:
        raise
    except InterruptedRunError as error:
        raise typer.Exit(SIGNALLED + error.signal) from None
    except KeyboardInterrupt:
        fail("interrupted", SIGNALLED + signal.SIGINT)
    except Exception as error:
        if is_debugging():
            sys.stderr.write(mask(traceback.format_exc()))
        misuse = isinstance(error, ConfigError | FileNotFoundError)
        named = misuse or isinstance(error, TableError)
        message = str(error) if named else show.last_words(error)
        fail(message, EXIT_MISUSE if misuse else EXIT_FAILED)


def refuse(message: str) -> NoReturn:
    """End a command that was called wrongly."""
    fail(message, EXIT_MISUSE)


def fail(message: str, code: int) -> NoReturn:
    """End a command with a message and an exit code."""
    for line in message.splitlines():
        show.say(f"featuretap: {line}", err=True)
    raise typer.Exit(code)
