"""Rules that are about more than one key: names, references, policies, AI access, privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.infra.entries import written_names
from launcher.infra.host import shadowed
from launcher.infra.model import Policy
from launcher.infra.report import shown
from launcher.infra.schema import INFRA
from launcher.infra.security import PRIVILEGED

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Collection, Mapping, Sequence

    from launcher.infra.entries import WrittenMachine
    from launcher.infra.host import HostFacts
    from launcher.infra.names import Names
    from launcher.infra.report import Report

__all__ = [
    "ai_access",
    "check_domains",
    "check_firewall",
    "check_machines",
    "check_required",
    "check_subnets",
    "policies",
]

_AI_DOMAIN = "ai-tools"
_LONGEST_NAME = 63  # a label of DNS


def check_required(data: Mapping[Any, Any], report: Report) -> None:
    """The keys that must be written, though they may be empty."""
    for key, info in INFRA.infos().items():
        if info.present and key not in data:
            report.error((), "missing-key", f"missing key '{key}'", hint=f"write '{key}: {{}}'")


def check_domains(domains: Mapping[str, Any], names: Names, report: Report) -> None:
    """Names of Incus' own, and bridges that would have one name."""
    bridges: dict[str, str] = {}
    for name in domains:
        if names.project(name) == "default":
            message = "a domain cannot be called 'default': that project is Incus' own"
            report.error(("domains", name), "reserved-name", message, key=True)
        if name == "host":
            message = "a domain cannot be called 'host': in policies that is the Incus host"
            report.error(("domains", name), "reserved-name", message, key=True)
        other = bridges.setdefault(names.network(name), name)
        if other != name:
            message = f"the bridge of '{name}' would have the name of that of '{other}'"
            report.error(("domains", name), "same-network-name", message, key=True, hint="choose another name")


def check_subnets(subnets: Mapping[str, ipaddress.IPv4Network], host: HostFacts, names: Names, report: Report) -> None:
    """No subnet may be one that the host has itself; the bridges of this very file may be there already."""
    bridges = {names.network(name) for name in subnets}
    foreign = [(interface, network) for interface, network in host.networks if interface not in bridges]
    for name, subnet in subnets.items():
        for interface, network in foreign:
            if subnet.overlaps(network):
                message = f"the subnet of '{name}', {subnet}, overlaps {network} of this host's {shown(interface)}"
                hint = "set another subnet_id, or global.addressing.zone_base"
                report.error(("domains", name), "subnet-overlaps-host", message, key=True, hint=hint)
                break
        else:
            if route := shadowed(subnet, host.routes, bridges):
                message = f"the subnet of '{name}', {subnet}, and this host's route {route[1]} over {shown(route[0])}"
                message += " have addresses in common: of these, the host reaches only the machines, or none of them"
                hint = "set another subnet_id, or global.addressing.zone_base"
                report.warn(("domains", name), "subnet-shadows-route", message, key=True, hint=hint)


def check_machines(
    machines: Sequence[WrittenMachine], host: HostFacts, names: Names, *, yolo: bool, report: Report
) -> None:
    """Unique names, known profiles, and what a container may be trusted with."""
    seen: dict[str, str] = {}
    for machine in machines:
        first = seen.setdefault(machine.name, machine.domain)
        if first != machine.domain:
            message = f"a machine '{machine.name}' is in '{first}' too"
            report.error(machine.path, "duplicate-machine", message, key=True)
        if len(names.instance(machine.name)) > _LONGEST_NAME:
            message = f"the instance of '{machine.name}' would have more than {_LONGEST_NAME} characters in its name"
            report.error(machine.path, "wrong-name", message, key=True)
        if machine.name == "host":
            message = "a machine cannot be called 'host': in policies that is the Incus host"
            report.error(machine.path, "reserved-name", message, key=True)
        _check_profiles(machine, report)
        _check_container(machine, host, yolo=yolo, report=report)


def _check_profiles(machine: WrittenMachine, report: Report) -> None:
    written = report.source.data["domains"][machine.domain].get("profiles")
    known = {"default", *(str(name) for name in (written if isinstance(written, dict) else ()))}
    for index, name in machine.data.get("profiles", ()):
        if name not in known:
            message = f"the domain '{machine.domain}' has no profile {shown(name)}"
            hint = report.did_you_mean(name, known)
            report.error((*machine.path, "profiles", index), "unknown-profile", message, hint=hint)


