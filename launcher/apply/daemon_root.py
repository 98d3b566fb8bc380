"""The files that the Incus daemon behind a local socket sees, whatever namespaces it runs in."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

__all__ = ["daemon_root"]

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
