"""What a file's rules ask of the host that they are checked on: its own networks, and how deep it is nested."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

__all__ = ["HostFacts", "networks_in", "own_networks", "own_routes", "routes_in", "shadowed"]

_CONTEXT = Path("/etc/anklume")


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
    """The IPv4 networks of this host's interfaces but for loopback; none where `ip` is not there to be asked."""
    return tuple(sorted(set(networks_in(_asked("address")))))


def own_routes() -> tuple[tuple[str, ipaddress.IPv4Network], ...]:
    """The IPv4 routes of this host by interface, those of every routing table, but for what interfaces have themselves.

    Default routes are not among them, nor the halves of all addresses by which VPNs replace them. None where `ip` is
    not there to be asked.
    """
    return tuple(sorted(set(routes_in(_asked("route", "show", "table", "all")))))


def _asked(*what: str) -> list[dict[str, Any]]:
    """What ip(8) says, as its JSON."""
    import json
    import subprocess

    try:
        done = subprocess.run(["ip", "-json", "-4", *what], capture_output=True, check=True, timeout=5)
        answer: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return answer


def networks_in(interfaces: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    """The networks in what `ip -json address` says; on a point-to-point interface the other end's."""
    for interface in interfaces:
        for entry in interface.get("addr_info", ()):
            address = entry.get("address") or entry.get("local")
            if address:
                network = ipaddress.IPv4Network((address, entry["prefixlen"]), strict=False)
                if not network.is_loopback:
                    yield interface["ifname"], network


def routes_in(routes: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ipaddress.IPv4Network]]:
    """The destinations that lead elsewhere in what `ip -json route` says."""
    for route in routes:
        elsewhere = route.get("protocol") != "kernel" and route.get("type", "unicast") == "unicast" and "dev" in route
        if elsewhere and route["dst"] != "default":
            network = ipaddress.IPv4Network(route["dst"])
            if network.prefixlen > 1:
                yield route["dev"], network
