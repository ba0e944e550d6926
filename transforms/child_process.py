"""Start processes that do a part of the work, and be one of them.

Parent and child talk through a two-way pipe. The child's stdin is its lifeline: that
ends with the parent, however the parent ends, and the child ends with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import fsspec

from transforms import device
from transforms.credentials import mask_logs

_FAREWELL_SECONDS = 5
LOOK_SECONDS = 1
"""How long to wait for a message before looking whether its sender is alive."""
# not -m: what a module sends has to be of the module's own name, not of __main__
_MAIN = "from {} import main; main()"


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """A process of our own.

    Attributes:
      process: it.
      pipe: sends it messages and gives its answers.
    """

    process: subprocess.Popen[bytes]
    pipe: Connection

    def has_ended(self) -> bool:
        """Whether it has ended and all that it sent has been received.

        The end of its pipe does not tell: what it has forked may hold that, and its
        GPU, and so ends with it.
        """
        if self.process.poll() is None:
            return False
        self._kill()
        return not self.pipe.poll()

    def receive(self) -> Any:
        """Wait for its next message.

        Raises:
          EOFError: it has ended.
        """
        try:
            while not self.has_ended():
                if self.pipe.poll(LOOK_SECONDS):
                    return self.pipe.recv()
            raise EOFError
        except OSError as error:
            raise EOFError from error

    def death(self) -> str:
        """Wait for it, and say how it ended.

        What only ended its side of the pipe is killed.
        """
        self.pipe.close()
        try:
            code = self.process.wait(_FAREWELL_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self.process.wait()
        self._kill()
        return exit_text(code)

    def close(self) -> None:
        """End it and what it has forked, at once."""
        self._kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.pipe.close()

    def _kill(self) -> None:
        """End all of its session, of which it is the first."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(program: str, request: Any) -> Child:
    """Start a process in a module's `main`, which must call `parent` first.

    It is of a session of its own: Ctrl-C is for the parent, which decides.

    Args:
      program: the module.
      request: what it is to do.
    """
    ours, its = Pipe()
    with its:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN.format(program), str(its.fileno())],
            stdin=subprocess.PIPE,
            stdout=2,  # ours may carry a JSON document
            pass_fds=[its.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    with contextlib.suppress(OSError):  # it has died: its first answer will tell
        # fsspec's settings may hold credentials: they go through a pipe
        ours.send((fsspec.config.conf, device.held(), request))
    return Child(process, ours)


def parent(
    before_end: Callable[[], None] = lambda: None,
) -> tuple[Connection, Any]:
    """In a child: the pipe to the parent, and its request.

    Args:
      before_end: called, for seconds at most, when the parent has gone.
    """
    mask_logs()

    def follow() -> None:
        os.read(0, 1)
        farewell = threading.Thread(target=before_end, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL_SECONDS)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    settings, gpu, request = pipe.recv()
    fsspec.config.conf.update(settings)
    device.borrow(gpu)
    return pipe, request


def exit_text(code: int) -> str:
    """Say how a process ended.

    >>> exit_text(-11)
    'died of SIGSEGV'
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            name = f"signal {-code}"
        return f"died of {name}"
    return f"ended with exit code {code}"
