"""What an image has at a path, as the beginning of a volume that is mounted there: owners, modes and content.

The image's root file system (a squashfs) is read where it lies; nothing is mounted or unpacked. What comes along:
folders, files and symbolic links, with owner, group and mode. Devices, sockets and pipes are left out.

Incus 6.0 gives every volume that it unpacks the mode 0711 at its root, but not a snapshot that comes with one (read in
its source, EnsureMountPath and genericVFSBackupUnpack in internal/server/storage/drivers/ of
https://github.com/lxc/incus). There the content comes as a snapshot, which the volume is then set back to.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from typing import TYPE_CHECKING, Any

from anklume_images.incus.objects import ObjectId
from anklume_images.ship.volume import INDEX, ROOT, index_of
from anklume_images.store.squashfs import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from anklume_images.incus.client import Incus

__all__ = ["make_seeded_volume"]

_KEEPS_MODES = (7, 0)  # a release: 6.0 has the extension storage_initial_owner, too, and does not
_SNAPSHOT = "seed"
_SNAPSHOTS = "backup/volume-snapshots"

_IN_MEMORY = 8 << 20  # bytes of an archive; a larger one lies in a file that has no name
_MODE = 0o7777


def make_seeded_volume(
    incus: Incus,
    pool: str,
    name: str,
    rootfs: Path,
    path: str,
    *,
    config: Mapping[str, str],
    description: str = "",
) -> bool:
    """Make a volume of the connection's project that begins as the image is at `path`.

    False, and no volume, when the image has no folder there. IncusError when the volume is there already. A daemon that
    is killed while it unpacks leaves a volume with this `config` and part of the content.
    """
    from PySquashfsImage import SquashFsImage  # reads the tables of a whole image: a second for one of 50,000 files

    with (
        SquashFsImage.from_file(str(rootfs)) as image,
        tempfile.SpooledTemporaryFile(_IN_MEMORY) as archive,
    ):
        folder = find(image.root, path)
        if folder is None or not folder.is_dir:
            return False
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
            snapshot = "" if incus.server.release >= _KEEPS_MODES else _SNAPSHOT
            index = index_of(name, pool, config, description, snapshot)
            member = tarfile.TarInfo(INDEX)
            member.size = len(index)
            tar.addfile(member, io.BytesIO(index))
            # As "." it is the volume's own root for tar, which sets owner and mode of what is there.
            for entry, inside in _entries(folder, f"{_SNAPSHOTS}/{snapshot}/." if snapshot else f"{ROOT}/."):
                tar.addfile(*_member(entry, inside))
            if snapshot:
                tar.addfile(*_member(folder, f"{ROOT}/."))
        volume = ObjectId("volume", f"{pool}/{name}")
        incus.import_volume(volume, _Body(archive))
    if snapshot:
        incus.put_object(volume, {"restore": snapshot})
        incus.delete_snapshot(volume, snapshot)
    return True


def _entries(folder: Any, inside: str) -> Iterator[tuple[Any, str]]:
    yield folder, inside
    for name, entry in folder.children.items():
        if entry.is_dir:
            yield from _entries(entry, f"{inside}/{name}")
        elif entry.is_file or entry.is_symlink:
            yield entry, f"{inside}/{name}"


def _member(entry: Any, inside: str) -> tuple[tarfile.TarInfo, Any]:
    member = tarfile.TarInfo(inside)
    member.uid, member.gid, member.mode, member.mtime = entry.uid, entry.gid, entry.mode & _MODE, entry.time
    if entry.is_dir:
        member.type = tarfile.DIRTYPE
    elif entry.is_symlink:
        member.type, member.linkname = tarfile.SYMTYPE, entry.readlink()
    else:
        member.size = entry.size
        return member, _Content(entry)
    return member, None


class _Content(io.RawIOBase):
    """A file of the image, block by block: one may be larger than memory."""

    def __init__(self, entry: Any) -> None:
        super().__init__()
        self._blocks = entry.iter_bytes()
        self._rest = b""

    def readable(self) -> bool:
        """It is read, and nothing else."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes: `size`, or less at the end."""
        while size < 0 or len(self._rest) < size:
            block = next(self._blocks, None)
            if block is None:
                break
            self._rest += block
        size = len(self._rest) if size < 0 else size
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece


class _Body:
    """A written archive as something to send: `len` bytes from the beginning."""

    def __init__(self, archive: Any) -> None:
        self.len: int = archive.tell()
        archive.seek(0)
        self._archive = archive

    def read(self, size: int = -1) -> bytes:
        """The next bytes, `size` at most."""
        piece: bytes = self._archive.read(size)
        return piece
