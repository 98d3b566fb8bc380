"""A store over HTTPS, to be read only: what is served, and the server.

The server is Python's own `http.server`, a thread for each connection, with TLS in that thread and a limit of time for
whatever a client does: one that stalls holds up nobody else.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socket
import ssl
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from anklume_images.errors import HostError
from anklume_images.sanitize import sanitized
from anklume_images.ship.by_delta import DeltaError, delta_path, parse_delta
from anklume_images.ship.catalogue import PAGE
from anklume_images.ship.index import listed_models
from anklume_images.ship.ranges import part_of
from anklume_images.ship.simplestreams import INDEX, PRODUCTS
from anklume_images.store.images import is_document
from anklume_images.store.models import model_at
from anklume_images.store.store import Store
from anklume_images.trust.attest import is_attestation
from anklume_images.trust.repository import FOLDER as METADATA
from anklume_images.trust.revoked import FILE as REVOKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.ship.certificate import Certificate

__all__ = ["CERTIFICATE", "ServedFile", "StoreServer", "served_file"]

CERTIFICATE = "certificate.pem"
_CHUNK = 1 << 18
_SECONDS = 60.0  # without a byte, in either direction
_CONNECTIONS = 200
_FRESH = "no-cache"  # kept by caches, and asked for again each time
_FOR_EVER = "public, max-age=31536000, immutable"
_SIGNED = re.compile(rf"{METADATA}/[0-9a-z.]+\.json", re.ASCII)  # not what waits for signatures below it
_DELTA = re.compile(r"deltas/[0-9a-f]{64}\.json", re.ASCII)
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})", re.ASCII)


@dataclass(frozen=True)
class ServedFile:
    """A file of the store: where it is below it, its type, how long it may be kept, its hash where that names it."""

    place: str
    kind: str
    keep: str = _FRESH
    sha256: str = ""


def served_file(url: str, is_served: Callable[[str], bool]) -> ServedFile | None:
    """What a path of a URL means; `is_served` says it of a blob. None is for all that is nobody's business."""
    place = unquote(urlsplit(url).path, errors="replace").removeprefix("/")
    if place in {"", PAGE}:
        return ServedFile(PAGE, "text/html; charset=utf-8")
    documents = (is_document, model_at, is_attestation, _SIGNED.fullmatch, _DELTA.fullmatch)
    if place in {INDEX, PRODUCTS, REVOKED} or any(matches(place) for matches in documents):
        return ServedFile(place, "application/json")
    blob = _BLOB.fullmatch(place)
    if blob and is_served(blob.group(2)):
        return ServedFile(place, "application/octet-stream", _FOR_EVER, blob.group(2))
    return None


