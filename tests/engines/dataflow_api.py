"""A server of the REST calls of Dataflow and Cloud Storage that Beam makes."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c
import pytest

JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs(?:/([^/]+)(/\w+)?)?")
OBJECT = re.compile(r"/storage/v1/b/([^/]+)(?:/o/(.+))?")
UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
TIME = "2026-01-02T03:04:05.000000Z"


class DataflowApi(ThreadingHTTPServer):
    """Takes jobs and objects; a job is done when it has been asked for.

    Attributes:
      jobs: documents as they were submitted.
      objects: `{(bucket, name): content}`.
      unknown: requests that it could not answer.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.jobs: list[dict[str, Any]] = []
        self.objects: dict[tuple[str, str], bytes] = {}
        self.uploads: list[tuple[str, str]] = []
        self.unknown: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DataflowApi

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := JOBS.fullmatch(path):
            if match[4] == "/messages":
                self._answer({"jobMessages": []})
            elif match[4] == "/metrics":
                self._answer({"metricTime": TIME, "metrics": []})
            else:
                self._answer(self._job("JOB_STATE_DONE"))
        elif (match := OBJECT.fullmatch(path)) and match[2] is None:
            self._answer({"kind": "storage#bucket", "name": match[1], "id": match[1]})
        elif match and (match[1], match[2]) in self.server.objects:
            self._answer(self._object(match[1], match[2]))
        elif match:
            self._answer({"error": {"code": 404, "message": "absent"}}, 404)
        else:
            self._unknown()

    def do_POST(self) -> None:
        parts, body = urlsplit(self.path), self._body()
        if (match := UPLOAD.fullmatch(parts.path)) and "resumable" in parts.query:
            self.server.uploads.append((match[1], json.loads(body)["name"]))
            number = len(self.server.uploads) - 1
            self._answer({}, location=f"{parts.path}?upload_id={number}")
        elif JOBS.fullmatch(parts.path):
            self.server.jobs.append(json.loads(body))
            self._answer(self._job("JOB_STATE_PENDING"))
        else:
            self._unknown()

    def do_PUT(self) -> None:
        parts = urlsplit(self.path)
        number = dict(parse_qsl(parts.query)).get("upload_id")
        if number is None:
            self._body()
            self._unknown()
            return
        place = self.server.uploads[int(number)]
        content = self.server.objects.get(place, b"") + self._body()
        self.server.objects[place] = content
        if self.headers.get("Content-Range", "").endswith("/*"):
            self._answer({}, 308, range=f"bytes=0-{len(content) - 1}")
        else:
            self._answer(self._object(*place))

    def _unknown(self) -> None:
        self.server.unknown.append(f"{self.command} {self.path}")
        self._answer({"error": {"code": 404, "message": "unknown"}}, 404)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, document: Any, status: int = 200, **headers: str) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        if "location" in headers:
            headers["location"] = self.server.url + headers["location"]
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _object(self, bucket: str, name: str) -> dict[str, str]:
        content = self.server.objects[bucket, name]
        checksum = google_crc32c.Checksum(content).digest()
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "generation": "1",
            "size": str(len(content)),
            "crc32c": base64.b64encode(checksum).decode(),
            "timeCreated": TIME,
            "updated": TIME,
        }

    def _job(self, state: str) -> dict[str, Any]:
        submitted = self.server.jobs[-1]
        match = JOBS.fullmatch(urlsplit(self.path).path)
        assert match
        return {
            "id": f"job-{len(self.server.jobs)}",
            "name": submitted["name"],
            "projectId": match[1],
            "location": match[2],
            "clientRequestId": submitted.get("clientRequestId", ""),
            "createTime": TIME,
            "currentState": state,
            "currentStateTime": TIME,
        }


@pytest.fixture
def dataflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[DataflowApi]:
    """The server, and clients that find it."""
    pytest.importorskip("google.cloud.storage")
    with contextlib.closing(DataflowApi()) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        yield server
