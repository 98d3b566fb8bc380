"""From one place to the next: a store or an Incus; the files first, names last, all names or none.

What moves is decided here; that it may move (gates) is decided by the caller before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.inputs.fetch import fetch
from anklume_images.ship.aliases import aliases_of
from anklume_images.ship.by_delta import delta_of
from anklume_images.ship.moving import channel_moved, freed, model_named, reserve
from anklume_images.ship.publish import image_files, publish
from anklume_images.ship.wanted import drop_damaged, missing, wanted
from anklume_images.store.models import ModelRecords
from anklume_images.trust.attest import add_attestation, attestations
from anklume_images.trust.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anklume_images.incus.client import Incus
    from anklume_images.inputs.fetch import Progress
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.ship.delta_programs import HostPrograms
    from anklume_images.ship.publish import PublishReport
    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store

__all__ = ["Placed", "into_store", "model_into_store", "to_incus"]


@dataclass(frozen=True)
class Placed:
    """What a store got, or would get: `bytes` that were read for it; `before` is where the channel pointed there."""

    bytes: int
    new: bool
    before: str | None


def to_incus(
    image: Image,
    images: Images,
    store: Store,
    incus: Incus,
    channel: str,
    progress: Callable[[int, int], None] | None,
    *,
    note: str = "",
    dry_run: bool = False,
) -> PublishReport:
    """A store's image to an Incus; what was sent for it is taken back when a name could not be moved.

    `note`, who did it and why, becomes the description of the aliases that move.
    """
    names = aliases_of(image.name, image.version, (channel,), incus.aliases())
    return publish(image_files(image, images, store, names), incus, progress, note=note, dry_run=dry_run)


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
    dry_run: bool = False,
) -> Placed:
    """An image of one store to another one's folder; its channel moves last, and back if that cannot be signed."""
    new = theirs.present(image.name, image.version, image.architecture) is None
    if dry_run:
        return Placed(0, new, theirs.channels(image.name, image.architecture).get(channel))
    with target.lease() as lease:
        lease.add(image.blobs())
        drop_damaged(image.blobs(), target)
        delta = delta_of(images, image, lambda file: target.blobs.has(file.sha256, file.size))
        sent = wanted(image, target, delta, programs, lease).have(target, Place(str(images.home)), progress)
        theirs.add(image, images.documents(image))
        for path, data in attestations(images.home, image):
            add_attestation(target.home, image, data, str(path))
        with (
            reserve(target) as reserved,
            channel_moved(theirs, image, channel, command="promote", why=why) as before,
            freed(reserved),
        ):
            if sign is not None:
                sign()
    return Placed(sent, new, before)


def model_into_store(
    record: ModelRecord,
    source: Store,
    target: Store,
    *,
    sign: Callable[[], object] | None,
    progress: Progress | None,
    dry_run: bool = False,
) -> tuple[bool, bool]:
    """A model of one store to another one's folder; its name means what it meant before if that cannot be signed.

    Whether it was not there as it is, and whether another model had its name there.
    """
    records = ModelRecords(target)
    if dry_run:
        return _sent(record, records.get(record.name), missing(record.blobs(), target))
    with target.lease() as lease:
        lease.add(record.blobs())
        drop_damaged(record.blobs(), target)
        lacking = missing(record.blobs(), target)
        fetch(lacking, target.blobs, Place(str(source.home)), progress=progress)
        with model_named(record, records) as before:
            if sign is not None:
                sign()
    return _sent(record, before, lacking)


def _sent(record: ModelRecord, before: ModelRecord | None, lacking: Sequence[LockedFile]) -> tuple[bool, bool]:
    return before != record or bool(lacking), before not in (None, record)
