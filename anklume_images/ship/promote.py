"""From one place to the next: a store or an Incus; the files first, names last, all names or none.

What moves is decided here; that it may move (gates) is decided by the caller before.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from anklume_images.inputs.fetch import fetch
from anklume_images.ship.between_incus import Moved, move_names, names_of, taken_back
from anklume_images.ship.by_delta import delta_of
from anklume_images.ship.publish import image_files, publish
from anklume_images.ship.wanted import drop_damaged, missing, wanted
from anklume_images.store.generations import TAKEN_BACK
from anklume_images.store.models import ModelRecords
from anklume_images.trust.attest import add_attestation, attestations
from anklume_images.trust.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from anklume_images.inputs.fetch import Progress
    from anklume_images.ship.delta_programs import HostPrograms
    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store

__all__ = ["into_store", "model_into_store", "to_incus"]

_RESERVE = 1 << 18  # bytes; a line of the channels' log and a few small files


def to_incus(
    image: Image,
    images: Images,
    store: Store,
    incus: Incus,
    channel: str,
    progress: Callable[[int, int], None] | None,
    *,
    note: str = "",
) -> Moved:
    """A store's image to an Incus; what was sent for it is taken back when a name could not be moved.

    `note`, who did it and why, becomes the description of the aliases that move.
    """
    files = replace(image_files(image, images, store), aliases=())
    report = publish(files, incus, progress)
    with taken_back(incus, image.fingerprint, sent=report.imported):
        names = names_of(image.name, image.version, channel, list(incus.aliases()))
        return Moved(image.fingerprint, report.imported, move_names(incus, names, image.fingerprint, note))


def into_store(
    image: Image,
    images: Images,
    theirs: Images,
    target: Store,
    *,
    channel: str,
    why: str,
    sign: Callable[[], object] | None,
    progress: Progress | None,
    programs: HostPrograms | None = None,
) -> int:
    """An image of one store to another one's folder; its channel moves last, and back if that cannot be signed.

    Returns the bytes that were read for it from the first store.
    """
    with target.lease() as lease:
        lease.add(image.blobs())
        drop_damaged(image.blobs(), target)
        delta = delta_of(images, image, lambda file: target.blobs.has(file.sha256, file.size))
        sent = wanted(image, target, delta, programs, lease).have(target, Place(str(images.home)), progress)
        theirs.add(image, images.documents(image))
        for path, data in attestations(images.home, image):
            add_attestation(target.home, image, data, str(path))
        with _reserve(target) as reserve, _point_channel(theirs, image, channel, why, reserve):
            if sign is not None:
                sign()
    return sent


def model_into_store(
    record: ModelRecord, source: Store, target: Store, *, sign: Callable[[], object] | None, progress: Progress | None
) -> None:
    """A model of one store to another one's folder; its name means what it meant before if that cannot be signed."""
    records = ModelRecords(target)
    with target.lease() as lease:
        lease.add(record.blobs())
        drop_damaged(record.blobs(), target)
        fetch(missing(record.blobs(), target), target.blobs, Place(str(source.home)), progress=progress)
        before = records.get(record.name)
        if before != record:
            records.add(record)
        try:
            if sign is not None:
                sign()
        except BaseException:
            if before is None:
                records.remove(record.name)
            elif before != record:
                records.add(before)
            raise


@contextlib.contextmanager
def _reserve(store: Store) -> Iterator[Path]:
    """A file that takes a little of the disk, to be removed where a channel has to go back because the disk is full."""
    with store.scratch("promote") as scratch:
        file = scratch / "reserve"
        with file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, _RESERVE)
        yield file


@contextlib.contextmanager
def _point_channel(images: Images, image: Image, channel: str, why: str, reserve: Path) -> Iterator[None]:
    before = images.channels(image.name, image.architecture).get(channel)
    place = (image.name, image.architecture, channel)
    images.set_channel(*place, image.version, command="promote", why=why)
    try:
        yield
    except BaseException:
        reserve.unlink()
        if images.channels(image.name, image.architecture).get(channel) == image.version:  # and nobody moved it since
            if before is None:
                images.remove_channel(*place, command=TAKEN_BACK, why="it could not be signed")
            else:
                images.set_channel(*place, before, command=TAKEN_BACK, why="it could not be signed")
        raise
