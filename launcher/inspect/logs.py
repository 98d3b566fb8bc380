"""`logs`: the journal of a machine that runs, the last words of one that does not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anklume_images.errors import HostError, IncusError
from anklume_images.sanitize import sanitized
from launcher.observe.instances import MISSING, NOT_OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.incus.client import Incus
    from launcher.inspect.guest import Guest
    from launcher.observe.instances import InstanceState

__all__ = ["follow", "journal", "last_words", "require_ours"]

_CURSOR = "-- cursor: "
_POLL_SECONDS = 0.5
_FILES = ("lxc.log", "qemu.log")  # of a container, of a virtual machine


def require_ours(seen: InstanceState) -> None:
    """IncusError when there is no instance, or one that is not of this file."""
    where = f"{seen.instance} in the project {seen.project}"
    if seen.state == MISSING:
        file = seen.machine.where.partition(":")[0]
        raise IncusError(f"{seen.machine.name} was never launched", where=where, hint=f"anklume-launch {file}")
    if seen.state == NOT_OURS:
        raise IncusError(f"{seen.machine.name} is an instance that this file did not make", where=where)


def journal(inside: Guest, lines: int, unit: str | None = None, after: str | None = None) -> tuple[str, str | None]:
    """Lines of the journal, and the cursor behind them; all that follow the cursor `after` when one is given."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", "--show-cursor"]
    command.append(f"--after-cursor={after}" if after else f"--lines={lines}")
    if unit:
        command.append(f"--unit={unit}")
    result = inside.run(*command, timeout=60)
    if result.code:
        output = (result.stderr or result.stdout).decode(errors="replace").strip()
        raise HostError(f"the journal cannot be read: {output or f'journalctl ended with {result.code}'}")
    text = result.stdout.decode(errors="replace")
    body, separator, cursor = text.rpartition(_CURSOR)
    return (body, cursor.strip()) if separator else (text, after)


def follow(inside: Guest, lines: int, unit: str | None = None) -> Iterator[str]:
    """The journal, and then what is added to it, without an end."""
    cursor = None
    while True:
        text, cursor = journal(inside, lines, unit, cursor)
        if text:
            yield text
        time.sleep(_POLL_SECONDS)


def last_words(incus: Incus, seen: InstanceState, lines: int) -> str:
    """What the console said, and below it the log of the last start; both bounded."""
    project = incus.within(seen.project)
    sections = []
    for title in ("console", *_FILES):
        try:
            log = (
                project.console_log(seen.instance) if title == "console" else project.instance_log(seen.instance, title)
            )
            text = log.decode(errors="replace")
        except IncusError:  # there is none
            continue
        kept = [sanitized(line.rstrip()) for line in text.replace("\0", "").splitlines() if line.strip()][-lines:]
        if kept:
            sections.append("\n".join([f"-- {title} --", *kept]))
    return "\n".join(sections)
