"""A real HTTP server on loopback that serves files well, and misbehaves exactly as told, to test the fetcher."""

from __future__ import annotations

import base64
import os
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

PIECE = 1 << 18


@dataclass(frozen=True)
class Fault:
    """One answer that is not the plain right one; the parts can be combined.

    `status` answers so, without the file. `cut` ends the connection after so many bytes of the body, `reset` does it
    with a TCP reset. `declare` is the Content-Length to state (-1: none). `flip` changes the byte of the file at that
    offset, `extra` is sent after the body, `endless` never stops sending. `hold` waits for `FaultyMirror.release` after
    so many bytes (-1: before the status line). `drip` sends single bytes. `whole` ignores Range, `shift` answers a
    range that begins so much later.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    reset: bool = False
    declare: int | None = None
    flip: int | None = None
    extra: bytes = b""
    endless: bool = False
    hold: int | None = None
    drip: bool = False
    whole: bool = False
    shift: int = 0


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


class Zeros:
    """A file of so many zero bytes that is nowhere as a whole."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        return bytes(stop - start)


class FaultyMirror:
    """`with FaultyMirror() as mirror: mirror.serve("/a", b"…"); mirror.fault("/a", Fault(cut=10))`.

    Faults are used up one a request, then the file is served well; `always` stays. `holding` is set while an answer
    is held back until `release` is set. With `tls` it speaks HTTPS, with `login` it wants a user and a password.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None) -> None:
        self.requests: list[Request] = []
        self.holding = threading.Event()
        self.release = threading.Event()
        self.most_at_once = 0
        self._at_once = 0
        self._files: dict[str, tuple[bytes | Zeros, str]] = {}
        self._faults: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.mirror = self
        self._login = "Basic " + base64.b64encode(":".join(login).encode()).decode() if login else None
        if tls:  # a client that does not like the certificate must not hold up the others: each thread shakes hands
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, path: str, body: bytes | Zeros, content_type: str = "application/octet-stream") -> str:
        self._files[path] = (body, content_type)
        return self.url + path

    def fault(self, path: str, *faults: Fault, always: Fault | None = None) -> None:
        self._faults.setdefault(path, []).extend(faults)
        if always:
            self._always[path] = always

    def mend(self) -> None:
        """Serve all files well from now on, and forget what was asked."""
        self._always.clear()
        self.requests.clear()

    def ranges(self, path: str) -> list[str | None]:
        """The Range headers that came for a path, in order."""
        return [request.range for request in self.requests if request.path == path]

    def begin(self, path: str, headers: Mapping[str, str]) -> tuple[tuple[bytes | Zeros, str] | None, Fault]:
        with self._lock:
            self.requests.append(Request(path, headers))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            queued = self._faults.get(path)
            fault = queued.pop(0) if queued else self._always.get(path, Fault())
        if self._login and headers.get("authorization") != self._login:
            fault = Fault(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
        return self._files.get(path), fault

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Server(ThreadingHTTPServer):
    mirror: FaultyMirror
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that go away are what these tests are about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True  # or a body waits 40 ms for the acknowledgement of its headers

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        # A proxy is asked for the whole URL.
        path = unquote(urlsplit(self.path).path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        found, fault = self.server.mirror.begin(path, headers)
        try:
            self._answer(found, fault)
        finally:
            self.server.mirror.end()

    def _answer(self, found: tuple[bytes | Zeros, str] | None, fault: Fault) -> None:
        if fault.hold == -1:
            self._hold()
        if fault.status or found is None:
            self._plain(fault.status or 404, fault.headers)
            return
        body, content_type = found
        start = self._start(fault)
        if start is not None and start >= len(body):
            self._plain(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        first = (start or 0) + (fault.shift if start is not None else 0)
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        declared = len(body) - first if fault.declare is None else fault.declare
        if declared >= 0:
            self.send_header("Content-Length", str(declared))
        if fault != Fault():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.send_header("Content-Type", content_type)
        self.send_header("ETag", f'"{len(body)}"')
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(body, first, fault)

    def _start(self, fault: Fault) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match and not fault.whole else None

    def _plain(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes | Zeros, first: int, fault: Fault) -> None:
        sent = 0
        for piece in _pieces(body, first, fault):
            self.wfile.write(piece)
            sent += len(piece)
            if fault.hold is not None and sent == fault.hold:
                self._hold()
        while fault.endless:
            self.wfile.write(bytes(PIECE))
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def _hold(self) -> None:
        self.server.mirror.holding.set()
        self.server.mirror.release.wait()


def _pieces(body: bytes | Zeros, first: int, fault: Fault) -> Iterator[bytes]:
    end = len(body) if fault.cut is None else min(len(body), first + fault.cut)
    stops = {end}
    if fault.hold is not None and fault.hold > 0:
        stops.add(min(end, first + fault.hold))
    at = first
    while at < end:
        step = 1 if fault.drip else PIECE
        until = min(at + step, *(stop for stop in stops if stop > at))
        piece = bytes(body[at:until])
        if fault.flip is not None and at <= fault.flip < until:
            changed = bytearray(piece)
            changed[fault.flip - at] ^= 0xFF
            piece = bytes(changed)
        yield piece
        at = until
    if fault.extra:
        yield fault.extra
