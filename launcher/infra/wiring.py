"""Point each page at its engine where nobody said which: in its own domain, else where policies let it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.specs.values import value_text
from launcher.engines import ENGINES, PAGE
from launcher.engines.settings import Settings

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Collection, Mapping, Sequence

    from launcher.engines.engine import Engine
    from launcher.engines.page import Connection
    from launcher.infra.entries import WrittenMachine
    from launcher.infra.images import ImageIndex
    from launcher.infra.model import ImageChoice, Policy

__all__ = ["wire"]

Variables = dict[str, dict[str, str]]


@dataclass(frozen=True)
class _Server:
    """A machine that serves models, the engine that does, and the port at which others reach it."""

    engine: Engine
    name: str
    domain: str
    address: str
    port: int

    @property
    def url(self) -> str:
        """What the page is told."""
        return self.engine.connection.url(self.address, self.port)


def wire(
    machines: Sequence[WrittenMachine],
    choices: Mapping[str, ImageChoice],
    addresses: Mapping[str, ipaddress.IPv4Address],
    policies: Sequence[Policy],
    variables: Variables,
    shelf: ImageIndex,
) -> list[str]:
    """Set the variables that nobody set, in `variables`, and say so: a line for each."""
    by_image: dict[str, list[WrittenMachine]] = {}
    for machine in machines:
        if machine.enabled:
            by_image.setdefault(str(choices[machine.name].store), []).append(machine)
    domains = {machine.domain for machine in machines}
    servers = _servers(by_image, addresses, variables, shelf)
    reaches = {
        connection: _Reach([server for server in servers if server.engine.connection == connection], domains, policies)
        for connection in PAGE.connections
    }
    usual = PAGE.connections[0]
    lines: list[str] = []
    for image, users in by_image.items():
        provided = shelf.provided(image)
        has_engine = any(engine.role in provided for engine in ENGINES.values() if engine.connection == usual)
        if usual.url_variable in shelf.variables(image) and not has_engine:  # else its own is right
            for machine in users:
                lines += _wire_one(machine, reaches, variables)
    return lines


def _servers(
    by_image: Mapping[str, Sequence[WrittenMachine]],
    addresses: Mapping[str, ipaddress.IPv4Address],
    variables: Variables,
    shelf: ImageIndex,
) -> list[_Server]:
    """The machines whose image provides an engine, and which others can reach."""
    servers = []
    for engine in ENGINES.values():
        for image, users in by_image.items():
            if engine.role not in shelf.provided(image):
                continue
            texts = {name: value_text(variable.default) for name, variable in shelf.variables(image).items()}
            declared = {name: text for name, text in texts.items() if text}
            for machine in users:
                port = engine.served_port(Settings(variables[machine.name], {**engine.defaults, **declared}))
                if port is not None:
                    address = str(addresses[machine.name])
                    servers.append(_Server(engine, machine.name, machine.domain, address, port))
    return servers


def _wire_one(machine: WrittenMachine, reaches: Mapping[Connection, _Reach], variables: Variables) -> list[str]:
    """Take the first connection by which something is reached."""
    settings = variables[machine.name]
    used = [
        connection for connection in reaches if not (connection.switch and settings.get(connection.switch) == "false")
    ]
    for connection in used:
        if connection.url_variable in settings:
            return []
        servers, why = reaches[connection].of(machine)
        if len(servers) == 1:
            return _connect(machine, servers[0], why, variables)
        if servers:
            return [_undecided(machine, servers, why)]
    usual = PAGE.connections[0]
    if usual not in used:
        return []
    instead = f"set {usual.url_variable}, or add a network policy to one"
    return [f"'{machine.name}' reaches no model server of this file: {instead}"]


def _connect(machine: WrittenMachine, server: _Server, why: str, variables: Variables) -> list[str]:
    """Name the server to the page, with its key, and turn off what is not used."""
    settings = variables[machine.name]
    engine, connection = server.engine, server.engine.connection
    settings[connection.url_variable] = server.url
    lines = [f"'{machine.name}': {connection.url_variable} is {server.url}, {engine.title} of '{server.name}' ({why})"]
    for other in PAGE.connections:
        if other != connection and other.switch:
            settings.setdefault(other.switch, "false")
    key = variables[server.name].get(engine.key_variable)
    if key and connection.key_variable and connection.key_variable not in settings:
        settings[connection.key_variable] = key
        lines.append(f"'{machine.name}': {connection.key_variable} is the {engine.key_variable} of '{server.name}'")
    return lines


def _undecided(machine: WrittenMachine, servers: Sequence[_Server], why: str) -> str:
    names = ", ".join(f"'{server.name}'" for server in servers)
    return (
        f"'{machine.name}' has a choice of {names} ({why}), and none was chosen: "
        f"set one in its vars, such as {servers[0].engine.connection.url_variable}: {servers[0].url}"
    )


class _Reach:
    """The servers that a machine reaches: those of its own domain, else those that policies let it to."""

    def __init__(self, servers: Sequence[_Server], domains: Collection[str], policies: Sequence[Policy]) -> None:
        self._domains = domains
        self._by_name = {server.name: server for server in servers}
        self._by_domain: dict[str, list[_Server]] = {}
        for server in servers:
            self._by_domain.setdefault(server.domain, []).append(server)
        self._from: dict[str, list[tuple[str, Policy]]] = {}
        for policy in policies:
            if policy.protocol == "tcp" or not policy.ports:
                self._from.setdefault(policy.source, []).append((policy.destination, policy))
                if policy.bidirectional:
                    self._from.setdefault(policy.destination, []).append((policy.source, policy))

    def of(self, machine: WrittenMachine) -> tuple[list[_Server], str]:
        """The servers, and by what way they are reached."""
        near = [server for server in self._by_domain.get(machine.domain, ()) if server.name != machine.name]
        if near:
            return near, "same domain"
        servers: dict[str, _Server] = {}
        for end in dict.fromkeys((machine.domain, machine.name)):
            for destination, policy in self._from.get(end, ()):
                for server in self._at(destination):
                    if not policy.ports or server.port in policy.ports:
                        servers[server.name] = server
        return list(servers.values()), "by a network policy"

    def _at(self, end: str) -> Sequence[_Server]:
        """The servers behind an end of a policy, which is a domain's name before it is a machine's."""
        if end in self._domains:
            return self._by_domain.get(end, ())
        return [self._by_name[end]] if end in self._by_name else []
