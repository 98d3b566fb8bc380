"""Why the page cannot reach its engine, told from both ends of the connection; nothing is looked at here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from launcher.engines import PAGE, engines_of
from launcher.inspect.facts import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.engines.engine import Engine
    from launcher.infra.model import Infra, Machine
    from launcher.inspect.facts import EngineTest, MachineFacts

__all__ = ["allowed", "connection_findings"]

_RESOLVE = 6  # exit code of curl
_LOOPBACK = ("127.", "[::1]", "::1", "localhost")


@dataclass(frozen=True)
class _Why:
    cause: str
    remedy: str
    evidence: tuple[str, ...] = ()


def connection_findings(infra: Infra, page: MachineFacts, machines: Sequence[MachineFacts]) -> Iterator[Finding]:
    """A finding for each engine that did not answer."""
    for test in page.tests:
        if test.ok:
            continue
        why = _why(infra, page, test, machines)
        what = f"{PAGE.title} cannot reach its engine at {test.upstream.url}"
        reply = f"{test.upstream.probe} from inside {page.name}: {test.message}"
        evidence = (reply, f"{test.upstream.connection.url_variable}: {test.upstream.url}", *why.evidence)
        yield Finding("webui-cannot-reach-engine", "error", page.name, what, evidence, why.cause, why.remedy)


def _why(infra: Infra, page: MachineFacts, test: EngineTest, machines: Sequence[MachineFacts]) -> _Why:
    if test.code == 0:
        return _answered(test)
    host, port = _endpoint(test.upstream.url)
    if host.startswith(_LOOPBACK):
        return _itself(page, test, machines)
    machine = _at(host, machines)
    if machine is None:
        return _outside(infra, host, test)
    if not machine.seen.running:
        remedy = f"anklume-launch status {infra.file}, then apply"
        return _Why(f"the engine's machine {machine.name} is {machine.seen.state}", remedy)
    engine = _engine(machine, test)
    if engine is None:
        return _forbidden(infra, page, machine, port) or _unknown(machine, test)
    fault = _at_fault(machine, engine, port) or _forbidden(infra, page, machine, port)
    return fault or _dropped(infra, machine, port)


def _answered(test: EngineTest) -> _Why:
    connection = test.upstream.connection
    if test.status in (401, 403):
        cause = "the engine wants a key, and not this one"
        if connection.key_variable:
            return _Why(cause, f"set {connection.key_variable} to the engine's key")
        return _Why(cause, f"{PAGE.title} sends no key to {connection.url_variable}: correct the address")
    cause = f"something answers there, but not as an engine does (HTTP {test.status})"
    return _Why(cause, f"correct {connection.url_variable} and apply")


def _itself(page: MachineFacts, test: EngineTest, machines: Sequence[MachineFacts]) -> _Why:
    host, port = _endpoint(test.upstream.url)
    if engine := _engine(page, test):
        journal = _Why("the engine in the same machine does not answer", "look at its journal: anklume-launch logs")
        return _at_fault(page, engine, port) or journal
    variable, example = test.upstream.connection.url_variable, _example(machines, port)
    return _Why(
        f"{host} is the machine itself, and no engine is in it",
        f"set {variable} to the engine's machine, such as {example}, and apply",
    )


def _endpoint(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _example(machines: Sequence[MachineFacts], port: int) -> str:
    engines = [machine for machine in machines if machine.engine]
    return f"http://{engines[0].seen.machine.address}:{port}" if engines else f"http://ADDRESS:{port}"


def _at(host: str, machines: Sequence[MachineFacts]) -> MachineFacts | None:
    """The machine that has this address or name; Incus' name server knows instances as `NAME.incus` too."""
    for machine in machines:
        names = {machine.seen.instance, f"{machine.seen.instance}.incus"}
        if host == machine.seen.machine.address or host in machine.seen.addresses or host in names:
            return machine
    return None


