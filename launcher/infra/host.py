"""What a file's rules ask of the host that they are checked on: its own networks, and how deep it is nested."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["HostFacts", "own_networks", "own_routes", "shadowed"]

_CONTEXT = Path("/etc/anklume")

# Numbers of Linux' headers, linux/netlink.h and linux/rtnetlink.h:
_GET_ADDRESSES = 22
_NEW_ADDRESS = 20
_REQUEST_DUMP = 0x1 | 0x300
_ERROR, _DONE = 2, 3
_ADDRESS = 1  # IFA_ADDRESS: on a point-to-point interface the other end's
_GET_ROUTES = 26
_NEW_ROUTE = 24
_DESTINATION, _INTERFACE = 1, 4  # RTA_DST, RTA_OIF
_BY_KERNEL, _LOCAL_TABLE, _UNICAST = 2, 255, 1  # RTPROT_KERNEL, RT_TABLE_LOCAL, RTN_UNICAST
_LOCAL = 2  # IFA_LOCAL


@dataclass(frozen=True)
class HostFacts:
    """What is known of a host; nothing is what an unknown one is.

    `networks` are those of its interfaces, by name, `routes` where else these lead. `vm_nested`: a virtual machine is
    above it. `yolo`: its owner lets privileged containers pass. `level` is how many Incuses are above it, None on a
    physical host.
    """

    networks: tuple[tuple[str, ipaddress.IPv4Network], ...] = ()
    vm_nested: bool = False
    yolo: bool = False
    level: int | None = None
    routes: tuple[tuple[str, ipaddress.IPv4Network], ...] = ()

    @classmethod
    def read(cls, context: Path = _CONTEXT) -> HostFacts:
        """This host; `context` is where the framework says what a nested Incus cannot see itself."""
        try:
            level = int((context / "absolute_level").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            level = None
        return cls(own_networks(), _is_true(context / "vm_nested"), _is_true(context / "yolo"), level, own_routes())


def _is_true(file: Path) -> bool:
    try:
        return file.read_text(errors="replace", encoding="utf-8").strip().lower() == "true"
    except OSError:
        return False


def shadowed(
    subnet: ipaddress.IPv4Network, routes: Iterable[tuple[str, ipaddress.IPv4Network]], bridges: Collection[str]
) -> tuple[str, ipaddress.IPv4Network] | None:
    """A route that has addresses in common with a bridge of that subnet; `bridges` are the file's own."""
    return next((route for route in routes if route[0] not in bridges and route[1].overlaps(subnet)), None)


def own_networks() -> tuple[tuple[str, ipaddress.IPv4Network], ...]:
    """The IPv4 networks of this host's interfaces but for loopback; none where they cannot be asked for."""
    if sys.platform != "linux":
        return ()
    try:
        names = dict(socket.if_nameindex())
        networks = [(names.get(index, "?"), network) for index, network in _addresses()]
    except OSError:
        return ()
    return tuple(sorted({(name, network) for name, network in networks if not network.is_loopback}))


def own_routes() -> tuple[tuple[str, ipaddress.IPv4Network], ...]:
    """The IPv4 routes of this host by interface, those of every routing table, but for what interfaces have themselves.

    Default routes are not among them, nor the halves of all addresses by which VPNs replace them. None where the kernel
    cannot be asked.
    """
    if sys.platform != "linux":
        return ()
    try:
        names = dict(socket.if_nameindex())
        routes = [route for body in _dump(_GET_ROUTES, _NEW_ROUTE) for route in _route(body)]
    except OSError:
        return ()
    return tuple(sorted({(names.get(index, "?"), network) for index, network in routes}))


def _addresses() -> Iterator[tuple[int, ipaddress.IPv4Network]]:
    for body in _dump(_GET_ADDRESSES, _NEW_ADDRESS):
        yield from _network(body)


def _dump(request_kind: int, answer_kind: int) -> Iterator[bytes]:
    """The bodies of the kernel's answers to one request."""
    request = struct.pack("=IHHIIBBBBi", 24, request_kind, _REQUEST_DUMP, 1, 0, socket.AF_INET, 0, 0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as channel:
        channel.settimeout(5)
        channel.bind((0, 0))
        channel.send(request)
        while True:
            answer = channel.recv(1 << 16)
            for kind, body in _messages(answer):
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], os.strerror(-struct.unpack_from("=i", body)[0]))
                if kind == _DONE:
                    return
                if kind == answer_kind:
                    yield body


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """Netlink messages: length, type and ten bytes more, then the body; each begins at a multiple of four."""
    at = 0
    while at + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if length < 16:
            return
        yield kind, answer[at + 16 : at + length]
        at += (length + 3) & ~3


def _network(body: bytes) -> Iterator[tuple[int, ipaddress.IPv4Network]]:
    """The interface and network of one address: ifaddrmsg, then attributes."""
    _family, prefix, _flags, _scope, index = struct.unpack_from("=BBBBI", body)
    attributes = _attributes(body, 8)
    raw = attributes.get(_ADDRESS) or attributes.get(_LOCAL)
    if raw is not None and len(raw) == 4:
        yield index, ipaddress.IPv4Network((raw, prefix), strict=False)


def _route(body: bytes) -> Iterator[tuple[int, ipaddress.IPv4Network]]:
    """The interface and destination of one route: rtmsg, then attributes."""
    _family, prefix, _source, _tos, table, protocol, _scope, kind, _flags = struct.unpack_from("=BBBBBBBBI", body)
    attributes = _attributes(body, 12)
    raw, interface = attributes.get(_DESTINATION), attributes.get(_INTERFACE)
    ignored = protocol == _BY_KERNEL or table == _LOCAL_TABLE or kind != _UNICAST or prefix <= 1
    if not ignored and raw is not None and interface is not None and len(raw) == len(interface) == 4:
        yield struct.unpack("=I", interface)[0], ipaddress.IPv4Network((raw, prefix), strict=False)


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    """Netlink attributes: length and type, then the value; each begins at a multiple of four."""
    attributes = {}
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        attributes[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    return attributes
