"""Read what the store holds and compare every byte with the hash that names it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.files import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["VerifyReport", "verify_store"]


@dataclass(frozen=True)
class VerifyReport:
    """Files read, their bytes, and one line for each that is not what it should be."""

    checked: int
    bytes: int
    damaged: tuple[str, ...]


def verify_store(
    store: Store, images: Images, refs: Iterable[str], architecture: str, *, repair: bool = False
) -> VerifyReport:
    """Verify the named images, or everything; with `repair`, damaged blobs are removed to be had again."""
    chosen = [images.resolve(ref, architecture) for ref in refs]
    blobs = set(store.blobs) if not chosen else set()
    checked = size = 0
    damaged: list[str] = []
    for image in chosen or list(images):
        blobs -= {image.metadata.sha256, image.rootfs.sha256}
        problem = _verify_image(store, image)
        if problem and images.get(image.name, image.version, image.architecture) is None:
            continue  # gc took it meanwhile
        checked += 2
        size += image.metadata.size + image.rootfs.size
        if problem:
            damaged.append(f"{image.ref}: {problem}")
            if repair:
                _remove_damaged(store, (image.metadata.sha256, image.rootfs.sha256))
    for sha256 in sorted(blobs):
        try:
            length = store.blobs.path(sha256).stat().st_size
            sound = store.blobs.verify(sha256)
        except FileNotFoundError:
            continue  # gc took it meanwhile
        checked += 1
        size += length
        if not sound:
            damaged.append(f"blob {sha256}")
            if repair:
                store.blobs.remove(sha256)
    return VerifyReport(checked, size, tuple(damaged))


def _verify_image(store: Store, image: Image) -> str | None:
    """One pass over both files gives their own hashes and Incus' fingerprint."""
    whole = hashlib.sha256()
    for file in (image.metadata, image.rootfs):
        file_hash = hashlib.sha256()
        try:
            with store.blobs.path(file.sha256).open("rb") as stream:
                while chunk := stream.read(CHUNK):
                    file_hash.update(chunk)
                    whole.update(chunk)
        except FileNotFoundError:
            return f"blob {file.sha256} is missing"
        if file_hash.hexdigest() != file.sha256:
            return f"blob {file.sha256} has other bytes"
    return None if whole.hexdigest() == image.fingerprint else "its files are not those of its fingerprint"


def _remove_damaged(store: Store, names: Iterable[str]) -> None:
    for sha256 in names:
        if store.blobs.has(sha256) and not store.blobs.verify(sha256):
            store.blobs.remove(sha256)
