"""`shell`: a command in a machine, with the caller's terminal where there is one.

The `incus` client is used where it is installed. Elsewhere the API's websockets do the same; without a terminal the
server records the output, which loses nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from anklume_images.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.incus.client import Incus
    from launcher.observe.instances import InstanceState

__all__ = ["LOGIN", "client_command", "run"]

# Debian's root has bash; the smallest images have sh only.
LOGIN = ("/bin/sh", "-c", "cd; if [ -x /bin/bash ]; then exec /bin/bash -l; fi; exec /bin/sh -l")


def run(incus: Incus, seen: InstanceState, command: Sequence[str], remote: str | None) -> int:
    """Run a command, a login shell when none is given, and return its exit code."""
    terminal = os.isatty(0) and os.isatty(1)
    if not command and not terminal:
        raise HostError("a shell needs a terminal", hint="name a command behind --, and its output is passed on")
    if not terminal:
        return _recorded(incus, seen, command)
    command = tuple(command) or LOGIN
    client = shutil.which("incus")
    if client:
        sys.stdout.flush()
        incus.close()
        argv = client_command(client, seen, command, remote)
        os.execv(argv[0], argv)  # noqa: S606 - the client takes this process' place: signals, terminal, exit code
    from anklume_images.incus.terminal import run_in_terminal

    environment = {"TERM": os.environ.get("TERM", "dumb")}
    return run_in_terminal(incus.within(seen.project), seen.instance, command, environment)


def client_command(client: str, seen: InstanceState, command: Sequence[str], remote: str | None) -> list[str]:
    """The `incus exec` that does the same."""
    name = f"{remote.removesuffix(':')}:{seen.instance}" if remote else seen.instance
    return [client, "exec", "--project", seen.project, name, "--", *command]


def _recorded(incus: Incus, seen: InstanceState, command: Sequence[str]) -> int:
    result = incus.within(seen.project).execute(seen.instance, command)
    for stream, content in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
        stream.flush()
        stream.buffer.write(content)
        stream.buffer.flush()
    return result.code
