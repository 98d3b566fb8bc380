"""A real proxy on loopback: HTTP (forwarding and CONNECT) and SOCKS5 at one port, to one server behind it.

Only the proxy knows the server's names, as in a company's network: whatever host is asked for, `upstream` is meant.
"""

from __future__ import annotations

import base64
import re
import select
import socket
import socketserver
import threading
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from tests.support.faulty_mirror import FaultyMirror


class LoopbackProxy:
    """`asked` has what came: `GET http://host/path`, `CONNECT host:port` or `SOCKS host:port`."""

    def __init__(self, upstream: FaultyMirror, login: tuple[str, str] | None = None) -> None:
        self.asked: list[str] = []
        self.login = login
        self.upstream = ("127.0.0.1", int(upstream.url.rpartition(":")[2]))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.address}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingTCPServer):
    proxy: LoopbackProxy
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients go away as they like


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    rbufsize = 0  # what follows the head is the tunnel's

    def handle(self) -> None:
        first = self.rfile.read(1)
        if first == b"\x05":
            self._socks()
        elif first:
            self._http(first)

    def _http(self, first: bytes) -> None:
        head = first
        while not head.endswith(b"\r\n\r\n"):
            byte = self.rfile.read(1)
            if not byte:
                return
            head += byte
        text = head.decode("latin-1")
        method, target, _ = text.splitlines()[0].split(" ")
        self.server.proxy.asked.append(f"{method} {target}")
        if self.server.proxy.login:
            token = base64.b64encode(":".join(self.server.proxy.login).encode()).decode()
            if f"proxy-authorization: basic {token}".lower() not in text.lower():
                self.wfile.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
                    b"Content-Length: 0\r\nConnection: close\r\n\r\n"
                )
                return
        with socket.create_connection(self.server.proxy.upstream) as behind:
            if method == "CONNECT":
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                parts = urlsplit(target)
                path = parts.path + (f"?{parts.query}" if parts.query else "")
                lines = re.sub(r"(?im)^(proxy-[^\r]*|connection:[^\r]*)\r\n", "", text.split("\r\n", 1)[1])
                behind.sendall(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{lines}".encode("latin-1"))
            self._relay(behind)

    def _socks(self) -> None:
        """RFC 1928 and 1929: CONNECT to a name or an IPv4 address."""
        methods = self.rfile.read(self.rfile.read(1)[0])
        wanted = 2 if self.server.proxy.login else 0
        if wanted not in methods:
            self.wfile.write(b"\x05\xff")
            return
        self.wfile.write(bytes([5, wanted]))
        if wanted == 2:
            self.rfile.read(1)
            given = tuple(self.rfile.read(self.rfile.read(1)[0]).decode() for _ in range(2))
            self.wfile.write(b"\x01\x00" if given == self.server.proxy.login else b"\x01\x01")
            if given != self.server.proxy.login:
                return
        _, _, _, kind = self.rfile.read(4)
        host = self.rfile.read(self.rfile.read(1)[0]).decode() if kind == 3 else socket.inet_ntoa(self.rfile.read(4))
        port = int.from_bytes(self.rfile.read(2), "big")
        self.server.proxy.asked.append(f"SOCKS {host}:{port}")
        with socket.create_connection(self.server.proxy.upstream) as behind:
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            self._relay(behind)

    def _relay(self, behind: socket.socket) -> None:
        other = {self.connection: behind, behind: self.connection}
        while True:
            for ready in select.select(list(other), [], [], 30)[0]:
                data = ready.recv(1 << 16)
                if not data:
                    return
                other[ready].sendall(data)
