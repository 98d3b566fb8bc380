"""Websockets of an operation, by the `websockets` package: pylxd's own lose some of what a program says over TLS.

One thread reads and writes them (asyncio): OpenSSL allows no two at one connection.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from anklume_images.errors import IncusError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.asyncio.client import ClientConnection

    from anklume_images.incus.client import Incus

__all__ = ["open_websocket"]

_OPEN_SECONDS = 30


@contextlib.asynccontextmanager
async def open_websocket(incus: Incus, operation: str, secret: str) -> AsyncIterator[ClientConnection]:
    """One of the sockets of an operation, which `secret` names."""
    from websockets.asyncio.client import connect, unix_connect
    from websockets.exceptions import WebSocketException

    path = f"/1.0/operations/{operation}/websocket?secret={quote(secret, safe='')}"
    options: dict[str, Any] = {"compression": None, "max_size": None, "ping_interval": None}
    options |= {"open_timeout": _OPEN_SECONDS, "close_timeout": 1}
    try:
        if incus.address.startswith("https://"):
            server = urlsplit(incus.address).netloc
            connection = await connect(f"wss://{server}{path}", ssl=_tls(incus), **options)
        else:
            connection = await unix_connect(incus.address, f"ws://localhost{path}", **options)
    except (OSError, WebSocketException) as error:
        raise IncusError(f"no terminal could be had: {error}", where=incus.address) from error
    async with connection:
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
