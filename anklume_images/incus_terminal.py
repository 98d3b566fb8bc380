"""A program with a terminal inside an instance, over the API's websockets, connected to the caller's terminal.

API: POST /1.0/instances/NAME/exec with `interactive`; socket `0` carries both directions, `control` window sizes as
JSON. The sockets are the `websockets` package's: pylxd's own lose some of what a program says over TLS.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import ssl
import termios
import threading
import tty
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from anklume_images.errors import IncusError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from websockets.sync.client import ClientConnection

    from anklume_images.incus import Incus

__all__ = ["run_in_terminal"]

_PIECE = 1 << 16
_OPEN_SECONDS = 30


def run_in_terminal(
    incus: Incus, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command in a running instance with the terminal at descriptors 0 and 1; return its exit code."""
    columns, lines = os.get_terminal_size(0)
    body = {
        "command": list(command),
        "environment": dict(environment or {}),
        "interactive": True,
        "wait-for-websocket": True,
        "width": columns,
        "height": lines,
    }
    operation = incus.begin(f"instances/{name}/exec", body)
    secrets = operation["metadata"]["fds"]
    with (
        _socket(incus, operation["id"], secrets["0"]) as data,
        _socket(incus, operation["id"], secrets["control"]) as control,
        _raw_terminal(),
    ):
        _relay(data, control)
    return int(incus.wait(operation["id"])["return"])


@contextlib.contextmanager
def _socket(incus: Incus, operation: str, secret: str) -> Iterator[ClientConnection]:
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import ClientConnection, connect, unix_connect

    class Connection(ClientConnection):
        """One whose reader ends when it is closed: what TLS itself sends wakes it, and then it waits for more."""

        def close_socket(self) -> None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            super().close_socket()

    path = f"/1.0/operations/{operation}/websocket?secret={quote(secret, safe='')}"
    options: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None}
    options |= {"open_timeout": _OPEN_SECONDS, "close_timeout": 1, "create_connection": Connection}
    try:
        if incus.address.startswith("https://"):
            server = urlsplit(incus.address).netloc
            connection = connect(f"wss://{server}{path}", ssl=_tls(incus), **options)
        else:
            connection = unix_connect(incus.address, f"ws://localhost{path}", **options)
    except (OSError, WebSocketException) as error:
        raise IncusError(f"no terminal could be had: {error}", where=incus.address) from error
    with connection:
        yield connection


def _tls(incus: Incus) -> ssl.SSLContext:
    """What the connection's own requests trust: the pinned certificate and no other, else the system's authorities."""
    pin = incus.session.verify
    context = ssl.create_default_context(cafile=pin if isinstance(pin, str) else None)
    if isinstance(pin, str):
        context.check_hostname = False  # the certificate itself is what is trusted, whatever it is called
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if incus.session.cert:
        context.load_cert_chain(*incus.session.cert)
    return context


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)  # draining could wait for ever for a reader


def _relay(data: ClientConnection, control: ClientConnection) -> None:
    """Pass on what is typed, what is shown and how large the window is, until the program's output ends."""
    from websockets.exceptions import ConnectionClosed

    done, end = os.pipe()
    resized, resize = os.pipe()
    shower = threading.Thread(target=_show, args=(data, end), name="shower")
    # A signal handler may not send: it could interrupt a send of the same socket.
    before = signal.signal(signal.SIGWINCH, lambda *_: os.write(resize, b"."))
    shower.start()
    try:
        sources = [0, done, resized]
        while done not in (ready := select.select(sources, [], [])[0]):
            if resized in ready:
                os.read(resized, _PIECE)
                _send_size(control)
            if 0 in ready:
                piece = os.read(0, _PIECE)
                if piece:
                    data.send(piece)
                else:
                    sources.remove(0)
    except ConnectionClosed:
        pass  # the program has ended; its exit code is the operation's
    finally:
        signal.signal(signal.SIGWINCH, before)
        data.close()
        shower.join()
        for descriptor in (done, resized, resize):
            os.close(descriptor)


def _show(data: ClientConnection, end: int) -> None:
    from websockets.exceptions import ConnectionClosed

    try:
        for message in data:
            if not message:  # an empty message is the end of the output
                return
            piece = message.encode() if isinstance(message, str) else message
            while piece:
                piece = piece[os.write(1, piece) :]
    except (ConnectionClosed, OSError):
        pass
    finally:
        os.close(end)


def _send_size(control: ClientConnection) -> None:
    columns, lines = os.get_terminal_size(0)
    size = {"width": str(columns), "height": str(lines)}
    control.send(json.dumps({"command": "window-resize", "args": size}))
