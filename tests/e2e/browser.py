"""A headless Chromium, driven over the DevTools protocol; tests wait for conditions of the page, never for time."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from websockets.sync.client import ClientConnection, connect

DEADLINE = 20.0
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


def find_browser() -> str:
    """The executable; skips the test where there is none, and fails it in CI."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        message = f"no browser: none of {', '.join(_NAMES)} is installed"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


class Browser:
    """One Chromium with a profile of its own, which ends with the block; `flags` are for its command line."""

    def __init__(self, *flags: str) -> None:
        executable = find_browser()
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [executable, *_FLAGS, *flags, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": self._profile.name},
        )
        watchdog = threading.Timer(DEADLINE, self._process.kill)
        watchdog.start()
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                self._url = found.group(1)
                break
        else:
            raise AssertionError(f"the browser did not start:\n{''.join(said)}")
        watchdog.cancel()
        self._drain = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._drain.start()

    @contextlib.contextmanager
    def open(self) -> Iterator[Page]:
        """A new, empty page."""
        with connect(self._url, max_size=None, compression=None) as connection:
            page = Page(connection)
            yield page
            page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(DEADLINE)
        self._drain.join(DEADLINE)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._profile.cleanup()


class Page:
    """One tab. `complaints` and `requests` are what it wrote to the console and asked for since it was opened."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self._do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._do(f"{domain}.enable")

    def close(self) -> None:
        self._do("Page.close")

    def goto(self, url: str) -> None:
        """Load a page; returns when its document is there."""
        self._do("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression; a promise is waited for."""
        answer = self._do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true; it is looked at whenever the document changes."""
        self.run(
            f"""new Promise((resolve, reject) => {{
              const look = () => {{ try {{ if ({condition}) resolve(true); }} catch {{}} }};
              new MutationObserver(look).observe(document, {{
                subtree: true, childList: true, attributes: true, characterData: true }});
              addEventListener("load", look);
              setTimeout(() => reject(new Error("never true: " + {json.dumps(condition)})), {DEADLINE * 1000});
              look();
            }})"""
        )

    def resize(self, width: int, height: int = 900, *, scale: float = 1.0) -> None:
        self._do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def prefer(self, **features: str) -> None:
        """`prefer(color_scheme="dark")`: what the user prefers."""
        media = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()
        ]
        self._do("Emulation.setEmulatedMedia", features=media)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        answer = self._do("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _do(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=DEADLINE + 10))
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event: str | None, data: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(data["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(one.get("value")) for one in data["args"]))
        elif event == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{data['entry']['text']} {data['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.requests.append(data["request"]["url"])
        elif event == "Network.webSocketCreated":
            self.requests.append(data["url"])
