"""Ports on loopback for servers that tests start."""

from __future__ import annotations

import itertools
import os
import socket

_FIRST, _LAST = 10_000, 32_000  # below those that the kernel gives to connections
_EACH = 64
_numbers = itertools.count(os.getpid() * _EACH)


def free_port() -> int:
    """A port that is free until a server of this process's takes it.

    Servers take seconds to start: no connection may get it meanwhile, nor a server of
    tests in another process.
    """
    while True:
        port = _FIRST + next(_numbers) % (_LAST - _FIRST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
