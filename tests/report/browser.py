"""A headless Chromium, spoken to over a pipe (DevTools protocol): pictures, PDF, what it asked the network for.

No driver and no package in between: `--remote-debugging-pipe` takes JSON messages that end with a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
LOCAL = ("file:", "data:", "about:", "blob:", "chrome:", "http://127.0.0.1", "http://localhost")
PATIENCE_S = 60.0


class Browser:
    """One page in one browser. `requests` are all addresses that were asked for, `complaints` what the console said."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()

        def connect() -> None:
            os.dup2(theirs_read, 3)
            os.dup2(theirs_write, 4)

        # Copies above 4, so that dup2 in the child overwrites neither.
        theirs_read, theirs_write = (_moved(one) for one in (theirs_read, theirs_write))
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
            ],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        self._write, self._read = os.fdopen(ours_write, "wb", 0), os.fdopen(ours_read, "rb", 0)
        self._buffer, self._number, self._session = b"", 0, None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._write.close()
        self._read.close()

    def open(self, address: str, *, width: int, height: int = 900, dark: bool = False, settle_s: float = 0.2) -> None:
        """Load a page as a window of this width shows it."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._loaded = False
        self.call("Page.navigate", url=address)
        end = time.monotonic() + PATIENCE_S
        while not self._loaded:
            assert time.monotonic() < end, f"{address} did not load"
            self._receive()
        time.sleep(settle_s)
        self.value("1")

    def value(self, expression: str) -> Any:
        """What JavaScript makes of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def picture(self, *, whole: bool = True) -> bytes:
        """PNG of the whole page or of the window."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self) -> bytes:
        """The page as it prints."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])

    def foreign_requests(self) -> list[str]:
        """Addresses that are not on this machine."""
        return [address for address in self.requests if not address.startswith(LOCAL)]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._read.fileno(), 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._notice(message.get("method", ""), message.get("params", {}))
        return message

    def _notice(self, event: str, about: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]["text"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.complaints.append(str(about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}".strip())
        elif event == "Page.loadEventFired":
            self._loaded = True


def _moved(descriptor: int) -> int:
    """The same pipe under a number above 9, inherited by a child."""
    import fcntl

    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    os.set_inheritable(copy, True)
    return copy