def _check_container(machine: WrittenMachine, host: HostFacts, *, yolo: bool, report: Report) -> None:
    if machine.is_vm:
        return
    privileged = machine.is_set(PRIVILEGED)
    if privileged and not host.vm_nested:
        message = f"the container '{machine.name}' is privileged: root in it is root on the host"
        if yolo or host.yolo:
            report.warn(privileged, "privileged", message, key=True)
        else:
            report.error(privileged, "privileged", message, key=True, hint="make it type: vm, or let it pass: --yolo")
    trust = machine.of.get("trust_level")
    if trust in ("untrusted", "disposable") and machine.enabled:
        message = (
            f"'{machine.name}' is a container in the {trust} domain '{machine.domain}': it shares the host's kernel"
        )
        report.warn(machine.path, "container-in-untrusted", message, key=True, hint="type: vm isolates better")


def policies(
    written: Sequence[tuple[int, Mapping[str, Any]]],
    domains: Mapping[str, Any],
    machines: Sequence[WrittenMachine],
    report: Report,
) -> list[Policy]:
    """The network policies; one whose end is disabled has nothing to let through and is left out."""
    names, machine_names = written_names(report.source.data)
    known = {"host"} | names | machine_names
    disabled = {name for name, domain in domains.items() if not domain["enabled"]}
    disabled |= {machine.name for machine in machines if not machine.enabled and machine.name not in names}
    kept = []
    for index, policy in written:
        ends = [_end(index, key, policy, known, disabled, report) for key in ("from", "to")]
        if all(ends):
            protocol = ("network_policies", index, "protocol")
            if report.source.has(protocol) and protocol not in report.wrong and not policy["ports"]:
                message = "protocol means nothing with all ports: every protocol is let through"
                report.warn(protocol, "protocol-of-all", message, key=True)
            kept.append(
                Policy(
                    source=policy["from"],
                    destination=policy["to"],
                    ports=policy["ports"],
                    protocol=policy["protocol"],
                    bidirectional=policy["bidirectional"],
                    description=policy["description"],
                )
            )
    return kept


def _end(
    index: int,
    key: str,
    policy: Mapping[str, Any],
    known: Collection[str],
    disabled: Collection[str],
    report: Report,
) -> bool:
    """Whether an end of a policy is there."""
    end, path = policy.get(key), ("network_policies", index, key)
    if end is None:
        return False
    if end not in known:
        hint = report.did_you_mean(end, known) or "a domain, a machine, or host"
        report.error(path, "unknown-end", f"no domain or machine is called {shown(end)}", hint=hint)
        return False
    if end in disabled:
        report.warn(path, "disabled-end", f"{shown(end)} is disabled: the policy is left out")
        return False
    return True


def ai_access(
    settings: Mapping[str, Any],
    written: Sequence[tuple[int, Mapping[str, Any]]],
    domains: Mapping[str, Any],
    report: Report,
) -> list[Policy]:
    """What `ai_access_policy: exclusive` demands, and the one policy that it makes where the file has none."""
    if settings["ai_access_policy"] != "exclusive":
        return []
    names, _ = written_names(report.source.data)
    default: str | None = settings.get("ai_access_default")
    here = ("global", "ai_access_policy")
    if default is None and not report.source.has(("global", "ai_access_default")):
        message = "ai_access_policy: exclusive needs ai_access_default, the domain that has access"
        report.error(here, "ai-access-default", message, key=True)
    elif default == _AI_DOMAIN:
        message = f"ai_access_default must be another domain than '{_AI_DOMAIN}'"
        report.error(("global", "ai_access_default"), "ai-access-default", message)
    elif default is not None and default not in names:
        message, hint = f"no domain is called {shown(default)}", report.did_you_mean(default, names)
        report.error(("global", "ai_access_default"), "ai-access-default", message, hint=hint)
    if _AI_DOMAIN not in names:
        message = f"ai_access_policy: exclusive needs a domain '{_AI_DOMAIN}'"
        report.error(here, "ai-access-domain", message, key=True)
    leading = [index for index, policy in written if policy.get("to") == _AI_DOMAIN]
    for index in leading[1:]:
        message = f"a second policy to '{_AI_DOMAIN}': ai_access_policy: exclusive allows one"
        hint = f"the first is network_policies[{leading[0]}]"
        report.error(("network_policies", index, "to"), "ai-access-policies", message, hint=hint)
    enabled = [name for name, domain in domains.items() if domain["enabled"]]
    if leading or default not in enabled or _AI_DOMAIN not in enabled:
        return []
    report.notices.append(
        f"ai_access_policy: exclusive lets '{default}' and '{_AI_DOMAIN}' reach each other on all ports"
    )
    words = "ai_access_policy: exclusive"
    return [Policy(str(default), _AI_DOMAIN, bidirectional=True, description=words)]


def check_firewall(settings: Mapping[str, Any], report: Report) -> None:
    """The framework would make a virtual machine that routes; here Incus itself keeps domains apart."""
    if settings["firewall_mode"] == "vm":
        message = "no firewall machine is made: the ACLs of Incus keep domains apart"
        report.warn(("global", "firewall_mode"), "firewall-not-made", message)
