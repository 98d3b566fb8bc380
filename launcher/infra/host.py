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
    from collections.abc import Iterator

__all__ = ["HostFacts", "own_networks"]

_CONTEXT = Path("/etc/anklume")

# Numbers of Linux' headers, linux/netlink.h and linux/rtnetlink.h:
_GET_ADDRESSES = 22
_NEW_ADDRESS = 20
_REQUEST_DUMP = 0x1 | 0x300
_ERROR, _DONE = 2, 3
_ADDRESS = 1  # IFA_ADDRESS: on a point-to-point interface the other end's
_LOCAL = 2  # IFA_LOCAL


@dataclass(frozen=True)
class HostFacts:
    """What is known of a host; nothing is what an unknown one is.

    `networks` are those of its interfaces, by name. `vm_nested`: a virtual machine is above it. `yolo`: its owner lets
    privileged containers pass. `level` is how many Incuses are above it, None on a physical host.
    """

    networks: tuple[tuple[str, ipaddress.IPv4Network], ...] = ()
    vm_nested: bool = False
    yolo: bool = False
    level: int | None = None

    @classmethod
    def read(cls, context: Path = _CONTEXT) -> HostFacts:
        """This host; `context` is where the framework says what a nested Incus cannot see itself."""
        try:
            level = int((context / "absolute_level").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            level = None
        return cls(own_networks(), _is_true(context / "vm_nested"), _is_true(context / "yolo"), level)


def _is_true(file: Path) -> bool:
    try:
        return file.read_text(errors="replace", encoding="utf-8").strip().lower() == "true"
    except OSError:
        return False


def own_networks() -> tuple[tuple[str, ipaddress.IPv4Network], ...]:
    """The IPv4 networks of this host's interfaces but for loopback; none where they cannot be asked for."""
    if sys.platform != "linux":
        return ()
    try:
        names = dict(socket.if_nameindex())
        found = [(names.get(index, "?"), network) for index, network in _addresses()]
    except OSError:
        return ()
    return tuple(sorted({(name, network) for name, network in found if not network.is_loopback}))


def _addresses() -> Iterator[tuple[int, ipaddress.IPv4Network]]:
    request = struct.pack("=IHHIIBBBBi", 24, _GET_ADDRESSES, _REQUEST_DUMP, 1, 0, socket.AF_INET, 0, 0, 0, 0)
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
                if kind == _NEW_ADDRESS:
                    yield from _network(body)


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
    attributes = {}
    at = 8
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        attributes[kind] = body[at + 4 : at + length]
        at += (length + 3) & ~3
    raw = attributes.get(_ADDRESS) or attributes.get(_LOCAL)
    if raw is not None and len(raw) == 4:
        yield index, ipaddress.IPv4Network((raw, prefix), strict=False)
