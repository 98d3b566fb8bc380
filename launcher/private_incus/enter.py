"""A program that runs a command inside the namespaces of a private Incus.

Arguments: pid of its pid 1, `all` or `net`, then the command. `net` changes only the network, for programs that
live on the host (Python) but must reach addresses inside.
"""

from __future__ import annotations

import os
import signal
import sys

from anklume_images import linux

__all__ = ["main"]


def main() -> None:
    """Enter and run; ends with the command's exit code, and ends the command when it is killed itself."""
    pid, which, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    linux.die_with_parent(os.getppid())
    target = os.pidfd_open(pid)
    if which == "net":
        linux.setns(target, linux.NEWNET)
        _execute(command)
    namespaces = linux.NEWNS | linux.NEWPID | linux.NEWNET | linux.NEWUTS | linux.NEWIPC | linux.NEWCGROUP
    linux.setns(target, namespaces)  # the pid namespace is for children only
    child = os.fork()
    if child == 0:
        linux.die_with_parent(0)
        _execute(command)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command gets it too, and decides
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else 128 - code)


def _execute(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)  # noqa: S606 - that there is no shell is the point
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        os._exit(127)
