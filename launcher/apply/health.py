"""Waits until a machine is healthy by its image's own healthcheck, and shows its journal when that does not come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, IncusError
from anklume_images.plaintext import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.incus.client import Incus
    from launcher.resources import Resource

__all__ = ["UnhealthyError", "wait_until_healthy"]

_PAUSE_SECONDS = 0.5
_TELL_SECONDS = 10.0
_COMMAND_SECONDS = 30.0
_DOWN_SECONDS = 10.0  # longer than a machine that restarts itself is down
_LINES = 20
_DOWN = "Instance is not running"
_JOURNAL = ["journalctl", "--boot", "--no-pager", "--output", "short", "--priority", "info", "--lines"]


class UnhealthyError(AnklumeError):
    """A machine whose healthcheck does not succeed; `tail` are the last lines of its journal, or of its console."""

    def __init__(self, message: str, *, tail: list[str], hint: str) -> None:
        super().__init__("\n".join([message, *(f"  | {line}" for line in tail)]), hint=hint)
        self.tail = tail


def wait_until_healthy(
    resource: Resource, incus: Incus, *, timeout: float | None = None, tell: Callable[[str], None] = lambda _text: None
) -> float:
    """Ask the healthcheck until it succeeds and return the seconds that took; UnhealthyError after its timeout.

    `incus` is a connection to the machine's project; `timeout` in seconds takes the place of the image's own. A
    machine whose image has no healthcheck is healthy when it runs.
    """
    healthcheck = (resource.image.spec.get("healthcheck") if resource.image else None) or None
    name = resource.machines[0]
    begun = told = time.monotonic()
    if healthcheck is None:
        return 0.0
    allowed = healthcheck["timeout"] if timeout is None else timeout
    said = ""
    ran = begun
    while True:
        healthy, said = _ask(resource.key.name, healthcheck["command"], incus)
        now = time.monotonic()
        if healthy:
            return now - begun
        if not said.endswith(_DOWN):
            ran = now
        elif now - ran > _DOWN_SECONDS:
            raise _ended(name, _console(resource.key.name, incus))
        if now - begun > allowed:
            raise UnhealthyError(
                f"{name} is not healthy after {allowed:g} s{f': {said}' if said else ''}",
                tail=_journal(resource.key.name, incus),
                hint=f"anklume-launch logs INFRA {name} shows more, anklume-launch doctor INFRA looks for causes",
            )
        if now - told > _TELL_SECONDS:
            tell(f"waiting for {name} to be healthy ({now - begun:.0f} of {allowed:g} s){f': {said}' if said else ''}")
            told = now
        time.sleep(_PAUSE_SECONDS)


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
    return result.code == 0, plain(words[-1][:200]) if words else ""


def _journal(instance: str, incus: Incus) -> list[str]:
    try:
        result = incus.execute(instance, [*_JOURNAL, str(_LINES)], timeout=_COMMAND_SECONDS)
    except IncusError as error:
        return [f"(its journal cannot be read: {error.message})"]
    return [plain(line) for line in result.stdout.decode(errors="replace").splitlines()[-_LINES:]]


def _console(instance: str, incus: Incus) -> list[str]:
    """The last lines of what it wrote before it ended; a journal can be read of running machines only."""
    try:
        lines = incus.read(f"instances/{instance}/console").decode(errors="replace").splitlines()
    except IncusError as error:
        return [f"(its console cannot be read: {error.message})"]
    return [plain(line) for line in lines if line.strip()][-_LINES:]
