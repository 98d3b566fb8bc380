"""What a store lacks of an image, and how to have it: whole, or by a delta from a version that is here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.ship.by_delta import apply_delta
from anklume_images.store.blobs import blob_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.inputs.fetch import Progress
    from anklume_images.ship.by_delta import SignedDelta
    from anklume_images.ship.delta_programs import HostPrograms
    from anklume_images.store.images import Image, StoredFile
    from anklume_images.store.store import Lease, Store
    from anklume_images.trust.place import Place

__all__ = ["Wanted", "drop_damaged", "missing", "wanted"]


def missing(blobs: Mapping[str, int], store: Store) -> list[LockedFile]:
    """The files that a store lacks, of those with these sizes by sha256."""
    return [
        LockedFile("store", blob_path(sha256), sha256, size)
        for sha256, size in blobs.items()
        if not store.blobs.has(sha256, size)
    ]


def drop_damaged(blobs: Mapping[str, int], store: Store) -> None:
    """Remove those that are there with other bytes, so that they are fetched: what a name comes to mean is whole."""
    for sha256, size in blobs.items():
        if store.blobs.has(sha256, size) and not store.blobs.verify(sha256):
            store.blobs.remove(sha256)


@dataclass(frozen=True)
class Wanted:
    """What a store is to have of an image; with a `delta`, `programs` make the root file system of it."""

    image: Image
    delta: SignedDelta | None = None
    programs: HostPrograms | None = None

    def bytes(self, store: Store) -> int:
        """How much is to be fetched, where all goes well."""
        made = {self.delta.later} if self.delta else set()
        sizes = [file.size or 0 for file in missing(self.image.blobs(), store) if file.sha256 not in made]
        return sum(sizes) + (self.delta.size if self.delta else 0)

    def have(self, store: Store, place: Place, progress: Progress | None = None) -> int:
        """Have it in the store; returns the bytes that were fetched. A delta that is of no use costs itself only."""
        received = 0
        if self.delta is not None and self.programs is not None:
            file = LockedFile("store", blob_path(self.delta.sha256), self.delta.sha256, self.delta.size)
            kept = store.blobs.has(file.sha256)
            try:
                received = _fetched([file], store, place, progress)
                apply_delta(self.delta, self.image.rootfs.size, store, self.programs.programs())
            except AnklumeError as error:
                if progress is not None:
                    progress.note(f"{self.image.ref}: fetched whole, as its delta is of no use: {error}")
            if not kept:
                store.blobs.remove(file.sha256)
        return received + _fetched(missing(self.image.blobs(), store), store, place, progress)


def wanted(
    image: Image, store: Store, delta: SignedDelta | None, programs: HostPrograms | None, lease: Lease | None = None
) -> Wanted:
    """How a store is to have an image: by the delta on offer, where that is less; `lease` keeps what it starts from."""
    if delta is None or programs is None or store.blobs.has(image.rootfs.sha256, image.rootfs.size):
        return Wanted(image)
    if lease is not None:  # before the look: what is there then, stays
        lease.add([delta.earlier, delta.sha256])
    if delta.size < _left(image.rootfs, store) and store.blobs.has(delta.earlier) and programs.there():
        return Wanted(image, delta, programs)
    return Wanted(image)


def _left(file: StoredFile, store: Store) -> int:
    """The bytes that are still to come of a file, of which an earlier run may have fetched some."""
    with contextlib.suppress(FileNotFoundError):
        return file.size - (store.blobs.partial / f"{file.sha256}.part").stat().st_size
    return file.size


def _fetched(files: list[LockedFile], store: Store, place: Place, progress: Progress | None) -> int:
    """How many bytes came, with the patience that the place is asked with."""
    report = fetch(files, store.blobs, place, progress=progress, timeout=place.timeout, attempts=place.attempts)
    return report.bytes
