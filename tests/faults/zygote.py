"""Processes to kill: forked in milliseconds from one that has imported everything.

As a program this imports TensorFlow and Beam without running anything, and forks a
child for each request on stdin. In tests, `Zygote` asks it to.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Zygote:
    """Starts children and waits for them."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(HERE), str(HERE.parent), str(HERE.parent.parent)])
        environment = {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._children: set[int] = set()

    def start(self, do: str, log: Path | None = None, **request: Any) -> int:
        """Fork a child that calls `deeds.<do>(**request)`; give its process id."""
        request = {"do": do, "log": str(log or os.devnull), **request}
        pid = int(self._ask(request))
        self._children.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Wait for a child; its exit code, negative for a signal."""
        code = int(self._ask({"wait": pid}))
        self._children.discard(pid)
        return code

    def run(self, do: str, log: Path | None = None, **request: Any) -> int:
        """Start a child and wait for it."""
        return self.wait(self.start(do, log, **request))

    def close(self) -> None:
        """End it and what is left of its children."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    deeds = importlib.import_module("deeds")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            status = os.waitpid(request["wait"], 0)[1]
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = _fork(getattr(deeds, request.pop("do")), request)
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


def _fork(deed: Callable[..., None], request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(request.pop("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        deed(**request)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
