"""Locks the files of upstream releases: sha256 and size, from the release's own checksum file where it has one.

A pinned sha256 in the spec and the checksum file must agree: either alone can be wrong, or changed behind our back.
With its sha256 pinned, a release that cannot be reached is locked all the same, without a size if none is pinned.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import quote

from anklume_images.errors import LockError
from anklume_images.inputs.answers import Attempt, Refusal, advice
from anklume_images.inputs.lockfile import ReleaseFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anklume_images.inputs.transport import Transport
    from anklume_images.specs.keys import ReleaseInput
    from anklume_images.specs.model import Spec

__all__ = ["ArchiveReader", "HttpReader", "UnreachableError", "lock_files", "parse_checksums"]

T = TypeVar("T")

_CHECKSUM_LIMIT = 4 << 20
_LINE = re.compile(r"(?P<sha256>[0-9A-Fa-f]{64})[ \t]+\*?(?P<name>\S.*?)\s*")
_BSD_LINE = re.compile(r"SHA256 ?\((?P<name>.+)\) = (?P<sha256>[0-9A-Fa-f]{64})\s*")


class UnreachableError(LockError):
    """No address of an archive answered at all."""


class ArchiveReader(Protocol):
    """What locking asks of an archive; `path` is below the archive's base."""

    def read(self, archive: str, path: str) -> bytes:
        """The whole of a small file; LockError when it cannot be had."""

    def size(self, archive: str, path: str) -> int | None:
        """The size of a file in bytes, None when the server does not say; LockError when it cannot be had."""


class HttpReader:
    """Reads archives over `transport`; `bases` gives an archive's addresses, which are asked in turn."""

    def __init__(self, bases: Callable[[str], Sequence[str]], transport: Transport) -> None:
        self._bases = bases
        self._transport = transport

    def read(self, archive: str, path: str) -> bytes:
        """The whole of a small file, at most 4 MiB."""
        return self._first(archive, path, lambda url: self._transport.read(url, _CHECKSUM_LIMIT)[0])

    def size(self, archive: str, path: str) -> int | None:
        """The size of a file in bytes, None when the server does not say."""
        return self._first(archive, path, self._transport.size)

    def _first(self, archive: str, path: str, ask: Callable[[str], T]) -> T:
        attempts: list[Attempt] = []
        answered = False
        for base in self._bases(archive):
            url = f"{base.rstrip('/')}/{quote(path, safe='/~')}"
            try:
                return ask(url)
            except Refusal as refusal:
                answered = answered or refusal.answered
                attempts.append(refusal.of(url))
        steps = ["check the path", *advice(each.why for each in attempts)]
        raise (LockError if answered else UnreachableError)(
            "\n".join([f"{path} of the archive '{archive}' cannot be had", *map(str, attempts)]),
            hint="; ".join([*steps, "with its sha256 pinned in the spec it need not answer"]),
        )


def lock_files(spec: Spec, arch: str, get: ArchiveReader) -> tuple[ReleaseFile, ...]:
    """The spec's release files for one architecture; LockError names the file's input and what disagrees."""
    checksums: dict[tuple[str, str], dict[str, str]] = {}
    return tuple(_lock_file(spec, item, arch, get, checksums) for item in spec.release_files)


def _lock_file(
    spec: Spec, item: ReleaseInput, arch: str, get: ArchiveReader, known: dict[tuple[str, str], dict[str, str]]
) -> ReleaseFile:
    path, where = item.path[arch], f"{spec.spec_file}: {item.name} ({arch})"
    sha256, size = item.sha256.get(arch), item.size.get(arch)
    try:
        if item.checksums is not None:
            sums = _checksums(item.archive, item.checksums, get, known, needed=sha256 is None or size is None)
            if sums is not None:
                sha256 = _agreed(sums.get(path), sha256, item.checksums, path, where)
        if sha256 is not None and size is None:
            size = get.size(item.archive, path)
            if size is None:
                raise LockError(f"the server does not say the size of {path}", where=where, hint="pin it: size")
    except UnreachableError:
        if sha256 is None:
            raise
    if sha256 is None:
        raise LockError(f"no sha256 of {path}", where=where, hint="pin it: sha256, or name the checksum file")
    return ReleaseFile(archive=item.archive, path=path, sha256=sha256, size=size, name=item.name)


def _checksums(
    archive: str, path: str, get: ArchiveReader, known: dict[tuple[str, str], dict[str, str]], *, needed: bool
) -> dict[str, str] | None:
    """What a checksum file states, read once; None when it cannot be had and is not needed."""
    if (archive, path) not in known:
        try:
            known[archive, path] = parse_checksums(get.read(archive, path), path)
        except LockError:
            if needed:
                raise
            return None
    return known[archive, path]


def _agreed(stated: str | None, pinned: str | None, checksums: str, path: str, where: str) -> str:
    if stated is None:
        raise LockError(f"{checksums} has no line for {path}", where=where, hint="check the path against the release")
    if pinned is not None and stated != pinned:
        raise LockError(
            f"{checksums} says sha256 {stated}, the spec pins {pinned}",
            where=where,
            hint="the release was changed, or the pin is wrong: find out which before you lock",
        )
    return stated


def parse_checksums(raw: bytes, path: str) -> dict[str, str]:
    """The sha256 of each file that a checksum file names, by path below the archive.

    Lines as sha256sum writes them (`<hex>  ./name`, `<hex> *name`) or with --tag (`SHA256 (name) = <hex>`); others are
    left out. Names count from the checksum file's own folder. A name with two hashes is no name at all: LockError.
    """
    folder = posixpath.dirname(path)
    hashes: dict[str, str] = {}
    for line in raw.decode(errors="replace").splitlines():
        match = _LINE.fullmatch(line) or _BSD_LINE.fullmatch(line)
        if match is None:
            continue
        name = posixpath.normpath(posixpath.join(folder, match["name"]))
        sha256 = match["sha256"].lower()
        if hashes.setdefault(name, sha256) != sha256:
            raise LockError(f"{path} states two sha256 for {name}")
    return hashes
