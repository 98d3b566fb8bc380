"""`doctor`: evidence collected, troubles recognised in it, and both shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.console import human_size
from anklume_images.sanitize import sanitized
from launcher.infra.names import NIC
from launcher.inspect.collect import machine_facts, server_facts
from launcher.inspect.findings import machine_findings
from launcher.inspect.firewall import Bridge, filter_findings
from launcher.inspect.preflight import host_findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anklume_images.incus.client import Incus
    from launcher.gpu.driver import Driver
    from launcher.infra.model import Infra
    from launcher.inspect.facts import Finding, ServerFacts
    from launcher.inspect.images import ImageLookup
    from launcher.observe.instances import InstanceState

__all__ = ["Report", "as_json", "as_text", "examine", "examine_host"]


@dataclass(frozen=True)
class Report:
    """What was looked at, and what was found."""

    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing worse than a warning was found."""
        return not any(finding.severity == "error" for finding in self.findings)


def examine_host(host: ServerFacts, pool: str = "default") -> Report:
    """The host alone; `pool` is the one that has to be there."""
    return Report(_host_lines(host), tuple(host_findings(host, pool)))


def examine(incus: Incus, infra: Infra, instances: Sequence[InstanceState], book: ImageLookup) -> Report:
    """The host and these machines of a file."""
    host = server_facts(incus)
    machines = machine_facts(incus, infra, instances, book, host.cards)
    report = examine_host(host, infra.settings.storage_pool)
    looked = [f"{machine.name}: {machine.seen.state}" + _services(machine.services) for machine in machines]
    filters = filter_findings(host.filters, _bridges(infra, instances)) if host.filters else ()
    findings = (*report.findings, *filters, *machine_findings(infra, machines, host))
    return Report((*report.looked_at, *looked), findings)


def _bridges(infra: Infra, instances: Sequence[InstanceState]) -> tuple[Bridge, ...]:
    """The bridges of the domains whose machines are looked at and run."""
    bridges: dict[str, Bridge] = {}
    for seen in instances:
        network = (seen.devices.get(NIC) or {}).get("network")
        if seen.running and network and seen.machine.fixed_address:
            gateway = infra.domains[seen.machine.domain].gateway
            bridges.setdefault(network, Bridge(network, seen.machine.fixed_address, gateway))
    return tuple(bridges.values())


def _services(services: frozenset[str]) -> str:
    return f", {', '.join(sorted(services))}" if services else ""


def _host_lines(host: ServerFacts) -> tuple[str, ...]:
    if host.error:
        return (f"Incus: not reached at {host.address}",)
    lines = [f"Incus {host.version} at {host.address}"]
    for pool in host.pools:
        room = f", {human_size(pool.total - pool.used)} of {human_size(pool.total)} free" if pool.total else ""
        lines.append(f"pool {pool.name}: {pool.driver}, {pool.status or 'there'}{room}")
    used, total = host.memory
    if total:
        lines.append(f"memory: {human_size(total - used)} of {human_size(total)} free")
    lines += [
        f"card {card.pci}: {card.model}, driver {card.driver or 'none'} {card.driver_version}".rstrip()
        for card in host.cards
    ]
    if host.driver is None:
        lines.append("the host's own files: out of reach from here, not looked at")
    elif any(card.is_nvidia for card in host.cards):
        lines += _driver_lines(host, host.driver)
    return tuple(lines)


def _driver_lines(host: ServerFacts, driver: Driver) -> Iterator[str]:
    """NVIDIA's driver, and where its libraries have not been found the tools that could do without."""
    folders = ", ".join(folder.path for folder in driver.folders)
    found = f"libraries {', '.join(driver.libraries)} in {folders}" if folders else "no libraries found"
    yield f"NVIDIA's driver: module {driver.module or 'not loaded'}, {found}"
    yield from (f"passed over: {text}" for text in driver.passed_over)
    if host.container_tools or not folders:
        words = {True: "there", False: "missing"}
        yield f"nvidia-container-cli: {words[bool(host.container_tools)]}, LXC hook: {words[bool(host.lxc_hook)]}"


def as_json(report: Report) -> dict[str, Any]:
    """The document of `doctor --json`."""
    findings = [asdict(finding) | {"evidence": list(finding.evidence)} for finding in report.findings]
    return {"ok": report.ok, "looked_at": list(report.looked_at), "findings": findings}


def as_text(report: Report) -> str:
    """For people."""
    lines = [f"looked at  {line}" for line in report.looked_at]
    for finding in report.findings:
        lines += ["", f"{finding.severity}: {finding.subject}: {finding.what} [{finding.code}]"]
        lines += [f"  seen    {sanitized(line)}" for line in finding.evidence]
        lines += [f"  cause   {finding.cause}", f"  remedy  {finding.remedy}"]
    errors = sum(finding.severity == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    counts = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    lines += ["", counts if report.findings else "no trouble found"]
    return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
