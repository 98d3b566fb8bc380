"""A download on its way into the blobs: resumable after any end, and written by one process at a time.

`partial/<sha256>.part` holds what has arrived so far, always a beginning of the file. It is written under an exclusive
flock; it ends by being renamed to its blob.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from typing import IO, TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.files import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.store.blobs import Blobs

__all__ = ["Partial", "disk_error", "open_partial"]

_POLL = 0.2  # seconds between two looks at a lock that another process holds


class Partial:
    """An open, locked partial file; `length` bytes are there, and are in the running hash."""

    def __init__(self, path: Path, stream: IO[bytes], size: int | None, advance: Callable[[int], None]) -> None:
        self.path = path
        self.length = 0
        self.highest = 0
        self._stream = stream
        self._size = size
        self._advance = advance
        self._digest = hashlib.sha256()

    def read_back(self, check: Callable[[], None]) -> None:
        """Take in what an earlier run left, hashing it; more than the whole file can only be wrong and goes.

        `check` is called now and then, and may raise to end it.
        """
        if self._size is not None and os.fstat(self._stream.fileno()).st_size > self._size:
            self.reset()
        self._stream.seek(0)
        while chunk := self._stream.read(CHUNK):
            check()
            self._digest.update(chunk)
            self._count(len(chunk))

    def append(self, data: bytes) -> None:
        """Write all of `data`; after an OSError length and hash still agree with what is in the file."""
        view = memoryview(data)
        while view:
            written = self._stream.write(view)
            self._digest.update(view[:written])
            self._count(written)
            view = view[written:]

    def reset(self) -> None:
        """Throw away what has arrived."""
        self._stream.seek(0)
        self._stream.truncate()
        self._digest = hashlib.sha256()
        self._count(-self.length)

    def hexdigest(self) -> str:
        """The sha256 of what has arrived."""
        return self._digest.hexdigest()

    def _count(self, step: int) -> None:
        self.length += step
        self.highest = max(self.highest, self.length)
        self._advance(step)


@contextlib.contextmanager
def open_partial(
    blobs: Blobs,
    sha256: str,
    size: int | None,
    *,
    advance: Callable[[int], None],
    wait: Callable[[float], None],
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Partial]:
    """Open and lock the partial file of a blob; while another process holds it, call `waiting` once, then `wait`.

    Who comes out of the wait must look for the blob: the other process may have finished it.
    """
    path = blobs.partial / f"{sha256}.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # Unbuffered: what length says is in the file, is in the file.
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    waiting()
                    told = True
                wait(_POLL)
                continue
            if not _is_still(path, descriptor):
                continue
            try:
                yield Partial(path, stream, size, advance)
            finally:
                if os.fstat(descriptor).st_size == 0 and _is_still(path, descriptor):
                    path.unlink()
            return


def disk_error(error: OSError, place: Path, needed: int) -> StoreError:
    """What to tell when the store could not be written; `needed` bytes were still to come."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        free = shutil.disk_usage(place).free
        return StoreError(
            f"the disk is full: {_mebibytes(needed)} more are needed, {_mebibytes(free)} are free",
            where=str(place),
            hint="free some space, or name another place with --store; what has arrived is kept and resumed",
        )
    return StoreError(
        f"the store cannot be written: {error.strerror or error}",
        where=str(error.filename or place),
        hint="run as the store's owner, or name another place with --store",
    )


def _is_still(path: Path, descriptor: int) -> bool:
    """Say whether the path still names the open file: its former holder may have renamed or removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
