"""Files into a new custom storage volume that no instance uses yet: models, above all.

Incus takes a volume with its content as a backup of one: a tarball with `backup/index.yaml` first and the files below
`backup/volume/` (read in its source, internal/server/backup/backup_info.go and storage/drivers/generic_vfs.go of
https://github.com/lxc/incus; the same in 6.0 and 7.0, on every pool). It is made while it is sent. Incus keeps it on
its own disk until it is unpacked, so that twice the room is needed for a moment.

Everything belongs to root and may be read by all, as an unprivileged container sees it: Incus shifts owners when the
volume is attached.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from anklume_images.errors import AnklumeError, IncusError
from anklume_images.incus.objects import ObjectId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from anklume_images.incus.client import Incus

__all__ = ["INDEX", "ROOT", "VolumeFile", "index_of", "make_volume"]

_BLOCK = 512
_PIECE = 1 << 20
INDEX, ROOT = "backup/index.yaml", "backup/volume"
"""Where in the tarball the description of the volume is, and its content."""
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755
_NO_DATE, _NEVER = "1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"


@dataclass(frozen=True)
class VolumeFile:
    """A file of the host, and its path in the volume (`a/b.gguf`)."""

    path: str
    source: Path


def make_volume(
    incus: Incus,
    pool: str,
    name: str,
    files: Iterable[VolumeFile],
    *,
    config: Mapping[str, str] | None = None,
    description: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make a volume of the connection's project that holds these files; IncusError when it is there already.

    `progress` gets the bytes sent and their total. What fails leaves no volume behind.
    """
    what = ObjectId("volume", f"{pool}/{name}")
    if incus.find_object(what) is not None:
        raise IncusError(
            f"there is a volume {name} already",
            where=f"pool {pool}, project {incus.project}",
            hint="push further files through an instance that has it: incus file push",
        )
    archive = _Archive(index_of(name, pool, config or {}, description), sorted(files, key=lambda file: file.path))
    try:
        incus.import_volume(what, archive, progress)
    finally:
        archive.close()


def index_of(name: str, pool: str, config: Mapping[str, str], description: str, snapshot: str = "") -> bytes:
    """What the volume is to be, and its one snapshot if it has one; JSON is YAML too."""
    volume = {
        "name": name,
        "type": "custom",
        "content_type": "filesystem",
        "description": description,
        "config": dict(config),
        "created_at": _NO_DATE,
    }
    index: dict[str, Any] = {"name": name, "backend": "dir", "pool": pool, "type": "custom", "optimized": False}
    backup_config: dict[str, Any] = {"volume": volume}
    if snapshot:
        index["snapshots"] = [snapshot]
        backup_config["volume_snapshots"] = [
            {"name": snapshot, "content_type": "filesystem", "config": {}, "created_at": _NO_DATE, "expires_at": _NEVER}
        ]
    return json.dumps({**index, "optimized_header": False, "config": backup_config}).encode()


class _Archive:
    """The tarball as something to read from; `len` is its size, known before a byte is read."""

    def __init__(self, index: bytes, files: Sequence[VolumeFile]) -> None:
        self._files = [(file, file.source.stat().st_size) for file in files]
        self._index = index
        self._open: IO[bytes] | None = None
        self.len = sum(len(piece) for piece in self._small()) + sum(_padded(size) for _, size in self._files)
        self._pieces = self._all()
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes, `size` at most."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def close(self) -> None:
        """Close the file that is being read."""
        if self._open is not None:
            self._open.close()

    def _small(self) -> Iterator[bytes]:
        """All but the files' content."""
        yield from self._head()
        for file, size in self._files:
            yield _header(f"{ROOT}/{file.path}", size)
        yield bytes(2 * _BLOCK)

    def _head(self) -> Iterator[bytes]:
        yield _header(INDEX, len(self._index))
        yield self._index + bytes(-len(self._index) % _BLOCK)
        yield _header(ROOT, kind=tarfile.DIRTYPE)
        folders = {parent for file, _ in self._files for parent in _parents(file.path)}
        for folder in sorted(folders):
            yield _header(f"{ROOT}/{folder}", kind=tarfile.DIRTYPE)

    def _all(self) -> Iterator[bytes]:
        yield from self._head()
        for file, size in self._files:
            yield _header(f"{ROOT}/{file.path}", size)
            yield from self._content(file, size)
        yield bytes(2 * _BLOCK)

    def _content(self, file: VolumeFile, size: int) -> Iterator[bytes]:
        left = size
        with file.source.open("rb") as self._open:
            while left:
                piece = self._open.read(min(_PIECE, left))
                if not piece:
                    raise AnklumeError("the file became shorter while it was read", where=str(file.source))
                left -= len(piece)
                yield piece
        yield bytes(-size % _BLOCK)


def _header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    member.mode = _FOLDER_MODE if kind == tarfile.DIRTYPE else _FILE_MODE
    return member.tobuf(tarfile.PAX_FORMAT)


def _padded(size: int) -> int:
    return size + -size % _BLOCK


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
