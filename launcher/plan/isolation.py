"""The network ACL of each domain: what may come in, and what of the host may be reached.

Incus' bridges (doc/howto/network_acls of Incus) filter where traffic enters or leaves a bridge: within a domain nothing
is filtered. `ingress` is towards the instances and dropped by default; `egress` is let through by default, so the
internet stays. Replies always flow, and so do DHCP and DNS with the bridge's own dnsmasq. Drop beats allow whatever the
order, so an exception to a drop is written as the ports that it leaves out.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from launcher.infra.model import Domain, Infra, Policy

__all__ = ["HOST", "Isolation", "Rule"]

HOST = "host"
Rule = dict[str, str]
_PORTED = ("tcp", "udp")
_ALL_PORTS = (1, 65535)


class Isolation:
    """The rules of all domains of a file; `host_addresses` are the host's own beside its bridges'."""

    def __init__(self, infra: Infra, host_addresses: Sequence[str] = ()) -> None:
        self._infra = infra
        self._to_host = [policy for policy in _both_ways(infra.policies) if policy.destination == HOST]
        self._into: dict[str, list[tuple[Policy, str]]] = defaultdict(list)
        for policy in _both_ways(infra.policies):
            if policy.destination != HOST and (to := _end(infra, policy.destination)):
                self._into[to[0].name].append((policy, to[1]))
        gateways = {domain.gateway for domain in infra.domains.values() if domain.enabled}
        self._host = ",".join(f"{address}/32" for address in sorted(gateways | set(host_addresses)))

    def rules(self, domain: Domain) -> tuple[list[Rule], list[Rule]]:
        """Ingress and egress rules of a domain's ACL."""
        ingress = [
            rule
            for policy, destination in self._into.get(domain.name, ())
            for rule in _allow(self._infra, policy, domain, destination)
        ]
        return _sorted(ingress), _sorted(_towards_host(self._infra, self._to_host, domain, self._host))


def _both_ways(policies: Iterable[Policy]) -> Iterator[Policy]:
    for policy in policies:
        yield policy
        if policy.bidirectional:
            yield replace(policy, source=policy.destination, destination=policy.source)


def _end(infra: Infra, name: str) -> tuple[Domain, str] | None:
    """The domain and the addresses that an end of a policy means, which is not the host."""
    if name in infra.domains:
        domain = infra.domains[name]
        return (domain, domain.subnet) if domain.enabled else None
    machine = infra.machine(name)
    return (infra.domains[machine.domain], f"{machine.address}/32") if machine else None


def _allow(infra: Infra, policy: Policy, domain: Domain, destination: str) -> list[Rule]:
    """The rule by which a policy lets something into a domain; the host is there with the domain's own gateway."""
    source = f"{domain.gateway}/32"
    if policy.source != HOST:
        end = _end(infra, policy.source)
        if end is None or end[0].name == domain.name:
            return []  # not there, or never filtered
        source = end[1]
    rule = {"action": "allow", "source": source, "destination": destination, "state": "enabled"}
    if policy.description:
        rule["description"] = policy.description
    if policy.ports:
        rule |= {"protocol": policy.protocol, "destination_port": _ranges((port, port) for port in policy.ports)}
    return [rule]


def _towards_host(infra: Infra, to_host: Sequence[Policy], domain: Domain, host: str) -> list[Rule]:
    """Drop what goes to the host itself, but for what policies let through.

    An address of one machine cannot be excepted from a drop for all, so each set of ports is a rule per source.
    """
    whole = [policy for policy in to_host if policy.source == domain.name]
    single = {name: machine for name, machine in domain.machines.items() if name not in infra.domains}
    machines = sorted({policy.source for policy in to_host if policy.source in single})
    rules = _drops(host, whole, "" if not machines else _others(domain, [single[name].address for name in machines]))
    for name in machines:
        allowed = [*whole, *(policy for policy in to_host if policy.source == name)]
        rules += _drops(host, allowed, f"{single[name].address}/32")
    return rules


def _drops(host: str, allowed: list[Policy], source: str) -> list[Rule]:
    """Drop all to the host from a source but the ports of these policies."""
    if any(not policy.ports for policy in allowed):
        return []
    base = {"action": "drop", "destination": host, "state": "enabled"} | ({"source": source} if source else {})
    if not allowed:
        return [base]
    rules = [base | {"protocol": "icmp4"}]
    for protocol in _PORTED:
        ports = {port for policy in allowed if policy.protocol == protocol for port in policy.ports}
        if gaps := _gaps(ports):
            rules.append(base | {"protocol": protocol, "destination_port": _ranges(gaps)})
    return rules


def _others(domain: Domain, addresses: list[str]) -> str:
    """The domain's subnet without some addresses, as CIDR blocks."""
    blocks = [ipaddress.IPv4Network(domain.subnet)]
    for address in addresses:
        single = ipaddress.IPv4Network(f"{address}/32")
        blocks = [
            part
            for block in blocks
            for part in (block.address_exclude(single) if single.subnet_of(block) else (block,))
        ]
    return ",".join(str(block) for block in sorted(blocks))


def _gaps(ports: Iterable[int]) -> list[tuple[int, int]]:
    first, last = _ALL_PORTS
    gaps = []
    for port in sorted(ports):
        if first < port:
            gaps.append((first, port - 1))
        first = port + 1
    return [*gaps, (first, last)] if first <= last else gaps


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in sorted(ranges))


def _sorted(rules: list[Rule]) -> list[Rule]:
    """Each once, in an order of their own: Incus keeps what it is given, and a plan compares."""
    return [dict(rule) for rule in sorted({tuple(sorted(rule.items())) for rule in rules})]
