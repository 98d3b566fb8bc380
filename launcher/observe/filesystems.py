"""On which file system of the host a folder lies, and whether its owners can be shown to a container as its own.

Containers of today see the host's folders through idmapped mounts (mount_setattr(2)), which a file system has to take
part in; network file systems, FUSE and overlays do not.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Mount", "filesystem_of", "mounts_of", "shifts"]

_FIXED = re.compile(r"nfs|nfs4|cifs|smb3|9p|fuse|fuseblk|fuse\..+|overlay|aufs|ecryptfs|afs|ncpfs|vboxsf|lustre|gfs2")


@dataclass(frozen=True)
class Mount:
    """One line of /proc/<pid>/mountinfo: device (`8:1`), mount point and type, as in proc(5)."""

    device: str
    point: str
    type: str


def shifts(kind: str) -> bool:
    """Whether a file system may be mounted with other owners; the kernel has the last word on those that may."""
    return _FIXED.fullmatch(kind) is None


def mounts_of(text: str) -> list[Mount]:
    """The mounts of a process in the order in which they were made: a later one hides an earlier one."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) >= 5 and after.split():
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), words[4])
            mounts.append(Mount(words[2], point, after.split()[0]))
    return mounts


def filesystem_of(root: Path, folder: str) -> str | None:
    """The type of file system that a folder of a daemon's host lies on, or will; None where that cannot be seen.

    `root` is the daemon's, `/proc/<pid>/root`. A folder that is not there yet will be on its nearest parent's.
    """
    try:
        mounts = mounts_of((root.parent / "mountinfo").read_text("utf-8", errors="surrogateescape"))
    except OSError:
        return None
    return _by_device(root, folder, mounts) or _by_path(folder, mounts)


def _by_device(root: Path, folder: str, mounts: Iterable[Mount]) -> str | None:
    """By the device of what is there, which follows links; btrfs gives subvolumes devices that no mount has."""
    for parent in (PurePosixPath(folder), *PurePosixPath(folder).parents):
        try:
            device = (root / str(parent).lstrip("/")).stat().st_dev
        except FileNotFoundError:
            continue
        except OSError:  # a FUSE mount lets only its owner in
            return None
        number = f"{os.major(device)}:{os.minor(device)}"
        return next((mount.type for mount in mounts if mount.device == number), None)
    return None


def _by_path(folder: str, mounts: Iterable[Mount]) -> str | None:
    path = PurePosixPath(folder)
    above = [mount for mount in mounts if path.is_relative_to(mount.point)]
    longest = max((len(PurePosixPath(mount.point).parts) for mount in above), default=0)
    return next((mount.type for mount in reversed(above) if len(PurePosixPath(mount.point).parts) == longest), None)
