"""The loopback mirror: serves exactly the files of one build, inside its sealed namespace.

Anything else is answered 404 and remembered in `refused`, which fails the build. The only questions that may go
unanswered are those that apt and debootstrap ask about indexes (below /debian/dists/) before they settle for the ones
that are there.
"""

from __future__ import annotations

import http.server
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["LoopbackMirror"]


class LoopbackMirror:
    """Serves `entries` (path of the URL -> file, or `{"text": ...}`) on 127.0.0.1 port 80 while entered.

    Another address is for the bench, which installs the same files by hand.
    """

    def __init__(self, entries: dict[str, Any], log: Path, port: int = 80, address: str = "127.0.0.1") -> None:
        self.refused: list[str] = []
        self._entries = entries
        self._log = log
        self._server = http.server.ThreadingHTTPServer((address, port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._stream = self._log.open("a", buffering=1, encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._stream.close()

    def _note(self, status: int, path: str) -> None:
        self._stream.write(f"{status} {path}\n")
        if status != 200 and not path.startswith("/debian/dists/"):
            self.refused.append(path)

    def _handler(mirror) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805  the handler's own self is below
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else a short answer waits 40 ms for the acknowledgement of its own headers

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                entry = mirror._entries.get(path)
                mirror._note(200 if entry is not None else 404, path)
                if entry is None:
                    self._answer(404, 0)
                elif isinstance(entry, dict):
                    data = entry["text"].encode()
                    self._answer(200, len(data), entry.get("type", "text/plain"))
                    if self.command == "GET":
                        self.wfile.write(data)
                else:
                    with Path(entry).open("rb") as stream:
                        self._answer(200, Path(entry).stat().st_size)
                        if self.command == "GET":
                            self.connection.sendfile(stream)

            do_HEAD = do_GET  # noqa: N815  the name that http.server looks for

            def _answer(self, status: int, length: int, kind: str = "application/octet-stream") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.send_header("Content-Type", kind)
                self.end_headers()

            def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
                # A method or a request that nothing locked answers to.
                mirror._note(code, f"{self.command} {self.path}" if self.command else "a request that is not HTTP")
                super().send_error(code, message, explain)

            def log_message(self, *_: object) -> None:
                pass

        return Handler
