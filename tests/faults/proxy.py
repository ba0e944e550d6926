"""A proxy in front of an object store that answers badly when told to."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REFUSE, CUT_REQUEST, LOSE_ANSWER, STALL = (
    "refuse",
    "cut request",
    "lose answer",
    "stall",
)
_STALL_SECONDS = 3.0


class Proxy:
    """Passes requests on, unless `fault` says otherwise.

    Attributes:
      url: of the proxy.
      faults: what it did, in order.
    """

    def __init__(self, port: int) -> None:
        self.faults: list[str] = []
        self.decide: Callable[[str, str], str | None] = lambda method, path: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def _pass_on(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                fault = proxy.decide(self.command, self.path)
                if fault:
                    proxy.faults.append(fault)
                if fault == CUT_REQUEST:
                    self.rfile.read(length // 2)
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                body = self._body(length)
                if fault == STALL:
                    threading.Event().wait(_STALL_SECONDS)
                    self.close_connection = True
                    return
                if fault == REFUSE:
                    self._answer(503, {}, b"<Error><Code>SlowDown</Code></Error>")
                    return
                there = http.client.HTTPConnection("127.0.0.1", port)
                headers = {
                    k: v
                    for k, v in self.headers.items()
                    if k.lower() not in ("transfer-encoding", "content-length")
                }
                there.request(self.command, self.path, body, headers)
                answer = there.getresponse()
                data = answer.read()
                there.close()
                if fault == LOSE_ANSWER:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._answer(answer.status, dict(answer.getheaders()), data)

            def _body(self, length: int) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(length)
                data = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    data += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return data

            def _answer(self, code: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(code)
                for name, value in headers.items():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        self.send_header(name, value)
                if not any(name.lower() == "content-length" for name in headers):
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve."""
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
