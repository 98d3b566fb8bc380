"""The lock: every input of one spec, per architecture, with sha256 and size (unless a pinned file's is not known).

On disk (`lock.json`, one per image and variant) it is canonical JSON: sorted keys, one space of indentation, a
final newline. It names archives and paths below them, never hosts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.canonical import canonical, what_is_wrong
from anklume_images.errors import LockError
from anklume_images.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "Deb",
    "Index",
    "Lock",
    "LockedFile",
    "ReleaseFile",
    "Wheel",
    "load_locks",
    "save_lock",
]

SCHEMA = 1


@dataclass(frozen=True)
class LockedFile:
    """A file to fetch: `path` below an `archive` (debian, debian-security, pypi, or one that the spec declares)."""

    archive: str
    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Deb(LockedFile):
    """A Debian package; `stanza` is its paragraph of the archive's Packages file."""

    size: int
    package: str
    version: str
    architecture: str
    stanza: str


@dataclass(frozen=True)
class Wheel(LockedFile):
    """A Python wheel; `path` is its file name, found by name in the index at fetch time.

    A `tool` is needed while building and is not part of the image.
    """

    size: int
    package: str
    version: str
    tool: bool = False


@dataclass(frozen=True)
class ReleaseFile(LockedFile):
    """A file of an upstream release; `name` is the input's name in the spec.

    Its size is None when it was locked by a pinned sha256 alone, while its upstream could not be reached.
    """

    name: str


@dataclass(frozen=True)
class Index:
    """The signed InRelease file that a resolution was made from; `date` is RFC 3339 in UTC."""

    archive: str
    suite: str
    sha256: str
    date: str


@dataclass(frozen=True)
class Lock:
    """Everything that goes into one image on one architecture.

    `request` is the hash of what was asked for (a spec that changed no longer matches), `base` the `content` of the
    base image's lock that it was resolved upon, `epoch` the seconds since 1970 that every time stamp of the image is
    clamped to, `upstream` the upstream part of the image's version.
    """

    name: str
    architecture: str
    request: str
    epoch: int
    upstream: str
    indexes: tuple[Index, ...] = ()
    debs: tuple[Deb, ...] = ()
    wheels: tuple[Wheel, ...] = ()
    files: tuple[ReleaseFile, ...] = ()
    base: str | None = None

    def __iter__(self) -> Iterator[LockedFile]:
        yield from self.debs
        yield from self.wheels
        yield from self.files

    def digest(self) -> str:
        """The sha256 of the lock's canonical form, index dates and all."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()

    def content(self) -> str:
        """The sha256 of what the lock puts into an image, whatever indexes it was resolved from."""
        document = [self.name, self.architecture, self.upstream, self.base, sorted(entry.sha256 for entry in self)]
        return hashlib.sha256(canonical(document)).hexdigest()


def load_locks(path: Path) -> dict[str, Lock]:
    """Read a lock file and return its locks by architecture; LockError when it is not one of ours, unedited.

    The file carries the digest of each architecture's part, so that an edit by hand is seen.
    """
    locks, edited = _read(path)
    for arch, name in edited.items():
        raise LockError(
            f"the part for {arch} was edited after it was locked",
            where=str(path),
            hint=f"restore it, or lock again: anklume-images lock {name}",
        )
    return locks


def _read(path: Path) -> tuple[dict[str, Lock], dict[str, str]]:
    """The locks as they were locked, and of the others the architecture and name."""
    try:
        document = json.loads(path.read_bytes())
        if document["schema"] != SCHEMA:
            raise LockError(
                f"lock of schema {document['schema']}, this program knows {SCHEMA}",
                where=str(path),
                hint="update anklume-images, or lock again",
            )
        locks = {arch: _parse(part) for arch, part in document["architectures"].items()}
        digests = document["digests"]
    except FileNotFoundError:
        return {}, {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LockError(
            f"not a lock file: {what_is_wrong(error)}", where=str(path), hint="make it anew: anklume-images lock"
        ) from None
    edited = {arch: lock.name for arch, lock in locks.items() if digests.get(arch) != lock.digest()}
    return {arch: lock for arch, lock in locks.items() if arch not in edited}, edited


def save_lock(path: Path, lock: Lock) -> None:
    """Write or replace one architecture's part of a lock file, by atomic rename; parts edited by hand go."""
    try:
        locks = _read(path)[0]
    except LockError:
        locks = {}
    locks[lock.architecture] = lock
    document = {
        "schema": SCHEMA,
        "architectures": {arch: asdict(part) for arch, part in locks.items()},
        "digests": {arch: part.digest() for arch, part in locks.items()},
    }
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode())


def _parse(part: dict[str, Any]) -> Lock:
    fields = dict(part)
    fields["indexes"] = tuple(Index(**entry) for entry in part["indexes"])
    fields["debs"] = tuple(Deb(**entry) for entry in part["debs"])
    fields["wheels"] = tuple(Wheel(**entry) for entry in part["wheels"])
    fields["files"] = tuple(ReleaseFile(**entry) for entry in part["files"])
    return Lock(**fields)
