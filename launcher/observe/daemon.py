"""What the Incus daemon behind a local socket sees of its host: files, whatever namespaces it runs in, and a limit."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from launcher.observe.watches import LIMIT

__all__ = ["daemon_root", "is_in_this_network", "watch_limit"]

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


def daemon_root(address: str) -> Path | None:
    """The root folder of the process that listens on a unix socket, `/proc/<pid>/root`.

    With socket activation that is the service manager, whose files are the daemon's. None for another server's address
    and where this process may not look.
    """
    if not address.startswith("/"):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid: int = _CREDENTIALS.unpack(raw)[0]
        root = Path(f"/proc/{pid}/root")
        (root / "usr").stat()  # needs the right to trace that process
    except OSError:
        return None
    return root


def is_in_this_network(root: Path | None) -> bool:
    """Whether the daemon has this process' own network: its interfaces and routes are those seen here."""
    try:
        return root is not None and (root.parent / "ns/net").readlink() == Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def watch_limit(root: Path | None) -> int | None:
    """How often all containers together may open inotify(7); None where the daemon's files are out of reach."""
    try:
        return None if root is None else int((root / "proc/sys" / LIMIT.replace(".", "/")).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
