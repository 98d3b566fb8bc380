"""Files that appear whole or not at all, and how much of one is read at once."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

__all__ = ["CHUNK", "fsync_directory", "write_atomic"]

CHUNK = 1 << 20  # bytes read at once


def fsync_directory(path: Path) -> None:
    """Make a rename within `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a small file beside its place, fsync it, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    fsync_directory(path.parent)