def _outside(infra: Infra, host: str, test: EngineTest) -> _Why:
    variable = test.upstream.connection.url_variable
    other = next((machine for machine in infra.machines() if machine.address == host), None)
    if other is not None:
        return _Why(f"it is the machine {other.name}, which was not looked at", "run doctor without --only and --tags")
    if test.code == _RESOLVE:
        return _Why(f"nobody knows the name {host}", f"set {variable} to an address, or a name that resolves")
    return _Why(
        f"{host} is no machine of this file, and does not answer",
        f"correct {variable}; for a server elsewhere, see that it can be reached from the machine's network",
    )


def _engine(machine: MachineFacts, test: EngineTest) -> Engine | None:
    """The machine's engine: of several, the one that is used in the way that was tried."""
    engines = engines_of(machine.services)
    return next((engine for engine in engines if engine.connection == test.upstream.connection), machine.engine)


def _unknown(machine: MachineFacts, test: EngineTest) -> _Why:
    variable = test.upstream.connection.url_variable
    return _Why(
        f"{machine.name} offers no engine that is known here",
        f"set {variable} to a machine that has one, or see in {machine.name} what listens",
    )


def _forbidden(infra: Infra, page: MachineFacts, machine: MachineFacts, port: int) -> _Why | None:
    """That the file does not let the one reach the other."""
    source, target = page.seen.machine, machine.seen.machine
    if allowed(infra, source, target, port):
        return None
    policy = f"{{from: {source.domain}, to: {target.name}, ports: [{port}], protocol: tcp}}"
    cause = f"no network policy lets {source.domain} reach {machine.name} ({target.domain}) at port {port}"
    evidence = (_listens(machine, port),) if machine.engine else ()
    return _Why(cause, f"add to network_policies: {policy}, and apply", evidence)


def _dropped(infra: Infra, machine: MachineFacts, port: int) -> _Why:
    """The engine listens as it should, and may be reached."""
    return _Why(
        "the engine listens and the file allows it, so something between them drops the packets",
        f"anklume-launch plan {infra.file} shows what differs from the file (ACLs, addresses); look for a firewall "
        "on the host too",
        (_listens(machine, port),),
    )


def _at_fault(machine: MachineFacts, engine: Engine, port: int) -> _Why | None:
    """What is wrong at the engine's own end of the connection, if something is."""
    variable = engine.host_variable
    evidence = (_listens(machine, port), f"{variable} in {machine.name}: {machine.settings[variable]}")
    if not engine.enabled(machine.settings):
        cause = f"the engine in {machine.name} is switched off"
        return _Why(cause, f"set {engine.switch} to true and apply", (f"{engine.switch}: false",))
    hosts = [socket.rpartition(":")[0] for socket in _at_port(machine, port)]
    if not hosts:
        return _Why(
            f"nothing in {machine.name} listens at port {port}",
            f"look at its journal (anklume-launch logs), and compare {variable} with the address in the URL",
            evidence,
        )
    if all(host.startswith(_LOOPBACK) for host in hosts):
        cause = f"the engine in {machine.name} listens on loopback only"
        return _Why(cause, f"set {variable} to {engine.everywhere(port)} for {machine.name} and apply", evidence)
    return None


def _at_port(machine: MachineFacts, port: int) -> list[str]:
    return [socket for socket in machine.listening if socket.rpartition(":")[2] == str(port)]


def _listens(machine: MachineFacts, port: int) -> str:
    sockets = _at_port(machine, port) or machine.listening
    return f"listening in {machine.name}: {', '.join(sockets) or 'nothing'}"


def allowed(infra: Infra, source: Machine, target: Machine, port: int) -> bool:
    """Whether the file lets one machine reach a TCP port of another."""
    if source.domain == target.domain:
        return True
    source_names, target_names = {source.name, source.domain}, {target.name, target.domain}
    return any(
        policy.protocol == "tcp"
        and (not policy.ports or port in policy.ports)
        and (
            (policy.source in source_names and policy.destination in target_names)
            or (policy.bidirectional and policy.source in target_names and policy.destination in source_names)
        )
        for policy in infra.policies
    )
