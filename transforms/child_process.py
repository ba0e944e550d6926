"""Start child processes that do a part of the work; and what such a child does first.

Parent and child send each other messages through a two-way pipe. The child also has a
pipe as stdin, which the operating system closes when the parent ends, however it ends;
then the child ends itself.
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
from transforms.imports import keep_imports

_ENDING_SECONDS = 5  # how long a process that is about to end may take
LOOK_SECONDS = 1
"""How long to wait for a message before looking whether its sender is alive."""
# Not `python -m`: the classes that a module sends must belong to the module by its own
# name, not to __main__, or the parent could not unpickle them.
_MAIN = "from {} import main; main()"


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """A child process, as its parent sees it.

    Attributes:
      process: the process.
      pipe: sends messages to the child and receives its answers.
    """

    process: subprocess.Popen[bytes]
    pipe: Connection

    def has_ended(self) -> bool:
        """Whether the child has ended and all that it sent has been received.

        The end of its pipe would not tell: processes that the child has forked may keep
        the pipe open, and its GPU. They are killed here.
        """
        if self.process.poll() is None:
            return False
        self._kill()
        return not self.pipe.poll()

    def receive(self) -> Any:
        """Wait for the child's next message.

        Raises:
          EOFError: the child has ended.
        """
        try:
            while not self.has_ended():
                if self.pipe.poll(LOOK_SECONDS):
                    return self.pipe.recv()
            raise EOFError
        except OSError as error:
            raise EOFError from error

    def death(self) -> str:
        """Wait for the child to end, and say how it ended, as `exit_text` does.

        A child that has closed its pipe but does not end is killed after 5 seconds.
        """
        self.pipe.close()
        try:
            code = self.process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self.process.wait()
        self._kill()
        return exit_text(code)

    def close(self) -> None:
        """Kill the child and all processes that it has forked, at once."""
        self._kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.pipe.close()

    def _kill(self) -> None:
        """Kill all processes of the child's process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(program: str, request: Any) -> Child:
    """Start a process that runs a module's `main`, which must call `parent` first.

    The child has a session of its own, so that Ctrl-C reaches only the parent, which
    decides what becomes of the child.

    Args:
      program: name of the module.
      request: what the child is to do, given to it by `parent`; must be picklable.
    """
    ours, its = Pipe()
    with its:
        process = subprocess.Popen(
            [sys.executable, "-c", _MAIN.format(program), str(its.fileno())],
            stdin=subprocess.PIPE,
            stdout=2,  # stderr, since the parent's stdout may carry a JSON document
            pass_fds=[its.fileno()],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    with contextlib.suppress(OSError):  # it has died, which `receive` notices
        # Through the pipe, since fsspec's settings may hold credentials.
        ours.send((fsspec.config.conf, device.held(), request))
    return Child(process, ours)


def parent(
    before_end: Callable[[], None] = lambda: None,
) -> tuple[Connection, Any]:
    """Set up a child process; to be called first in its `main`.

    From here on the child ends when its parent ends.

    Args:
      before_end: called when the parent has ended; the child ends after 5 seconds even
        if this has not returned.

    Returns:
      The pipe to the parent, and the request that the parent gave to `start`.
    """
    keep_imports()
    mask_logs()

    def end_with_parent() -> None:
        os.read(0, 1)  # returns when the parent has ended
        ending = threading.Thread(target=before_end, daemon=True)
        ending.start()
        ending.join(_ENDING_SECONDS)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    settings, gpu, request = pipe.recv()
    fsspec.config.conf.update(settings)
    device.borrow(gpu)
    return pipe, request


def exit_text(code: int) -> str:
    """Say how a process ended, by the exit code that `subprocess` gives.

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
