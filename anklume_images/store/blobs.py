"""Files named by their sha256: `blobs/sha256/<first two>/<hex>`.

A blob appears by rename after fsync, or not at all. `partial/` holds downloads that can be resumed; a partial
file is written by the process that holds its flock only.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from anklume_images.files import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Blobs", "blob_path", "hash_file"]


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hex, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blob_path(sha256: str) -> str:
    """Where a blob is below the store's folder."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


class Blobs:
    """The blobs below `root` (the store's home)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = root / "blobs" / "sha256"
        self.partial = root / "partial"

    def path(self, sha256: str) -> Path:
        """Where the blob is or would be."""
        return self._root / blob_path(sha256)

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Say whether the blob is there, of that size when one is given; does not read it."""
        try:
            length = self.path(sha256).stat().st_size
        except FileNotFoundError:
            return False
        return size is None or length == size

    def verify(self, sha256: str) -> bool:
        """Read the blob and say whether it still has the bytes its name promises."""
        path = self.path(sha256)
        return path.exists() and hash_file(path) == sha256

    def adopt(self, file: Path, sha256: str) -> Path:
        """Move a file whose hash was checked into place; `file` must be on the store's file system."""
        target = self.path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        file.chmod(0o644)
        file.rename(target)
        fsync_directory(target.parent)
        return target

    def remove(self, sha256: str) -> int:
        """Delete a blob and return the bytes freed."""
        path = self.path(sha256)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def __iter__(self) -> Iterator[str]:
        if self._files.is_dir():
            for prefix in sorted(self._files.iterdir()):
                yield from sorted(entry.name for entry in prefix.iterdir())