class ListedBlobs:
    """The blobs of the images and models that a store offers, and the deltas to these.

    They are looked up again when its index or page has changed.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._stamp: list[tuple[int, int]] = []
        self._names: frozenset[str] = frozenset()

    def __contains__(self, sha256: str) -> bool:
        with self._lock:
            try:
                found = [(self._home / place).stat() for place in (PRODUCTS, PAGE)]
                stamp = [(status.st_mtime_ns, status.st_ino) for status in found]
                if stamp != self._stamp:
                    named = _named(self._home)
                    self._names = named.union(_deltas(self._home, named))
                    self._stamp = stamp
            except FileNotFoundError:
                return False
            return sha256 in self._names


def _named(home: Path) -> frozenset[str]:
    products: dict[str, Any] = json.loads((home / PRODUCTS).read_bytes())["products"]
    items = (
        item["sha256"]
        for product in products.values()
        for version in product["versions"].values()
        for item in version["items"].values()
    )
    return frozenset((*items, *(sha256 for record in listed_models(Store(home)) for sha256 in record.blobs())))


def _deltas(home: Path, named: frozenset[str]) -> Iterator[str]:
    for later in named:
        with contextlib.suppress(FileNotFoundError, DeltaError):
            yield parse_delta((home / delta_path(later)).read_bytes(), later, str(home)).sha256


class StoreServer(http.server.ThreadingHTTPServer):
    """Serves the store at `home` until it is shut down; port 0 is one that is free, `log` gets a line a request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, home: Path, address: str, port: int, certificate: Certificate, log: Callable[[str], None] | None = None
    ) -> None:
        self.home = home
        self.log = log
        self.certificate = certificate
        self.blobs = ListedBlobs(home)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate.chain, certificate.key)
        self._places = threading.BoundedSemaphore(_CONNECTIONS)
        try:
            # The first that the system names for an address is the one to bind to.
            self.address_family, _, _, _, place = socket.getaddrinfo(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            super().__init__((str(place[0]), int(place[1])), _Handler)
        except OSError as error:
            raise HostError(
                f"cannot listen at {address} port {port}: {error.strerror or error}",
                hint="choose others with --address and --port; --port 0 takes a free one",
            ) from None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """Bind without asking any name server for this host's name, as the base class would."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, while there are not too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """What the thread does."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Speak TLS here, in the connection's own thread, which a client may hold up."""
        request.settimeout(_SECONDS)
        with self._tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away, stalled or speak no TLS (Incus tries plain HTTP first)."""
        import sys

        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the end of an answer waits for the client to confirm its beginning
    server: StoreServer

    def version_string(self) -> str:
        """Who answers, without the version."""
        return "anklume-images"

    def do_GET(self) -> None:
        """Send a file, or the part of it that is wanted."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Say what would be sent."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        if urlsplit(self.path).path == f"/{CERTIFICATE}":
            self._certificate(with_body=with_body)
            return
        served = served_file(self.path, self.server.blobs.__contains__)
        file = self._open(served.place) if served else None
        if served is None or file is None:
            self._note(404, 0)
            self.send_error(404)
            return
        with file:
            status = os.fstat(file.fileno())
            tag = f'"{served.sha256 or f"{status.st_mtime_ns:x}-{status.st_size:x}"}"'
            header = self.headers.get
            part = part_of(status.st_size, tag, header("Range"), header("If-None-Match"), header("If-Range"))
            self.send_response(part.status)
            if part.status == 206:
                self.send_header("Content-Range", f"bytes {part.begin}-{part.end - 1}/{status.st_size}")
            elif part.status == 416:
                self.send_header("Content-Range", f"bytes */{status.st_size}")
            if part.status != 304:
                self.send_header("Content-Type", served.kind)
                self.send_header("Content-Length", str(part.end - part.begin))
            self.send_header("ETag", tag)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Cache-Control", served.keep)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            length = part.end - part.begin if with_body else 0
            self._note(part.status, length)
            file.seek(part.begin)
            self._send(file, length)

    def _open(self, place: str) -> Any:
        """A regular file below the store's folder; None where there is none, a link say, or none to be read."""
        try:
            descriptor = os.open(self.server.home / place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        file = os.fdopen(descriptor, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            file.close()
            return None
        return file

    def _send(self, file: Any, length: int) -> None:
        buffer = memoryview(bytearray(min(_CHUNK, length)))
        while length:
            count = file.readinto(buffer[: min(len(buffer), length)])
            if not count:  # it became shorter: the client sees that it has less than it was told
                self.close_connection = True
                return
            self.connection.sendall(buffer[:count])
            length -= count

    def _certificate(self, *, with_body: bool) -> None:
        data = self.server.certificate.pem.encode()
        self._note(200, len(data) if with_body else 0)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-pem-file")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", _FRESH)
        self.end_headers()
        if with_body:
            self.wfile.write(data)

    def _note(self, status: int, length: int) -> None:
        if self.server.log:
            self.server.log(f"{self.client_address[0]} {self.command} {sanitized(self.path)} {status} {length}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Nothing: `_note` says it in words of its own."""
