"""A bundle read in one go: the index first, then each file as it passes by, checked against the index."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from anklume_images.bundle.index import BLOCK, END, FILE, INDEX_LIMIT, BundleError, Contents, Member, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.bundle.parts import Source

__all__ = ["BundleReader", "Progress"]

_AGAIN = "copy it again, or have it made again; parts are checked one by one: anklume-images bundle verify"


class Progress(Protocol):
    """Who is told how it goes; the console is one."""

    def start(self, total_bytes: int, count: int, what: str) -> None:
        """So many files are to come."""

    def advance(self, n: int) -> None:
        """So many bytes are done."""

    def finish(self) -> None:
        """It is over, well or not."""


class BundleReader:
    """Reads `source`; `contents` is what the index says."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.contents = self._index()

    def _index(self) -> Contents:
        block = self.source.exactly(BLOCK, "its first block")
        try:
            size = int(block[124:135], 8)
        except ValueError:
            size = -1
        if not 0 < size <= INDEX_LIMIT or block != header(FILE, size):
            raise BundleError("this is no bundle, or its first block is damaged", where=self.source.part, hint=_AGAIN)
        data = self.source.exactly(size, FILE)
        self._padding(-size % BLOCK, FILE)
        return Contents.from_bytes(data, self.source.part)

    def __iter__(self) -> Iterator[Member]:
        """Each file in turn; read it, with one of the three below, before the next."""
        for member in self.contents.members:
            self.source.mark()
            expected = header(member.path, member.size)
            if self.source.exactly(len(expected), member.path) != expected:
                raise BundleError(f"before {member.path} there is something else", where=self.source.part, hint=_AGAIN)
            yield member
        if self.source.exactly(len(END), "its end") != END or self.source.read(1):
            raise BundleError("there is something behind its last file", where=self.source.part, hint=_AGAIN)

    def data(self, member: Member) -> bytes:
        """A small file."""
        pieces: list[bytes] = []
        self.pour(member, pieces.append)
        return b"".join(pieces)

    def pour(self, member: Member, take: Callable[[bytes], None]) -> None:
        """Give a file's bytes to `take`, piece by piece; BundleError in the end when they are not what was said."""
        digest = hashlib.sha256()
        for data in self.source.chunks(member.size, member.path):
            digest.update(data)
            take(data)
        if digest.hexdigest() != member.sha256:
            raise BundleError(f"{member.path} is damaged", where=self.source.part, hint=_AGAIN)
        self.end(member)

    def end(self, member: Member) -> None:
        """What follows a file whose bytes were taken from `source` directly."""
        self._padding(member.padding, member.path)

    def _padding(self, size: int, what: str) -> None:
        if any(self.source.exactly(size, what)):
            raise BundleError(f"behind {what} there is something else", where=self.source.part, hint=_AGAIN)
