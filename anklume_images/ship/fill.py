"""Files into a volume by way of the host's own folders: what is missing, whole or not at all, while it is in use.

A volume belongs to its container, whose root may have put links anywhere in it. Every folder on the way is opened
without following one, and files are made, named and replaced below those that are open.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from typing import IO, TYPE_CHECKING

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.files import copy_hashed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from anklume_images.store.models import ModelFile

__all__ = ["fill", "missing_files"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_BEGINS, _ENDS = ".anklume-", ".part"  # of what is on its way; of no blob, so that no engine takes it for one


def missing_files(folder: Path, files: Iterable[ModelFile]) -> tuple[ModelFile, ...]:
    """Those that are not there: a blob counts by its size, since it is read only when it is brought."""
    try:
        root = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return tuple(files)
    try:
        return tuple(file for file in files if not _is_there(root, file))
    finally:
        os.close(root)


def _is_there(root: int, file: ModelFile) -> bool:
    *parents, name = file.path.split("/")
    try:
        with _opened(root, parents) as parent:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    except OSError:
        return False
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_size != file.size:
            return False
        return file.content is None or os.read(descriptor, file.size) == file.content
    finally:
        os.close(descriptor)


def fill(
    folder: Path,
    files: Iterable[ModelFile],
    blob: Callable[[str], Path],
    *,
    owner: int = 0,
    advance: Callable[[int], None] = lambda _count: None,
) -> None:
    """Bring files into a volume's folder, in this order, each under its name when all of it is there and read back.

    `owner` is the host's number for the root of the volume's containers, `blob` says where a blob of the store is.
    StoreError for a blob with other bytes than its name says; AnklumeError where the volume has no place for a file.
    """
    root = os.open(folder, _FOLDER)
    try:
        _sweep(root)
        for file in files:
            _bring(root, folder, file, blob, owner, advance)
    finally:
        os.close(root)


def _sweep(root: int) -> None:
    """Remove what a killed command left."""
    for name in os.listdir(root):
        if name.startswith(_BEGINS) and name.endswith(_ENDS):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=root)


def _bring(
    root: int, folder: Path, file: ModelFile, blob: Callable[[str], Path], owner: int, advance: Callable[[int], None]
) -> None:
    temporary = f"{_BEGINS}{hashlib.sha256(file.path.encode()).hexdigest()[:32]}{_ENDS}"
    *parents, name = file.path.split("/")
    try:
        with _opened(root, parents, owner) as parent:
            descriptor = os.open(temporary, _NEW, 0o600, dir_fd=root)
            try:
                with os.fdopen(descriptor, "w+b") as target:
                    _write(target, file, blob, advance)
                    os.fchown(descriptor, owner, owner)
                    os.fchmod(descriptor, _FILE_MODE)
                    target.flush()
                    os.fsync(descriptor)
                os.rename(temporary, name, src_dir_fd=root, dst_dir_fd=parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=root)
                raise
            os.fsync(parent)
    except OSError as error:
        raise _explained(error, folder, file) from error


def _write(target: IO[bytes], file: ModelFile, blob: Callable[[str], Path], advance: Callable[[int], None]) -> None:
    if file.content is not None:
        target.write(file.content)
        advance(file.size)
        return
    source = file.source or blob(file.sha256)
    try:
        stream = source.open("rb")
    except FileNotFoundError:
        raise StoreError(
            "the store has this no more", where=str(source), hint="pull or import the model again"
        ) from None
    with stream:
        if copy_hashed(stream, target, advance) != file.sha256 and file.source is None:
            raise StoreError(
                "the store's file has other bytes than its name says",
                where=str(source),
                hint="anklume-images verify lists what else changed; then pull or import the model again",
            )


def _explained(error: OSError, folder: Path, file: ModelFile) -> AnklumeError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AnklumeError(
            f"the storage pool is full: {file.path} has {file.size:,} bytes",
            where=str(folder),
            hint="free some space there, or give the volume a larger size; then run it again",
        )
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        return AnklumeError(
            f"the volume has no place for {file.path}: there is a link, a file or a folder in its way",
            where=str(folder),
            hint="look at it inside the machine, and move away what is in the way",
        )
    return AnklumeError(f"{file.path} cannot be written: {error.strerror}", where=str(folder))


@contextlib.contextmanager
def _opened(root: int, parents: Iterable[str], owner: int | None = None) -> Iterator[int]:
    """The folder below another, by names none of which may be a link; made where an owner is given."""
    current = os.dup(root)
    try:
        for name in parents:
            if owner is not None:
                _make_folder(name, current, owner)
            inner = os.open(name, _FOLDER, dir_fd=current)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def _make_folder(name: str, parent: int, owner: int) -> None:
    try:
        os.mkdir(name, _FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return
    descriptor = os.open(name, _FOLDER, dir_fd=parent)
    try:
        os.fchown(descriptor, owner, owner)
        os.fchmod(descriptor, _FOLDER_MODE)
    finally:
        os.close(descriptor)
