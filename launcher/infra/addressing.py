"""Which subnet each domain has, and which address each machine: pure arithmetic on what the file says.

`10.<zone_base + offset>.<seq>.<host>/24`: the second number says how far a domain is trusted, the third which of its
zone it is. Disabled domains keep their place. The older form is `<base_subnet>.<subnet_id>.<host>`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.infra.report import Report

__all__ = ["GATEWAY", "ZONES", "Addresses", "assign"]

ZONES = {"admin": 0, "trusted": 1, "semi-trusted": 2, "untrusted": 4, "disposable": 5}
"""How many steps (`zone_step`, usually 10) above `zone_base` the second number of each trust level is."""

GATEWAY = 254
_LAST_STATIC = 99
_DHCP = range(100, 200)
_RESERVED = range(250, 254)


@dataclass(frozen=True)
class Addresses:
    """The subnet of each domain and the address of each machine, as far as they could be made out."""

    subnets: Mapping[str, ipaddress.IPv4Network]
    machines: Mapping[str, ipaddress.IPv4Address]


def assign(settings: Mapping[str, Any], domains: Mapping[str, Any], report: Report) -> Addresses:
    """Give every domain its subnet and every machine its address; what cannot be is reported."""
    written = report.source.data.get("global")
    zoned = isinstance(written, dict) and "addressing" in written
    subnets = (_zoned if zoned else _flat)(settings, domains, report)
    machines: dict[str, ipaddress.IPv4Address] = {}
    for name, subnet in subnets.items():
        _machines(name, domains[name]["machines"], subnet, machines, report)
    return Addresses(subnets, machines)


def _zoned(settings: Mapping[str, Any], domains: Mapping[str, Any], report: Report) -> dict[str, ipaddress.IPv4Network]:
    here = ("global", "addressing")
    if any(path[:2] == here for path in report.wrong):  # what follows from it would only confuse
        return {}
    base, step = settings["addressing"]["zone_base"], settings["addressing"]["zone_step"]
    zones: dict[str, list[str]] = {}
    for name, domain in domains.items():
        if ("domains", name, "trust_level") not in report.wrong:
            zones.setdefault(domain["trust_level"], []).append(name)
    subnets: dict[str, ipaddress.IPv4Network] = {}
    for trust, names in zones.items():
        octet = base + ZONES[trust] * step
        if octet > 255:
            _zone_out_of_range(trust, octet, base, step, report)
            continue
        for name, number in _numbers(names, domains, report).items():
            subnets[name] = ipaddress.IPv4Network(f"10.{octet}.{number}.0/24")
    return {name: subnets[name] for name in domains if name in subnets}


def _zone_out_of_range(trust: str, octet: int, base: int, step: int, report: Report) -> None:
    message = f"the zone of {trust} domains would be 10.{octet}: {base} + {ZONES[trust]} x {step} is more than 255"
    hint = f"zone_base can be at most {255 - ZONES[trust] * step}" if ZONES[trust] * step <= 255 else "lower zone_step"
    report.error(("global", "addressing"), "zone-out-of-range", message, key=True, hint=hint)


def _numbers(names: list[str], domains: Mapping[str, Any], report: Report) -> dict[str, int]:
    """The third number of each domain of a zone: its own `subnet_id`, else the next free one by the alphabet."""
    taken: dict[int, str] = {}
    for name in names:
        number = domains[name].get("subnet_id")
        if number is not None:
            _take(number, name, taken, report)
    numbers = {name: number for number, name in taken.items()}
    following = 0
    for name in sorted(name for name in names if not _says(name, report)):
        while following in taken:
            following += 1
        if following > 255:
            message = f"no room for '{name}': the zone has 256 domains already"
            report.error(("domains", name), "zone-full", message, key=True, hint="give some another trust_level")
            continue
        taken[following] = name
        numbers[name] = following
    return numbers


def _says(name: str, report: Report) -> bool:
    """Whether the domain has a subnet_id, be it a wrong one."""
    return report.source.has(("domains", name, "subnet_id"))


def _take(number: int, name: str, taken: dict[int, str], report: Report) -> None:
    if number in taken:
        message = f"subnet_id {number} is that of '{taken[number]}' already"
        report.error(("domains", name, "subnet_id"), "duplicate-subnet-id", message)
    else:
        taken[number] = name


def _flat(settings: Mapping[str, Any], domains: Mapping[str, Any], report: Report) -> dict[str, ipaddress.IPv4Network]:
    if ("global", "base_subnet") in report.wrong:
        return {}
    base = settings["base_subnet"]
    taken: dict[int, str] = {}
    for name, domain in domains.items():
        number = domain.get("subnet_id")
        if number is not None:
            _take(number, name, taken, report)
        elif not _says(name, report):
            message = f"'{name}' needs a subnet_id"
            hint = "or write global.addressing, which gives every domain one"
            report.error(("domains", name), "missing-key", message, key=True, hint=hint)
    subnets = {name: ipaddress.IPv4Network(f"{base}.{number}.0/24") for number, name in taken.items()}
    if subnets and not next(iter(subnets.values())).is_private:
        message = f"addresses of {base}.0.0 belong to others: their owners cannot be reached from this host then"
        report.warn(("global", "base_subnet"), "public-subnet", message, hint="such as 10.100, 172.16 or 192.168")
    return {name: subnets[name] for name in domains if name in subnets}


def _machines(
    domain: str,
    machines: Mapping[str, Any],
    subnet: ipaddress.IPv4Network,
    addresses: dict[str, ipaddress.IPv4Address],
    report: Report,
) -> None:
    taken: dict[int, str] = {}
    for name, machine in machines.items():
        address = machine.get("ip")
        if address is not None and name not in addresses and _may_have(domain, name, address, subnet, taken, report):
            taken[int(address) & 0xFF] = name
            addresses[name] = address
    following = 1
    for name in machines:
        path = ("domains", domain, "machines", name)
        if name in addresses or report.source.has((*path, "ip")):
            continue
        while following in taken:
            following += 1
        if following > _LAST_STATIC:
            message = f"no address left for '{name}': {subnet} has .1 to .{_LAST_STATIC} for machines without an ip"
            report.error(path, "domain-full", message, key=True, hint="give it an ip, or put it into another domain")
            continue
        taken[following] = name
        addresses[name] = subnet[following]


def _may_have(
    domain: str,
    name: str,
    address: ipaddress.IPv4Address,
    subnet: ipaddress.IPv4Network,
    taken: Mapping[int, str],
    report: Report,
) -> bool:
    path = ("domains", domain, "machines", name, "ip")
    host = int(address) & 0xFF
    if address not in subnet:
        hint = f"'{domain}' has {subnet[1]} to {subnet[_LAST_STATIC]} for machines"
        report.error(path, "ip-outside-subnet", f"{address} is not in {subnet}, the subnet of '{domain}'", hint=hint)
    elif host == GATEWAY:
        report.error(path, "ip-is-gateway", f"{address} is the gateway of '{domain}'")
    elif host in (0, 255):
        report.error(path, "wrong-address", f"{address} is the {'network' if host == 0 else 'broadcast'} address")
    elif host in taken:
        report.error(path, "duplicate-ip", f"{address} is the address of '{taken[host]}' already")
    else:
        if host > _LAST_STATIC:
            why = (
                "given out by DHCP"
                if host in _DHCP
                else "kept for services"
                if host in _RESERVED
                else "not for machines"
            )
            hint = f"{subnet[1]} to {subnet[_LAST_STATIC]} are for machines"
            report.warn(path, "ip-reserved", f"{address} is {why}", hint=hint)
        return True
    return False
