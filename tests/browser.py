"""Debian's Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from toolbox import wait_until

_HIDDEN = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--window-size=1240,1600"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
)


def chromium() -> str:
    """Find the program; skip the test without it, unless it must be here."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        assert not os.environ.get("REQUIRE_BROWSER"), "chromium must be here"
        pytest.skip("needs Chromium")
    return found


@dataclass
class Tab:
    """A tab of a browser.

    Attributes:
      events: that it has sent, by method.
    """

    connection: Any
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _calls: int = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask for something, and wait for the answer."""
        self._calls += 1
        request = {"id": self._calls, "method": method, "params": params}
        await self.connection.write_message(json.dumps(request))
        while True:
            text = await asyncio.wait_for(self.connection.read_message(), 60)
            assert text is not None, f"Chromium ended during {method}"
            message = json.loads(text)
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return dict(message["result"])
            if "method" in message:
                self.events.append((message["method"], message["params"]))

    async def value(self, code: str) -> Any:
        """Evaluate JavaScript in the page."""
        found = await self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, code: str) -> Any:
        """Wait until JavaScript gives something true."""
        for _ in range(600):
            found = await self.value(code)
            if found:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {code}")

    async def open(self, path: Path) -> None:
        """Open a page, and note what it logs, what it fetches, what asks."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=path.as_uri())
        await self.until("document.readyState == 'complete'")

    async def screenshot(self, path: Path) -> None:
        """Store what can be seen."""
        found = await self.call("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(found["data"]))

    def faults(self) -> list[dict[str, Any]]:
        """Give errors and warnings that were logged, exceptions, and dialogs."""
        return [
            params
            for method, params in self.events
            if method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening")
            or params.get("entry", {}).get("level") in ("error", "warning")
            or params.get("type") in ("error", "warning", "assert")
        ]

    def fetched(self) -> list[str]:
        """Give the addresses that were asked for."""
        return [
            params["request"]["url"]
            for method, params in self.events
            if method == "Network.requestWillBeSent"
        ]


@contextmanager
def started(directory: Path) -> Iterator[str]:
    """Start a browser; yield the address of its tab."""
    profile = directory / "profile"
    command = [chromium(), *_HIDDEN, f"--user-data-dir={profile}", "about:blank"]
    log = (directory / "chromium.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            port = profile / "DevToolsActivePort"
            wait_until(lambda: port.exists() and len(port.read_text().split()) == 2)
            yield f"http://127.0.0.1:{port.read_text().split()[0]}/json/list"
        finally:
            process.terminate()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Tab]:
    """Connect to the first tab."""
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    for _ in range(100):
        answer = await AsyncHTTPClient().fetch(address)
        tabs = [one for one in json.loads(answer.body) if one["type"] == "page"]
        if tabs:
            break
        await asyncio.sleep(0.05)
    url = tabs[0]["webSocketDebuggerUrl"]
    connection = await websocket_connect(url, max_message_size=1 << 28)
    try:
        yield Tab(connection)
    finally:
        connection.close()
        while await connection.read_message() is not None:
            pass
