"""What commands upon a store could leave on the host: mounts, loop devices, processes with their namespaces, scratch.

A namespace lives as long as a process in it or a mount of it does, so those two tell of namespaces as well.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SECONDS = 10.0


def leftovers(folder: Path) -> dict[str, list[str]]:
    """Everything that has to do with a folder, in which the store is and from which its commands are started."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return {
        "mounts": [line for line in mounts if str(folder) in line],
        "loop devices": [
            str(path) for path in Path("/sys/block").glob("loop*/loop/backing_file") if _names(path, folder)
        ],
        "processes": processes(folder),
    }


def nothing_left(folder: Path) -> None:
    """Wait until nothing is left: the kernel takes a moment after a kill."""
    end = time.monotonic() + SECONDS
    while any((found := leftovers(folder)).values()):
        assert time.monotonic() < end, f"left behind: {found}"
        time.sleep(0.02)


def processes(folder: Path) -> list[str]:
    """Processes that were started in the folder, name it, or see it among their mounts, by pid and command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _concerns(entry, str(folder)):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{entry.name} {command}")
    return found


def _concerns(entry: Path, folder: str) -> bool:
    try:
        where = os.readlink(entry / "cwd")
        return where.startswith(folder) or any(
            folder.encode() in (entry / name).read_bytes() for name in ("cmdline", "mountinfo")
        )
    except OSError:
        return False  # it ended meanwhile


def _names(path: Path, folder: Path) -> bool:
    try:
        return str(folder) in path.read_text()
    except OSError:
        return False
