"""Owns a headless Chromium that the real tests look at pages with, over its DevTools pipe: no library, no port.

with chromium(folder) as browser:
    page = browser.open(url, width=390, height=844)
    page.click("#copy")
    assert page.evaluate("document.title") == "..." and not page.problems
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for one answer; two cores may be busy with other things
KEYS = {"Enter": 13, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


def chromium_program() -> str | None:
    """The installed Chromium, or None."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Browser:
    """A running Chromium; commands are answered in order, what it tells meanwhile is kept by the page it is about."""

    reading: int
    writing: int
    pages: dict[str, Page] = field(default_factory=dict)
    _count: int = 0
    _buffer: bytes = b""

    def open(self, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Page:
        """A new page of this size at an address, loaded."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self.pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        page.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        page.call("Emulation.setEmulatedMedia", features=[feature])
        page.call("Page.navigate", url=url)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page

    def call(self, method: str, params: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """The result of a command. Raises RuntimeError with the browser's words."""
        self._count += 1
        wanted = self._count
        message = {"id": wanted, "method": method, "params": params or {}}
        message |= {"sessionId": session} if session else {}
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            found = self._receive(until)
            if found.get("id") == wanted:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                result: dict[str, Any] = found["result"]
                return result
            if page := self.pages.get(found.get("sessionId", "")):
                page.told(found.get("method", ""), found.get("params", {}))

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self.reading], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RuntimeError(f"the browser does not answer within {PATIENCE:g} s")
            more = os.read(self.reading, 1 << 20)
            if not more:
                raise RuntimeError("the browser has ended")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@dataclass
class Page:
    """A page: `problems` are errors and refusals of its console, `requests` every address it asked for."""

    browser: Browser
    session: str
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, params or None, self.session)

    def told(self, method: str, params: dict[str, Any]) -> None:
        """Keep what the browser tells about this page."""
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(each.get("value", "")) for each in params["args"]))

    def evaluate(self, script: str) -> Any:
        """The JSON value of an expression, awaited. Raises RuntimeError when it throws."""
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        found = self.call("Runtime.evaluate", expression=script, **options)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", script))
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Return when an expression is true. Raises RuntimeError when it stays false."""
        until = time.monotonic() + PATIENCE
        while not self.evaluate(condition):
            if time.monotonic() > until:
                raise RuntimeError(f"still false: {condition}")
            time.sleep(0.05)

    def box(self, selector: str) -> dict[str, float]:
        """Where an element is on the screen: x, y, width, height."""
        found: dict[str, float] = self.evaluate(
            f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()"
        )
        return found

    def click(self, selector: str, dx: float = 0.5, dy: float = 0.5) -> None:
        """Click on an element as a pointer does, at these fractions of its box."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.box(selector)
        x, y = box["x"] + dx * box["width"], box["y"] + dy * box["height"]
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key on whatever has the focus."""
        code = KEYS[key]
        typed = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in `folder`. It has ended, with all its processes, when the block has."""
    program = chromium_program()
    if program is None:
        raise RuntimeError("no Chromium is installed")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [
        "bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', program,
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage",
        "--disable-component-update", "--no-first-run", "--hide-scrollbars", "--remote-debugging-pipe",
        f"--user-data-dir={folder / 'profile'}", "about:blank",
    ]  # fmt: skip
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(ours_in, ours_out)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(ours_in)
        os.close(ours_out)
