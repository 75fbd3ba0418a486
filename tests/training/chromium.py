"""A headless Chromium that tests drive over a pipe: no package, no port, no network."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
# Chromium reads commands from descriptor 3 and answers on 4; sh would take numbers below 10 only.
START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Chromium:
    """One page of a browser of its own, whose profile is in `folder` (new and empty)."""

    def __init__(self, folder: Path, seconds: float = 60.0):
        self.deadline, self.buffer, self.number, self.events = time.monotonic() + seconds, b"", 0, []
        read_here, self.write_there = os.pipe()
        self.read_there, write_here = os.pipe()
        descriptors = [str(read_here), str(write_here)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *descriptors, PROGRAM, *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(read_here, write_here),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(read_here)
        os.close(write_here)

    def __enter__(self) -> Chromium:
        try:
            target = self._send("Target.createTarget", url="about:blank")["targetId"]
            self.session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.write_there)
        os.close(self.read_there)

    def __call__(self, method: str, **parameters) -> dict:
        """A command of the DevTools protocol to the page."""
        return self._send(method, session=self.session, **parameters)

    def open(self, path: Path, width: int, height: int = 900, dark: bool = False, scripts: bool = True) -> None:
        """Shows a file in a window of that size."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.events.clear()
        self("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def value(self, expression: str):
        """The value of a JavaScript expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def point(self, selector: str, x: float, y: float = 0.5) -> None:
        """Moves the mouse to a place in an element, both from 0 to 1."""
        self.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.value(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        left, top = box["x"] + x * box["width"], box["y"] + y * box["height"]
        self("Input.dispatchMouseEvent", type="mouseMoved", x=left, y=top)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        answer = self("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings of the page, and every request that is not for the file or inside it."""
        found = []
        for event in self.events:
            method, about = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(str(about["args"]))
            elif method == "Network.requestWillBeSent" and not about["request"]["url"].startswith(("file:", "data:")):
                found.append("request for " + about["request"]["url"][:200])
        return found

    def _send(self, method: str, session: str | None = None, **parameters) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.write_there, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer.get('error')}"
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_there], [], [], max(0.0, self.deadline - time.monotonic()))
            part = os.read(self.read_there, 1 << 20) if ready else b""
            assert part, "Chromium gave no answer in time" if not ready else "Chromium ended"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)


KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "Tab": 9}
