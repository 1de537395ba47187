"""A headless Chromium that tests drive over its debugging socket, by the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0"
)


class Browser:
    """One page in a browser of its own.

    Args:
        folder: For its profile.
        size: Of the window, in pixels.
    """

    def __init__(self, folder: Path, size: tuple[int, int] = (1300, 1000)) -> None:
        profile = folder / "profile"
        command = [str(BROWSER), *QUIET.split(), f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        port = self._port(profile / "DevToolsActivePort")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            pages = [page for page in json.load(answer) if page["type"] == "page"]
        path = pages[0]["webSocketDebuggerUrl"].partition(f":{port}")[2]
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._read = self._socket.makefile("rb")
        while self._read.readline() not in (b"\r\n", b""):
            pass
        self._count = 0
        self.said: list[str] = []  # dialogs and messages of the console
        self.call("Page.enable")
        self.call("Runtime.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        self._read.close()
        self._socket.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):  # while a page is loaded
                if self.run(f"Boolean({script})"):
                    return
            time.sleep(0.1)
        raise AssertionError(f"{script} is not true after {seconds} s: {self.run('document.body.innerText')[:2000]}")

    def dark(self) -> None:
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])

    def picture(self, path: Path) -> None:
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer to a command of the browser's protocol."""
        self._count += 1
        self._send(json.dumps({"id": self._count, "method": method, "params": parameters}).encode())
        while True:
            answer = json.loads(self._receive())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Page.javascriptDialogOpening", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(answer["params"]))

    def _port(self, file: Path) -> int:
        for _ in range(600):
            with contextlib.suppress(OSError, ValueError, IndexError):
                return int(file.read_text().splitlines()[0])
            time.sleep(0.1)
        raise AssertionError("the browser does not start")

    def _send(self, data: bytes) -> None:
        size = len(data)
        length = (
            bytes([0x80 | size])
            if size < 126
            else b"\xfe" + size.to_bytes(2)
            if size < 65536
            else b"\xff" + size.to_bytes(8)
        )
        self._socket.sendall(b"\x81" + length + b"\0\0\0\0" + data)  # masked with zeros

    def _receive(self) -> bytes:
        data = b""
        while True:
            first, size = self._read.read(2)
            size = (
                int.from_bytes(self._read.read(2))
                if size == 126
                else int.from_bytes(self._read.read(8))
                if size == 127
                else size
            )
            part = self._read.read(size)
            if first & 15 in (0, 1):
                data += part
                if first & 128:
                    return data
