"""A program that runs a command which is killed when the caller is, whatever killed that."""

from __future__ import annotations

import os
import sys

from anklume_images import linux

__all__ = ["main"]


def main() -> None:
    """Arguments: the caller's pid, then the command; 127 when there is no such command, as shells have it."""
    caller, command = int(sys.argv[1]), sys.argv[2:]
    linux.die_with_parent(caller)
    try:
        os.execvp(command[0], command)  # noqa: S606 - that there is no shell is the point
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
