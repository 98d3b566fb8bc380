"""Blobs put into a store as what a fetch or a build made is: written beside them, then adopted."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.store.blobs import hash_file

if TYPE_CHECKING:
    from anklume_images.store.blobs import Blobs


def put_blob(blobs: Blobs, data: bytes) -> str:
    """Make bytes a blob and return its name."""
    home = blobs.partial.parent
    home.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(data).hexdigest()
    with tempfile.NamedTemporaryFile(dir=home, prefix=".", delete=False) as out:  # in partial/ a gc might remove it
        out.write(data)
        out.flush()
        blobs.adopt(Path(out.name), name)
    return name


def put_file(blobs: Blobs, source: Path) -> str:
    """Make a copy of a file a blob and return its name."""
    blobs.partial.mkdir(parents=True, exist_ok=True)
    name = hash_file(source)
    blobs.adopt(shutil.copyfile(source, blobs.partial / name), name)
    return name


def share_blob(blobs: Blobs, sha256: str, other: Blobs) -> None:
    """Give another store a blob: as a link, or as a copy on another file system."""
    target = other.path(sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(blobs.path(sha256))
    except OSError:
        shutil.copyfile(blobs.path(sha256), target)
