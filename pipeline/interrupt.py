"""End a run in order on the first Ctrl-C, at once on the second."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SIGNALLED = 128  # as shells say which signal ended a command
_ENDING = (signal.SIGINT, signal.SIGTERM)
_REPORT_SECONDS = 5


@contextmanager
def interruptible(table: str, again: str, *, finish: bool) -> Iterator[list[int]]:
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
    from transforms.errors.attempts import forget_attempts
    from transforms.stop import stopping

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signals: list[int] = []

    def report() -> None:
        with suppress(Exception):  # what cannot be reached must not keep us
            forget_attempts()
        sys.stderr.write(progress_text(table, again))

    def wait() -> None:
        while number := receiver.recv(1):
            if number[0] in _ENDING:
                signals.append(number[0])
                if finish and len(signals) == 1:
                    stopping.set()
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
            os._exit(SIGNALLED + signals[0])

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
        stopping.clear()


def progress_text(table: str, again: str) -> str:
    from pipeline.status import table_status

    found = table_status(table)
    return (
        f"featuretap: interrupted; {found.committed} of {found.shards} shards are"
        f" committed. {again}\n"
    )
