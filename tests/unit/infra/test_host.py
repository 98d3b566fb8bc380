"""What is asked of the host: its own networks, and what the framework left about nesting."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.infra import host
from launcher.infra.host import HostFacts, networks_in, own_networks, own_routes, routes_in

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


def test_addresses_as_ip_tells_them():
    interfaces = [
        {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "prefixlen": 8}]},
        {"ifname": "eth0", "addr_info": [{"local": "10.0.0.7", "prefixlen": 24}, {}]},
        {"ifname": "wg0", "addr_info": [{"local": "10.9.9.2", "address": "10.9.9.1", "prefixlen": 32}]},
        {"ifname": "down"},
    ]
    found = [(name, str(network)) for name, network in networks_in(interfaces)]
    assert found == [("eth0", "10.0.0.0/24"), ("wg0", "10.9.9.1/32")]


@pytest.mark.parametrize("program", [None, "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho no json\n", "#!/bin/sh\n"])
def test_where_ip_does_not_answer_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str | None
):
    if program is not None:
        (tmp_path / "ip").write_text(program)
        (tmp_path / "ip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (own_networks(), own_routes()) == ((), ())


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


@pytest.mark.parametrize(
    ("route", "found"),
    [
        ({"dst": "10.0.0.0/8"}, ["10.0.0.0/8"]),
        ({"dst": "10.0.0.0/8", "table": "52"}, ["10.0.0.0/8"]),
        ({"dst": "10.1.1.9", "type": "unicast"}, ["10.1.1.9/32"]),
        ({"dst": "10.1.1.0/24", "protocol": "kernel"}, []),  # an interface's own
        ({"dst": "default"}, []),
        ({"dst": "128.0.0.0/1"}, []),
        ({"dst": "10.0.0.0/8", "type": "blackhole"}, []),
        ({"dst": "10.1.1.1", "type": "local", "table": "local"}, []),
    ],
)
def test_routes_as_ip_tells_them(route: dict[str, str], found: list[str]):
    assert [(name, str(network)) for name, network in routes_in([{"dev": "wg0", **route}])] == [
        ("wg0", network) for network in found
    ]


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
