"""Waits until a machine is healthy by its image's own healthcheck and has its address; shows its journal otherwise."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, IncusError
from anklume_images.sanitize import sanitized
from launcher.infra.names import NIC
from launcher.observe.live import addresses_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.incus.client import Incus
    from launcher.resources import Resource

__all__ = ["UnhealthyError", "wait_for_address", "wait_until_healthy"]

_PAUSE_SECONDS = 0.5
_TELL_SECONDS = 10.0
_COMMAND_SECONDS = 30.0
_ADDRESS_SECONDS = 60.0  # for a machine whose image has no healthcheck
_DOWN_SECONDS = 10.0  # longer than a machine that restarts itself is down
_LINES = 20
_DOWN = "Instance is not running"
_JOURNAL = ["journalctl", "--boot", "--no-pager", "--output", "short", "--priority", "info", "--lines"]


class UnhealthyError(AnklumeError):
    """A machine whose healthcheck does not succeed; `tail` are the last lines of its journal, or of its console.

    `has_no_network` says that it lacks nothing but an address, and has none at all.
    """

    def __init__(self, message: str, *, tail: list[str], hint: str, has_no_network: bool = False) -> None:
        super().__init__("\n".join([message, *(f"  | {line}" for line in tail)]), hint=hint)
        self.tail = tail
        self.has_no_network = has_no_network


def wait_until_healthy(
    resource: Resource, incus: Incus, *, timeout: float | None = None, tell: Callable[[str], None] = lambda _text: None
) -> float:
    """Ask until a machine is well and return the seconds that took; UnhealthyError after the healthcheck's timeout.

    Well is a machine whose healthcheck succeeds and that has its address. `incus` is a connection to its project;
    `timeout` in seconds takes the place of the image's own, which is 60 when the image has no healthcheck.
    """
    healthcheck = (resource.image.spec.get("healthcheck") if resource.image else None) or None
    command = healthcheck["command"] if healthcheck else None
    return _wait(resource, command, incus, timeout or (healthcheck or {}).get("timeout", _ADDRESS_SECONDS), tell)


def wait_for_address(resource: Resource, incus: Incus, *, tell: Callable[[str], None] = lambda _text: None) -> None:
    """Wait until a running machine has its address, at most a minute; UnhealthyError after that."""
    _wait(resource, None, incus, _ADDRESS_SECONDS, tell)


def _wait(
    resource: Resource, command: list[str] | None, incus: Incus, allowed: float, tell: Callable[[str], None]
) -> float:
    name = resource.machines[0]
    begun = told = ran = time.monotonic()
    while True:
        healthy, why = (True, "") if command is None else _ask(resource.key.name, command, incus)
        has_no_network = False
        if healthy:
            healthy, why, has_no_network = _has_address(resource, incus)
        now = time.monotonic()
        if healthy:
            return now - begun
        if not why.endswith(_DOWN):
            ran = now
        elif now - ran > _DOWN_SECONDS:
            raise _ended(name, _console(resource.key.name, incus))
        if now - begun > allowed:
            raise UnhealthyError(
                f"{name} is not healthy after {allowed:g} s{f': {why}' if why else ''}",
                tail=_journal(resource.key.name, incus),
                hint=f"anklume-launch logs INFRA {name} shows more, anklume-launch doctor INFRA looks for causes",
                has_no_network=has_no_network,
            )
        if now - told > _TELL_SECONDS:
            tell(f"waiting for {name} to be healthy ({now - begun:.0f} of {allowed:g} s){f': {why}' if why else ''}")
            told = now
        time.sleep(_PAUSE_SECONDS)


def _has_address(resource: Resource, incus: Incus) -> tuple[bool, str, bool]:
    """Whether a machine has the address that it is to have, what it has instead, and whether it has none at all."""
    address = (resource.body["devices"].get(NIC) or {}).get("ipv4.address")
    if not address:
        return True, "", False
    try:
        state = incus.instance_state(resource.key.object)
    except IncusError as error:  # the daemon may be starting again
        return False, error.message, False
    if state["status"] != "Running":
        return False, _DOWN, False
    addresses = addresses_of(state)
    why = f"its address is {', '.join(addresses) or 'none'}, and has to be {address}"
    return address in addresses, why, not addresses


def _ended(name: str, tail: list[str]) -> UnhealthyError:
    hint = "anklume-launch doctor INFRA looks for causes"
    if any("Too many open files" in line for line in tail):  # all containers of a host share the limit
        hint = "let the host's containers watch more files: sysctl fs.inotify.max_user_instances=8192"
    return UnhealthyError(f"{name} was started and has ended again", tail=tail, hint=hint)


def _ask(instance: str, command: list[str], incus: Incus) -> tuple[bool, str]:
    try:
        result = incus.execute(instance, command, timeout=_COMMAND_SECONDS)
    except IncusError as error:  # it is still starting, or has ended again
        return False, error.message
    words = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
    return result.code == 0, sanitized(words[-1][:200]) if words else ""


def _journal(instance: str, incus: Incus) -> list[str]:
    """The last lines of its journal; of its console where it has none, as small images of others do."""
    try:
        result = incus.execute(instance, [*_JOURNAL, str(_LINES)], timeout=_COMMAND_SECONDS)
    except IncusError:
        return _console(instance, incus)
    return [sanitized(line) for line in result.stdout.decode(errors="replace").splitlines()[-_LINES:]]


def _console(instance: str, incus: Incus) -> list[str]:
    """The last lines of what it wrote on its console since its start."""
    try:
        lines = incus.console_log(instance).decode(errors="replace").splitlines()
    except IncusError as error:
        return [f"(its console cannot be read: {error.message})"]
    return [sanitized(line) for line in lines if line.strip()][-_LINES:]
