"""What is asked of the host: its own networks, and what the framework left about nesting."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.infra import host
from launcher.infra.host import HostFacts, own_networks, own_routes

LINUX = sys.platform == "linux"


def local_addresses() -> list[ipaddress.IPv4Address]:
    """The kernel's own list of addresses of this host, another way round: /proc/net/fib_trie."""
    text = Path("/proc/net/fib_trie").read_text()
    found = re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", text)
    return sorted({ipaddress.IPv4Address(address) for address in found if not address.startswith("127.")})


def test_every_address_of_this_host_is_in_one_of_its_networks():
    networks = own_networks()
    names = {name for _, name in socket.if_nameindex()}
    assert {name for name, _ in networks} <= names
    assert not any(network.is_loopback for _, network in networks)
    if LINUX:
        assert all(any(address in network for _, network in networks) for address in local_addresses())
        assert bool(networks) is bool(local_addresses())


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def address(index: int, prefix: int, **attributes: str) -> bytes:
    body = struct.pack("=BBBBI", 2, prefix, 0, 0, index)
    for number, value in ((1, attributes.get("peer")), (2, attributes.get("local"))):
        if value:
            body += struct.pack("=HH", 8, number) + ipaddress.IPv4Address(value).packed
    return message(20, body + struct.pack("=HH", 7, 3) + b"lo\0\0")


def parsed(answer: bytes) -> list[str]:
    return [str(network) for kind, body in host._messages(answer) if kind == 20 for _, network in host._network(body)]


def test_messages_of_the_kernel():
    answer = address(2, 24, peer="10.0.0.7", local="10.0.0.7") + address(3, 32, peer="10.9.9.1", local="10.9.9.2")
    assert parsed(answer + message(3, b"\0\0\0\0")) == ["10.0.0.0/24", "10.9.9.1/32"]
    assert parsed(address(2, 24, local="10.0.0.7")) == ["10.0.0.0/24"]
    assert parsed(address(2, 24)) == []


@pytest.mark.parametrize("cut", range(1, 60))
def test_half_a_message_is_no_disaster(cut: int):
    answer = address(2, 24, peer="10.0.0.7")
    parsed(answer[:cut]) if cut >= 24 or cut < 16 else list(host._messages(answer[:cut]))


def test_without_netlink_nothing_is_known(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(socket, "socket", refuse)
    assert own_networks() == ()


@pytest.mark.parametrize(
    ("files", "facts"),
    [
        ({}, (False, False, None)),
        ({"vm_nested": "true\n"}, (True, False, None)),
        ({"vm_nested": "false\n", "yolo": "TRUE"}, (False, True, None)),
        ({"absolute_level": "2\n"}, (False, False, 2)),
        ({"absolute_level": "two\n", "vm_nested": "\xff"}, (False, False, None)),
    ],
)
def test_what_the_framework_says(tmp_path: Path, files: dict[str, str], facts: tuple[bool, bool, int | None]):
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    found = HostFacts.read(tmp_path)
    assert (found.vm_nested, found.yolo, found.level) == facts


def route(prefix: int, destination: str, *, protocol: int = 3, table: int = 254, kind: int = 1) -> bytes:
    body = struct.pack("=BBBBBBBBI", 2, prefix, 0, 0, table, protocol, 0, kind, 0)
    body += struct.pack("=HH", 8, 1) + ipaddress.IPv4Address(destination).packed + struct.pack("=HHI", 8, 4, 7)
    return message(24, body)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (route(8, "10.0.0.0"), ["10.0.0.0/8"]),
        (route(8, "10.0.0.0", table=52), ["10.0.0.0/8"]),
        (route(24, "10.1.1.0", protocol=2), []),  # an interface's own
        (route(0, "10.0.0.0"), []),
        (route(1, "128.0.0.0"), []),
        (route(8, "10.0.0.0", kind=6), []),  # blackhole
        (route(32, "10.1.1.1", table=255), []),
    ],
)
def test_routes_of_the_kernel(answer: bytes, found: list[str]):
    routes = [entry for _, body in host._messages(answer) for entry in host._route(body)]
    assert [(index, str(network)) for index, network in routes] == [(7, network) for network in found]


def test_routes_of_this_host_lead_over_its_interfaces():
    assert {name for name, _ in own_routes()} <= {name for _, name in socket.if_nameindex()}


def test_a_route_of_a_vpn_is_seen():
    """In a network namespace of its own, as a process of its own, which is what may make one."""
    script = (
        "set -e; ip link add wg0 type veth peer name other; ip address add 10.64.3.2/32 dev wg0; ip link set wg0 up; "
        "ip route add 10.0.0.0/8 dev wg0 table 52; ip route add default dev wg0; ip route add 128.0.0.0/1 dev wg0; "
        f"exec {sys.executable} -c 'from launcher.infra.host import own_routes; print(own_routes())'"
    )
    argv = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c", script]
    result = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=Path(host.__file__).parents[2])
    assert result.stdout == "(('wg0', IPv4Network('10.0.0.0/8')),)\n"
