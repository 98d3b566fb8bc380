"""Which ports of a trial's machines are published on the host, and what they are called there; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.errors import AnklumeError
from anklume_images.nearest import nearest
from anklume_images.specs.listen import listen
from launcher.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.infra.model import Machine

__all__ = ["Publication", "PublishError", "environment_name", "parse", "publications"]

_PUBLISH = re.compile(r"([a-z0-9][a-z0-9-]*):([0-9]{1,5})(?:=([0-9]{1,5}))?")
_HIGHEST = 65535
_OF_ENGINES = {engine.host_variable: engine.port for engine in ENGINES.values()}


class PublishError(AnklumeError):
    """A `--publish` that cannot be read, or names no machine that is launched."""

    exit_code = 2


@dataclass(frozen=True)
class Publication:
    """A port of a machine; `host_port` is the one that somebody asked for, None for the same or any other."""

    machine: str
    port: int
    host_port: int | None = None


def parse(text: str) -> Publication:
    """`MACHINE:PORT` or `MACHINE:PORT=HOSTPORT`."""
    match = _PUBLISH.fullmatch(text)
    ports = [int(number) for number in match.groups()[1:] if number] if match else []
    if match is None or not all(1 <= port <= _HIGHEST for port in ports):
        raise PublishError(f"not a port of a machine: {text!r}", hint="write MACHINE:PORT or MACHINE:PORT=HOSTPORT")
    return Publication(match[1], *ports)


def publications(
    machines: Iterable[Machine], specs: Mapping[str, Mapping[str, Any]], asked: Iterable[Publication]
) -> tuple[Publication, ...]:
    """The ports that images declare, moved by the machines' variables, and those asked for besides.

    `specs` are the manifests' specs by machine.
    """
    machines = tuple(machines)
    ports = {
        (machine.name, port): Publication(machine.name, port)
        for machine in machines
        for port in _declared(machine, specs.get(machine.name, {}))
    }
    names = [machine.name for machine in machines]
    for publication in asked:
        if publication.machine not in names:
            close = nearest(publication.machine, names)
            raise PublishError(
                f"no machine {publication.machine!r} is launched",
                hint=f"did you mean '{close}'?" if close else f"there are: {', '.join(names)}",
            )
        ports[publication.machine, publication.port] = publication
    return tuple(ports.values())


def _declared(machine: Machine, spec: Mapping[str, Any]) -> list[int]:
    """A variable of type port or listen moves the port of its default."""
    moved = {}
    for name, variable in spec.get("variables", {}).items():
        if name in machine.variables and variable["type"] in ("port", "listen"):
            unsaid = _OF_ENGINES.get(name, 0)
            default = _port(variable["type"], str(variable.get("default") or ""), unsaid)
            moved[default] = _port(variable["type"], machine.variables[name], unsaid or default)
    return list(dict.fromkeys(moved.get(port, port) for port in spec.get("ports", ())))


def _port(kind: str, value: str, unsaid: int) -> int:
    """The port of a value; `unsaid` is the one at which a server listens where the value has none."""
    return listen(value, unsaid).port if kind == "listen" else int(value or 0)


def environment_name(machine: str) -> str:
    """A machine's name as part of an environment variable's: `open-webui` is OPEN_WEBUI."""
    return machine.upper().replace("-", "_")
