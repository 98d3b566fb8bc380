"""What a private Incus could leave on the host: looked for, and compared."""

from __future__ import annotations

import os
import time
from pathlib import Path

from launcher.private_incus.state_directory import PREFIX, cgroup_of

SECONDS = 20.0


def leftovers(parent: Path) -> dict[str, list[str]]:
    """Everything on the host that has to do with private Incuses whose folders are below `parent`."""
    return {
        "folders": [str(path) for path in sorted(parent.glob(f"{PREFIX}*"))],
        "cgroups": _cgroups(parent),
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(parent) in line],
        "loop devices": _loop_devices(parent),
        "processes": _processes(parent),
    }


def nothing_left(parent: Path, *, but_folders: bool = False) -> bool:
    """Wait until nothing is left (the kernel takes a moment after a kill); the folders are excepted on demand."""
    end = time.monotonic() + SECONDS
    while True:
        found = leftovers(parent)
        if but_folders:
            found |= {"folders": [], "cgroups": []}
        if not any(found.values()):
            return True
        if time.monotonic() > end:
            raise AssertionError(f"left behind: {found}")
        time.sleep(0.05)


def _cgroups(parent: Path) -> list[str]:
    found = [cgroup_of(parent / name) for name in seen_names(parent)]
    return [str(cgroup) for cgroup in found if cgroup and cgroup.exists()]


def seen_names(parent: Path) -> list[str]:
    """The names of all folders that any look saw there: cgroups and loop devices bear them, and may outlive them."""
    seen = SEEN.setdefault(str(parent), set())
    seen.update(path.name for path in parent.glob(f"{PREFIX}*"))
    return sorted(seen)


SEEN: dict[str, set[str]] = {}


def _loop_devices(parent: Path) -> list[str]:
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            text = backing.read_text()
        except OSError:
            continue  # it went away meanwhile
        if any(name in text for name in seen_names(parent)):  # of the path only the file's name is sure
            found.append(f"{backing}: {text.strip()}")
    return found


def _processes(parent: Path) -> list[str]:
    """Those named after the folder, and those inside: any whose root is not ours and whose mounts name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mounts = (entry / "mountinfo").read_text()
        except OSError:
            continue
        if f"{parent}/{PREFIX}" in command or (f"/{PREFIX}" in mounts and str(parent) in mounts):
            found.append(f"{entry.name}: {command}")
    return found
