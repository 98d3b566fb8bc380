"""Where a server is told to listen, in the two forms that servers take.

`listen` is one text with the port in it: a host, a port or both, with or without http:// or https://, which stand for
port 80 and 443. What some servers correct in silence is refused here: a wrong port, and a bare number, which would be
a host's name. `hosts` is for servers whose port is said elsewhere: addresses or names with commas between, without
brackets and ports; sockets of files are refused, as nobody could ask there.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

__all__ = ["Listen", "ListenError", "hosts", "listen"]

_SCHEMES = {"http": 80, "https": 443}
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HIGHEST = 65535


class ListenError(ValueError):
    """What an address to listen on must be, as the end of a sentence about it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Listen:
    """Hosts without brackets, "" being every address, and a TCP port."""

    hosts: tuple[str, ...]
    port: int

    @property
    def served(self) -> bool:
        """Whether another machine can reach it at an IPv4 address: not on loopback, nor IPv6 alone."""
        if self.hosts == ("::",):  # alone, it takes IPv4 too
            return True
        return any(not _is_loopback(host) and ":" not in host for host in self.hosts)

    @property
    def own_url(self) -> str:
        """Where it answers its own machine."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.hosts[0], self.hosts[0])  # noqa: S104
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


def listen(text: str, port: int) -> Listen:
    """A host, a port or both; `port` where none is written, and nothing at all is loopback.

    ListenError for everything else.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme not in _SCHEMES:
        raise ListenError("must begin with http:// or https://, or have no scheme")
    rest = (rest if separator else text).partition("/")[0]
    port = _SCHEMES[scheme] if separator else port
    if not rest:
        return Listen(("127.0.0.1",), port)
    host, given = _split(rest)
    return Listen((host,), port if given is None else _port(given))


def hosts(text: str, port: int) -> Listen:
    """Addresses or names, with commas between; `port` is said elsewhere. ListenError for everything else."""
    addresses = text.split(",")
    for host in addresses:
        if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
            raise ListenError("must have no brackets", f"write {host[1:-1]}")
        if host.endswith(".sock"):
            raise ListenError("must be an address, not a socket of a file")
        if not (host and (_is_ipv6(host) or _is_host(host))):
            hint = "the port is a variable of its own" if ":" in host else "0.0.0.0 is every address"
            raise ListenError("must be addresses or names with commas between", hint)
    return Listen(tuple(addresses), port)


def _split(text: str) -> tuple[str, str | None]:
    """Host and port; an IPv6 address with a port has brackets, without one it needs none."""
    if _is_ipv6(text):
        return text, None
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or not _is_ipv6(host) or (tail and not tail.startswith(":")):
            raise ListenError("has brackets that are not around an IPv6 address", "such as [::]:8080")
        return host, tail[1:] if tail else None
    host, colon, port = text.partition(":")
    if ":" in port:
        raise ListenError("must be a host, a port or both", "an IPv6 address with a port is [ADDRESS]:PORT")
    if host.isdecimal():
        raise ListenError("must be a host, a port or both", f'a port alone is ":{host}"' if not colon else None)
    if host and not _is_host(host):
        raise ListenError("must be a host, a port or both", "such as 0.0.0.0:8080, which is every address")
    return host, port if colon else None


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _HIGHEST:
        raise ListenError(f"must have a port from 1 to {_HIGHEST}")
    return int(text)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return "%" not in text  # a zone: curl wants another form of it than either server


def _is_host(text: str) -> bool:
    """An IPv4 address or a name; what ends in a number is no name."""
    if text.rpartition(".")[2].isdecimal():
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
        return True
    return len(text) <= 253 and bool(_NAME.fullmatch(text))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
