"""The folder of one private Incus on the host's disk: made, locked while anyone lives in it, cleared away after.

    anklume-incus-XXXXXXXX/
      state/           Incus' own directory (/var/lib/incus inside)
      <its name>.img   the btrfs pool, a sparse file; losetup shows whose it is
      incusd.log       what the daemon said
      mnt/             mount point of the root file system, empty outside the namespaces
      tls/             certificates for HTTPS

The lock is a flock on the folder itself. Its open description is shared by the caller, the supervisor and pid 1, so a
folder whose lock can be had belongs to nobody alive. A cgroup of the same name goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

__all__ = ["PREFIX", "cgroup_of", "clear", "default_parent", "make_home", "sweep"]

PREFIX = "anklume-incus-"
_CGROUP_SECONDS = 5.0


def default_parent() -> Path:
    """Where such folders are made: $TMPDIR or /var/tmp, which unlike /tmp is on a disk."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - mkdtemp makes the names


def make_home(parent: Path | None) -> tuple[Path, int]:
    """Make a locked folder below `parent` and return it with the descriptor that holds its lock."""
    parent = parent or default_parent()
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        home = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        descriptor = _locked(home, fcntl.LOCK_EX)
        # A sweep may have had it between mkdtemp and flock.
        if descriptor is not None:
            for name in ("state", "mnt"):
                (home / name).mkdir(mode=0o711)
            home.chmod(0o711)
            return home, descriptor


def sweep(parent: Path) -> list[Path]:
    """Clear the folders that killed processes left below `parent`; return them."""
    gone = []
    for home in sorted(parent.glob(f"{PREFIX}*")):
        descriptor = _locked(home, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if descriptor is not None:
            try:
                clear(home)
            finally:
                os.close(descriptor)
            gone.append(home)
    return gone


def clear(home: Path) -> None:
    """Remove the folder and its cgroup; the processes must have ended."""
    cgroup = cgroup_of(home)
    if cgroup is not None and cgroup.is_dir():
        _remove_cgroup(cgroup)
    shutil.rmtree(home, ignore_errors=True)


def cgroup_of(home: Path) -> Path | None:
    """Where the folder's cgroup is or would be; None where the host has no cgroup v2 mounted for writing."""
    for line in Path("/proc/self/mounts").read_text("utf-8", errors="surrogateescape").splitlines():
        _, place, fstype, options = line.split()[:4]
        if fstype == "cgroup2" and "rw" in options.split(","):
            return Path(place) / home.name
    return None


def _locked(home: Path, how: int) -> int | None:
    try:
        descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, how)
        if os.path.samestat(os.fstat(descriptor), os.stat(home)):
            return descriptor
    os.close(descriptor)
    return None


def _remove_cgroup(cgroup: Path) -> None:
    # A cgroup stays busy for a moment after its last process was killed.
    end = time.monotonic() + _CGROUP_SECONDS
    while cgroup.is_dir() and time.monotonic() < end:
        for folder, _, _ in os.walk(cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if cgroup.is_dir():
            time.sleep(0.02)
