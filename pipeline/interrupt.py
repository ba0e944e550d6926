"""End a run in order on the first Ctrl-C, at once on the second."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

SIGNALLED = 128  # as shells say which signal ended a command
_ENDING = (signal.SIGINT, signal.SIGTERM)
_REPORT_SECONDS = 5


class InterruptedRunError(Exception):
    """A run was ended by a signal; what is committed stays.

    Attributes:
      signal: its number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


@contextmanager
def interruptible(
    table: str, again: str, give_back: Callable[[], None], *, in_order: bool
) -> Iterator[list[int]]:
    """Let Ctrl-C and SIGTERM end a run: once in order, twice at once.

    In order means that no shard is begun, and that those at work are finished if they
    take a few seconds more, and else left after the batch at hand. At once is safe as
    well: commits are atomic, nothing has to be put right.

    A thread of its own waits for signals, since Python's handlers wait for the main
    thread, which may be inside an operation of TensorFlow.

    Args:
      table: that is being made.
      again: how to go on, for the message.
      give_back: gives the terminal back, before the process is ended at once.
      in_order: whether shards can be finished; else the first signal ends the run.

    Yields:
      The signals that came, in order.
    """
    from transforms.stop import stopping

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    listener = _Listener(receiver, table, again, give_back, in_order=in_order)
    waiting = threading.Thread(target=listener.wait, daemon=True)
    waiting.start()
    handlers = {n: signal.signal(n, lambda *_: None) for n in _ENDING}
    wakeup = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    try:
        yield listener.signals
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sender.close()
        waiting.join()
        receiver.close()
        stopping.clear()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM end a block as Ctrl-C does: by an exception, so that it tidies up.

    Raises:
      InterruptedRunError: SIGTERM came.
    """

    def end(number: int, _: object) -> NoReturn:
        raise InterruptedRunError(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Listener:
    """Waits for signals, and acts on them.

    Attributes:
      signals: those that came, in order.
    """

    def __init__(
        self,
        receiver: socket.socket,
        table: str,
        again: str,
        give_back: Callable[[], None],
        *,
        in_order: bool,
    ) -> None:
        self.signals: list[int] = []
        self._receiver = receiver
        self._table = table
        self._again = again
        self._give_back = give_back
        self._in_order = in_order

    def wait(self) -> None:
        """Act on signals until the other end of the socket is closed."""
        from transforms.stop import stopping

        while number := self._receiver.recv(1):
            if number[0] not in _ENDING:
                continue
            self.signals.append(number[0])
            if not self._in_order or len(self.signals) > 1:
                self._stop()
            stopping.set()
            sys.stderr.write(
                "\nfeaturetap: ending after the batch at hand; once more to stop at"
                " once\n"
            )

    def _stop(self) -> NoReturn:
        """End this process now, but for a word on how far it came."""
        try:
            reporting = threading.Thread(target=self._report, daemon=True)
            reporting.start()
            reporting.join(_REPORT_SECONDS)
            sys.stderr.flush()
        finally:
            os._exit(SIGNALLED + self.signals[0])

    def _report(self) -> None:
        from transforms.errors.attempts import forget_attempts

        with suppress(Exception):  # what cannot be reached must not keep us
            self._give_back()
            forget_attempts()
        sys.stderr.write(progress_text(self._table, self._again))


def progress_text(table: str, again: str) -> str:
    """Say how far an interrupted run came."""
    from pipeline.status import table_status

    found = table_status(table)
    return (
        f"featuretap: interrupted; {found.committed} of {found.shards} shards are"
        f" committed. {again}\n"
    )
