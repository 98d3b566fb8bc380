"""A small registry of models, which notes what it is asked; it can hold bytes back and send askers elsewhere.

As a program it serves `tiny` over TLS: ADDRESS PORT PEM.
"""

from __future__ import annotations

import json
import ssl
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from tests.support.ollama.running import model_files

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["Registry"]


@dataclass
class Registry:
    """Serves the files of models, by their paths in a store (`model_files`).

    `location` is how a blob's GET is answered: 200 with a Location header, 307 to another path, or 200 without one. A
    ranged GET sends `most` bytes of what was asked, if that is set, and then waits for `go_on` or, with `cut`, ends.
    `name` is what a model's name begins with.
    """

    files: dict[str, bytes]
    location: str = "200"
    most: int | None = None
    cut: bool = False
    address: tuple[str, int] = ("127.0.0.1", 0)
    tls: ssl.SSLContext | None = None
    go_on: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                registry.answer(self)

            do_GET = do_HEAD  # noqa: N815

        self._server = ThreadingHTTPServer(self.address, Handler)
        self._server.daemon_threads = True
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.name = f"{self.address[0]}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, wanted = handler.path, handler.headers.get("Range", "")
        self.asked.append((handler.command, path.rpartition("/")[2], wanted))
        content = self._content(path)
        if content is None:
            handler.send_error(404)
        elif "/manifests/" in path:
            self.accepted.append(handler.headers.get("Accept", ""))
            _send(handler, 200, content)
        elif handler.command == "HEAD":
            _send(handler, 200, content)
        elif wanted:
            self._send_range(handler, content, wanted)
        elif self.location == "307":
            _send(handler, 307, b"", Location=f"http://{self.name}/elsewhere{path}")
        else:
            _send(handler, 200, content, **({"Location": path} if self.location else {}))

    def _content(self, path: str) -> bytes | None:
        name = path.rpartition("/")[2]
        if "/manifests/" in path:
            model = path.split("/")[-3]
            return next((text for file, text in self.files.items() if file.endswith(f"/{model}/{name}")), None)
        return self.files.get(f"blobs/{name.replace(':', '-')}")

    def _send_range(self, handler: BaseHTTPRequestHandler, content: bytes, wanted: str) -> None:
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        piece = content[first : last + 1]
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(piece)))
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        handler.end_headers()
        now = piece if self.most is None else piece[: self.most]
        handler.wfile.write(now)
        handler.wfile.flush()
        if len(now) == len(piece) or self.cut:
            return
        self.go_on.wait(60)
        handler.wfile.write(piece[len(now) :])

    def blob_of(self, kind: str) -> str:
        """The path in a store of the model's layer of this kind."""
        (manifest,) = [json.loads(text) for file, text in self.files.items() if file.startswith("manifests/")]
        (found,) = [layer["digest"] for layer in manifest["layers"] if layer["mediaType"].endswith(f".{kind}")]
        return f"blobs/{found.replace(':', '-')}"


def _send(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)


def main() -> None:
    """Serve until it is ended."""
    address, port, pem = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    with Registry(model_files("tiny"), address=(address, int(port)), tls=tls) as registry:
        registry.go_on.wait()


if __name__ == "__main__":
    main()
