"""Point each Open WebUI at its model server where nobody said which: in its own domain, else where policies let it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.specs.listen import OLLAMA_PORT, hosts, listen

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Collection, Mapping, Sequence

    from launcher.infra.entries import Entry
    from launcher.infra.images import Shelf
    from launcher.infra.model import ImageChoice, Policy

__all__ = ["wire"]

_OLLAMA_URL, _OLLAMA_ENABLED = "open_webui_ollama_url", "open_webui_ollama_enabled"
_OPENAI_URL, _OPENAI_KEY = "open_webui_openai_url", "open_webui_openai_key"

Variables = dict[str, dict[str, str]]


@dataclass(frozen=True)
class _Server:
    """A machine that serves models, and the port at which others reach it."""

    name: str
    domain: str
    address: str
    port: int


def wire(
    machines: Sequence[Entry],
    choices: Mapping[str, ImageChoice],
    addresses: Mapping[str, ipaddress.IPv4Address],
    policies: Sequence[Policy],
    variables: Variables,
    shelf: Shelf,
) -> list[str]:
    """Set the variables that nobody set, in `variables`, and say so: a line for each."""
    by_image: dict[str, list[Entry]] = {}
    for machine in machines:
        if machine.enabled:
            by_image.setdefault(str(choices[machine.name].store), []).append(machine)
    domains = {machine.domain for machine in machines}
    ollamas = _Reach(_servers("ollama_server", _ollama_port, by_image, addresses, variables, shelf), domains, policies)
    llamas = _Reach(_servers("llama_server", _llama_port, by_image, addresses, variables, shelf), domains, policies)
    lines: list[str] = []
    for image, users in by_image.items():
        if _OLLAMA_URL in shelf.variables(image) and "ollama_server" not in shelf.provided(
            image
        ):  # else its own is right
            for machine in users:
                lines += _wire_one(machine, ollamas, llamas, variables)
    return lines


def _servers(
    role: str,
    port: Callable[[Mapping[str, str], Mapping[str, str]], int | None],
    by_image: Mapping[str, Sequence[Entry]],
    addresses: Mapping[str, ipaddress.IPv4Address],
    variables: Variables,
    shelf: Shelf,
) -> list[_Server]:
    """The machines whose image provides a role, and which others can reach."""
    found = []
    for image, users in by_image.items():
        if role not in shelf.provided(image):
            continue
        defaults = {name: str(variable.default) for name, variable in shelf.variables(image).items()}
        for machine in users:
            number = port(variables[machine.name], defaults)
            if number is not None:
                found.append(_Server(machine.name, machine.domain, str(addresses[machine.name]), number))
    return found


def _wire_one(machine: Entry, ollamas: _Reach, llamas: _Reach, variables: Variables) -> list[str]:
    own = variables[machine.name]
    lines: list[str] = []
    if own.get(_OLLAMA_ENABLED) != "false":
        if _OLLAMA_URL in own:
            return []
        found, why = ollamas.of(machine)
        if len(found) == 1:
            own[_OLLAMA_URL] = f"http://{found[0].address}:{found[0].port}"
            return [f"'{machine.name}': {_OLLAMA_URL} is {own[_OLLAMA_URL]}, the Ollama of '{found[0].name}' ({why})"]
        if found:
            return [_undecided(machine, found, why, _OLLAMA_URL)]
    if _OPENAI_URL in own:
        return []
    found, why = llamas.of(machine)
    if len(found) == 1:
        own[_OPENAI_URL] = f"http://{found[0].address}:{found[0].port}/v1"
        lines.append(
            f"'{machine.name}': {_OPENAI_URL} is {own[_OPENAI_URL]}, llama-server of '{found[0].name}' ({why})"
        )
        own.setdefault(_OLLAMA_ENABLED, "false")
        key = variables[found[0].name].get("llama_server_api_key")
        if key and _OPENAI_KEY not in own:
            own[_OPENAI_KEY] = key
            lines.append(f"'{machine.name}': {_OPENAI_KEY} is the llama_server_api_key of '{found[0].name}'")
    elif found:
        lines.append(_undecided(machine, found, why, _OPENAI_URL))
    elif own.get(_OLLAMA_ENABLED) != "false":
        lines.append(
            f"'{machine.name}' reaches no model server of this file: set {_OLLAMA_URL}, or add a network policy to one"
        )
    return lines


def _undecided(machine: Entry, found: Sequence[_Server], why: str, variable: str) -> str:
    names = ", ".join(f"'{server.name}'" for server in found)
    first = f"http://{found[0].address}:{found[0].port}" + ("/v1" if variable == _OPENAI_URL else "")
    return (
        f"'{machine.name}' has a choice of {names} ({why}), and none was chosen: "
        f"set one in its vars, such as {variable}: {first}"
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

    def of(self, machine: Entry) -> tuple[list[_Server], str]:
        """The servers, and by what way they are reached."""
        near = [server for server in self._by_domain.get(machine.domain, ()) if server.name != machine.name]
        if near:
            return near, "same domain"
        found: dict[str, _Server] = {}
        for end in dict.fromkeys((machine.domain, machine.name)):
            for destination, policy in self._from.get(end, ()):
                for server in self._at(destination):
                    if not policy.ports or server.port in policy.ports:
                        found[server.name] = server
        return list(found.values()), "by a network policy"

    def _at(self, end: str) -> Sequence[_Server]:
        """The servers behind an end of a policy, which is a domain's name before it is a machine's."""
        if end in self._domains:
            return self._by_domain.get(end, ())
        return [self._by_name[end]] if end in self._by_name else []


def _ollama_port(own: Mapping[str, str], defaults: Mapping[str, str]) -> int | None:
    """The port of an Ollama that others reach."""
    if own.get("ollama_service_enabled") == "false":
        return None
    where = listen(own.get("ollama_host") or defaults.get("ollama_host") or f"0.0.0.0:{OLLAMA_PORT}")
    return where.port if where.served else None


def _llama_port(own: Mapping[str, str], defaults: Mapping[str, str]) -> int | None:
    """The port of a llama-server that others reach."""
    if own.get("llama_server_service_enabled") == "false":
        return None
    port = int(own.get("llama_server_port") or defaults.get("llama_server_port") or 8080)
    where = hosts(own.get("llama_server_host") or defaults.get("llama_server_host") or "0.0.0.0", port)  # noqa: S104
    return where.port if where.served else None
