"""Where a bundle's bytes lie: one file, several parts of one, or a stream that is read once.

Parts are called `<name>.001`, `<name>.002` and so on; `<name>.sha256` beside them is what `sha256sum --check` reads.
Joined in their order (`cat`) they are the bundle.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from anklume_images.bundle.index import BundleError
from anklume_images.errors import AnklumeError
from anklume_images.files import CHUNK, fsync_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FAT_LIMIT", "PartsSink", "Sink", "Source", "check_parts", "check_path", "parts_of"]

FAT_LIMIT = (4 << 30) - 1  # bytes of a file on FAT32
_PART = re.compile(r"(?P<name>.+)\.(?P<number>[0-9]{3})")
_SUMS = re.compile(r"([0-9a-f]{64})  (\S.*)")
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
_DEVICES = re.compile(r"(?i)(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?")


def check_path(path: Path) -> None:
    """AnklumeError for a path where no bundle can be written, or whose name FAT or NTFS do not take."""
    if path.is_dir():
        raise AnklumeError(f"{path} is a folder", hint=f"name a file: {path / 'site.anklume'}")
    name = path.name
    if _FORBIDDEN.search(name) or _DEVICES.fullmatch(name) or name[-1] in ". " or len(name.encode("utf-16-le")) > 480:
        raise AnklumeError(
            f"{name!r} is no file name on FAT and NTFS",
            hint='leave out < > : " \\ | ? *, and a dot or blank at its end',
        )


def parts_of(path: Path) -> list[Path]:
    """The files of a bundle that is at `path`: itself, or all parts where it is one of them or their common name.

    BundleError when some are missing.
    """
    match = _PART.fullmatch(path.name)
    if path.is_file() and match is None:
        return [path]
    base = path.with_name(match["name"]) if match else path
    found = sorted(
        other for other in path.parent.glob("*") if (m := _PART.fullmatch(other.name)) and m["name"] == base.name
    )
    if not found:
        raise BundleError("there is no such file", where=str(path), hint="is the medium mounted?")
    listed = list(_sums(base)) or [f"{base.name}.{number:03}" for number in range(1, len(found) + 1)]
    here = {other.name for other in found}
    if missing := [name for name in listed if name not in here]:
        raise BundleError(
            f"of {len(listed)} parts {len(missing)} are missing: {', '.join(missing[:5])}",
            where=str(path.parent),
            hint="put all parts into one folder",
        )
    return [path.with_name(name) for name in listed]


def check_parts(parts: list[Path]) -> Iterator[tuple[Path, str | None]]:
    """Each part, and what is wrong with it: None for one that is what `<name>.sha256` says. Nothing without that."""
    match = _PART.fullmatch(parts[0].name)
    if match is None:
        return
    sums = _sums(parts[0].with_name(match["name"]))
    for part in parts:
        with part.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        yield part, None if sums.get(part.name, found) == found else f"its sha256 is {found}"


def _sums(base: Path) -> dict[str, str]:
    try:
        text = base.with_name(f"{base.name}.sha256").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    matches = [_SUMS.fullmatch(line) for line in text.splitlines()[:1000]]
    return {match[2]: match[1] for match in matches if match and "/" not in match[2]}


class Source:
    """A bundle that is read from its beginning to its end; `name` is how to speak of it."""

    def __init__(self, name: str, paths: list[Path] | None) -> None:
        self.name = name
        self.offset = 0
        self._paths = paths
        self._stream: IO[bytes] | None = None
        self._number = self._mark = -1

    @classmethod
    def at(cls, where: str) -> Source:
        """The one that the word names: a path, or `-` for standard input."""
        if where == "-":
            if sys.stdin is None:
                raise BundleError("standard input is closed", hint="name a file, or send it one")
            return cls("standard input", None)
        path = Path(where).absolute()
        return cls(str(path), parts_of(path))

    @property
    def part(self) -> str:
        """Where it is being read: the part, or the parts since `mark`."""
        if self._paths is None:
            return self.name
        first, last = (self._paths[min(max(0, number), len(self._paths) - 1)] for number in (self._mark, self._number))
        return str(first) if first == last else f"{first} to {last.name}"

    def mark(self) -> None:
        """Say that a file begins here."""
        self._mark = max(0, self._number)

    @property
    def url(self) -> str:
        """An address to know it by."""
        return (self._paths[0] if self._paths else Path("/dev/stdin")).as_uri()

    def read(self, limit: int) -> bytes:
        """Some bytes, `limit` at most; none at the end."""
        try:
            while True:
                stream = self._stream or self._next()
                if stream is None:
                    return b""
                if data := stream.read(min(limit, CHUNK)):
                    self.offset += len(data)
                    return data
                self.close()
                if self._paths is None:
                    return b""
        except OSError as error:
            raise BundleError(f"it cannot be read: {error.strerror or error}", where=self.part) from None

    def exactly(self, size: int, what: str) -> bytes:
        """So many bytes; BundleError when it ends before."""
        return b"".join(self.chunks(size, what))

    def chunks(self, size: int, what: str) -> Iterator[bytes]:
        """So many bytes, a piece at a time; BundleError when it ends before."""
        while size:
            data = self.read(size)
            if not data:
                raise BundleError(
                    f"it ends in the middle of {what}: {size} bytes of that are missing",
                    where=self.part,
                    hint="it was cut off: copy it again",
                )
            size -= len(data)
            yield data

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None and self._stream is not sys.stdin.buffer:
            self._stream.close()
        self._stream = None

    def _next(self) -> IO[bytes] | None:
        self._number += 1
        if self._paths is None:
            self._stream = sys.stdin.buffer if self._number == 0 else None
        elif self._number < len(self._paths):
            self._stream = self._paths[self._number].open("rb", buffering=0)
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return self._stream


class Sink:
    """A bundle that is written into one file, which appears when it is whole; or to standard output (no path)."""

    def __init__(self, path: Path | None) -> None:
        self.written: list[Path] = []
        self._path = path
        self._stream: IO[bytes] | None = None

    def __str__(self) -> str:
        return str(self._path or "standard output")

    def write(self, data: bytes) -> None:
        """Write these bytes."""
        if self._path is None:
            sys.stdout.buffer.write(data)
            return
        if self._stream is None:
            self._stream = _beside(self._path)
        _write(self._stream, data)

    def finish(self) -> None:
        """Let it appear."""
        if self._path is None:
            sys.stdout.buffer.flush()
        elif self._stream is not None:
            _appear(self._stream, self._path)
            self.written, self._stream = [self._path], None

    def abandon(self) -> None:
        """Leave nothing."""
        if self._stream is not None:
            self._stream.close()
            Path(self._stream.name).unlink(missing_ok=True)


class PartsSink:
    """A bundle that is written into parts of `size` bytes at most, which appear when all are whole."""

    def __init__(self, path: Path, size: int) -> None:
        self.written: list[Path] = []
        self._path = path
        self._size = size
        self._done: list[tuple[IO[bytes], str]] = []
        self._stream: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._length = 0

    def __str__(self) -> str:
        return str(self._path)

    def write(self, data: bytes) -> None:
        """Write these bytes."""
        view = memoryview(data)
        while view:
            if self._stream is None:
                self._stream, self._digest, self._length = _beside(self._path), hashlib.sha256(), 0
            piece = view[: self._size - self._length]
            _write(self._stream, piece)
            self._digest.update(piece)
            self._length += len(piece)
            view = view[len(piece) :]
            if self._length == self._size:
                self._close()

    def finish(self) -> None:
        """Let the parts appear, and last what their sums are."""
        self._close()
        if len(self._done) > 999:
            self.abandon()
            raise AnklumeError(f"that makes {len(self._done)} parts, and 999 is the most", hint="make them larger")
        lines = []
        for number, (stream, digest) in enumerate(self._done, 1):
            path = self._path.with_name(f"{self._path.name}.{number:03}")
            _appear(stream, path)
            lines.append(f"{digest}  {path.name}\n")
            self.written.append(path)
        sums = self._path.with_name(f"{self._path.name}.sha256")
        write_atomic(sums, "".join(lines).encode())
        self.written.append(sums)
        self._done = []

    def abandon(self) -> None:
        """Leave nothing."""
        streams = [stream for stream, _ in self._done] + ([self._stream] if self._stream else [])
        for stream in streams:
            stream.close()
            Path(stream.name).unlink(missing_ok=True)

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.flush()
            self._done.append((self._stream, self._digest.hexdigest()))
            self._stream = None


def _beside(path: Path) -> IO[bytes]:
    return tempfile.NamedTemporaryFile("wb", buffering=0, dir=path.parent, prefix=f".{path.name}.", delete=False)


def _write(stream: IO[bytes], data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:  # an unbuffered stream may take a part
        view = view[stream.write(view) :]


def _appear(stream: IO[bytes], path: Path) -> None:
    os.fsync(stream.fileno())
    with contextlib.suppress(OSError):  # FAT has no modes
        os.fchmod(stream.fileno(), 0o644)
    stream.close()
    Path(stream.name).replace(path)
    fsync_directory(path.parent)
