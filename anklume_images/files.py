"""Files that appear whole or not at all, and how much of one is read at once."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHUNK", "copy_hashed", "fsync_directory", "open_regular", "write_atomic"]

CHUNK = 1 << 20  # bytes read at once
_FICLONE = 0x40049409  # linux/fs.h: share the other file's blocks
_CANNOT_SHARE = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM})


def fsync_directory(path: Path) -> None:
    """Make a rename within `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> IO[bytes]:
    """Open a file of somebody else's folder to read it; OSError for a pipe or a device, which might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


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


def copy_hashed(source: IO[bytes], target: IO[bytes], advance: Callable[[int], None]) -> str:
    """Fill an empty file with another's content, and return the sha256 of what was written.

    Where the file system can share blocks between files, nothing is written, only read. `target` is open for both.
    """
    digest = hashlib.sha256()
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        shared = True
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
        shared = False
    from_where = target if shared else source
    from_where.seek(0)
    while piece := from_where.read(CHUNK):
        digest.update(piece)
        if not shared:
            target.write(piece)
        advance(len(piece))
    return digest.hexdigest()
