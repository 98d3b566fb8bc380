"""What one has to say of a page that people use engines by: which engines it can be told of, by which variables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.engines.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from launcher.engines.probe import GuestLike
    from launcher.engines.settings import Settings

__all__ = ["Connection", "NoAdministrator", "Page", "Upstream"]


@dataclass(frozen=True)
class Connection:
    """One way in which a page uses an engine.

    `url_variable` takes the engine's `http://ADDRESS:PORT` and `suffix`; `usual` is that variable's default. `probe` is
    a path below it that answers with 200 when the engine is there. `switch` is the variable that turns the connection
    off, and `key_variable` takes a key that the engine wants; empty where the page has none.
    """

    url_variable: str
    probe: str
    suffix: str = ""
    usual: str = ""
    switch: str = ""
    key_variable: str = ""

    def url(self, address: str, port: int) -> str:
        """The value of `url_variable` for an engine there."""
        return f"http://{address}:{port}{self.suffix}"


@dataclass(frozen=True)
class Upstream:
    """An engine that a page was told to use, by which of its connections and with which key."""

    connection: Connection
    url: str
    key: str = ""

    @property
    def probe(self) -> str:
        """What answers when the engine is there."""
        return f"{self.url}{self.connection.probe}"


@dataclass(frozen=True)
class NoAdministrator:
    """The page has no user although an administrator was asked for; `is_open`: whoever signs up first becomes one."""

    reason: str
    is_open: bool


@dataclass(frozen=True, kw_only=True)
class Page(Service):
    """A page.

    `connections` are tried in their order for an engine that it can reach; the first is the usual one. `password` is
    the variable with its first administrator's password, and `missing_administrator` looks from inside for what says
    that he is missing.
    """

    connections: tuple[Connection, ...]
    password: str
    missing_administrator: Callable[[GuestLike, Settings], NoAdministrator | None]

    @property
    def defaults(self) -> Mapping[str, str]:
        """Its port, and the connections that it has when nothing is set."""
        values = {self.port_variable: str(self.port)}
        for connection in self.connections:
            values[connection.url_variable] = connection.usual
            if connection.switch:
                values[connection.switch] = "true"
        return values

    def enabled(self, settings: Settings) -> bool:  # noqa: ARG002 - it has no switch
        """Always."""
        return True

    def own_url(self, settings: Settings) -> str:
        """Where it answers its own machine."""
        return f"http://127.0.0.1:{settings[self.port_variable]}"

    def upstreams(self, settings: Settings) -> tuple[Upstream, ...]:
        """The engines that it was told to use."""
        upstreams = []
        for connection in self.connections:
            on = not connection.switch or settings[connection.switch] == "true"
            if on and settings[connection.url_variable]:
                url = settings[connection.url_variable].rstrip("/")
                key = settings[connection.key_variable] if connection.key_variable else ""
                upstreams.append(Upstream(connection, url, key))
        return tuple(upstreams)
