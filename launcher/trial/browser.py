"""A page as a Chromium of the host shows it, asked over its DevTools protocol; it reaches loopback only.

Protocol: https://chromedevtools.github.io/devtools-protocol/, domains Page and Runtime.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from anklume_images.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

__all__ = ["Page", "find_chromium", "open_page"]

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_SWITCHES = (
    "--headless",
    "--no-sandbox",  # Chromium has none for root; the page is our own
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
    "--window-size=1280,800",
)
_START_SECONDS = 30.0
_ANSWER_SECONDS = 30.0


def find_chromium() -> str | None:
    """The path of a Chromium on this host."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Page:
    """One page of a running Chromium."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=_ANSWER_SECONDS))
            if message.get("id") == number:
                if "error" in message:
                    raise HostError(f"the browser says: {message['error'].get('message')}")
                return dict(message["result"])

    def go(self, url: str) -> None:
        """Load an address, and wait until its document is there."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'", _ANSWER_SECONDS)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; None when it throws."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, condition: str, seconds: float) -> bool:
        """Wait until a JavaScript expression is true; say whether it came to that."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def screenshot(self) -> bytes:
        """What is to be seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextlib.contextmanager
def open_page(program: str, folder: Path) -> Iterator[Page]:
    """An empty page of a new Chromium that keeps all it writes in `folder`, which is to be removed afterwards.

    The folder's path must be short: a socket is made in it (108 bytes, unix(7)).
    """
    from websockets.sync.client import connect

    from launcher.trial.shell_environment import dying_with_caller

    argv = [program, *_SWITCHES, f"--user-data-dir={folder}", "about:blank"]
    folder.mkdir(mode=0o700)
    environment = {"HOME": str(folder), "TMPDIR": str(folder), "PATH": os.environ.get("PATH", os.defpath)}
    quiet = subprocess.DEVNULL
    browser = subprocess.Popen(
        dying_with_caller(argv), env=environment, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        with connect(_page_address(browser, folder), max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


def _page_address(browser: subprocess.Popen[bytes], folder: Path) -> str:
    import requests

    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and browser.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError), requests.Session() as session:
            session.trust_env = False  # no proxy
            port = int((folder / "DevToolsActivePort").read_text(encoding="utf-8").split()[0])
            pages = session.get(f"http://127.0.0.1:{port}/json/list", timeout=5).json()
            return str(next(page for page in pages if page["type"] == "page")["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise HostError("Chromium did not start")
