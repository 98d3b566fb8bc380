"""Images and models from another store into one's own: blobs that are missing, then what names them, channels last.

A root file system is made out of that of an earlier version which is here, where the other store has such a delta.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import FetchError
from anklume_images.inputs.fetch import fetch
from anklume_images.ship.by_delta import offered
from anklume_images.ship.wanted import drop_damaged, missing, wanted
from anklume_images.store.models import ModelRecords
from anklume_images.trust import revoked
from anklume_images.trust.attest import add_attestation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.inputs.fetch import FetchReport, Progress
    from anklume_images.ship.delta_programs import HostPrograms
    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store
    from anklume_images.trust.origin import Origin
    from anklume_images.trust.revoked import Revocable

__all__ = ["Pulled", "pull", "pull_model", "refuse_revoked"]


@dataclass(frozen=True)
class Pulled:
    """What a pull did: `bytes` that were fetched; `before` is where the channel pointed, if it was moved.

    `attestations` is how many came along.
    """

    image: Image
    bytes: int
    new: bool
    channel: str | None = None
    before: str | None = None
    attestations: int = 0


def pull(
    origin: Origin,
    image: Image,
    images: Images,
    store: Store,
    *,
    channel: str | None,
    progress: Progress | None = None,
    programs: HostPrograms | None = None,
) -> Pulled:
    """Have an image of another store, and point `channel` at it, if one is named.

    What was fetched before a kill is resumed. RevokedError before anything is fetched; FetchError where blobs are not
    what was signed.
    """
    refuse_revoked(origin, image, image.ref, store)
    with store.lease() as lease:
        lease.add(image.blobs())
        documents, attestations = origin.documents(image), origin.attestations(image)
        there = images.present(image.name, image.version, image.architecture)
        before = images.channels(image.name, image.architecture).get(channel) if channel else None
        moving = channel is not None and before != image.version
        if there is None or moving:
            drop_damaged(image.blobs(), store)
        todo = wanted(image, store, offered(origin, image), programs, lease)
        with _told(origin):
            received = todo.have(store, origin.place, progress)
        images.add(image, documents)
        for data in attestations:
            add_attestation(store.home, image, data, str(origin.place))
        if channel and moving:
            images.set_channel(image.name, image.architecture, channel, image.version, command="pull")
    return Pulled(image, received, there is None, channel, before, len(attestations))


def pull_model(origin: Origin, record: ModelRecord, store: Store, *, progress: Progress | None = None) -> FetchReport:
    """Have a model of another store, in place of one of that name here; errors are those of `pull`."""
    refuse_revoked(origin, record, record.name, store)
    records = ModelRecords(store)
    with store.lease() as lease:
        lease.add(record.blobs())
        new = records.get(record.name) != record
        if new:
            drop_damaged(record.blobs(), store)
        with _told(origin):
            report = fetch(missing(record.blobs(), store), store.blobs, origin.place, progress=progress)
        if new:
            records.add(record)
    return report


def refuse_revoked(origin: Origin, what: Revocable, ref: str, store: Store) -> None:
    """RevokedError where the other store or this one knows that it was revoked."""
    known = (*origin.revocations, *revoked.known_revocations(store.home))
    revoked.refuse_revoked(what, ref, known, where=str(origin.place), hint="pull another version of it")


@contextlib.contextmanager
def _told(origin: Origin) -> Iterator[None]:
    try:
        yield
    except FetchError as error:
        error.hint = f"what has arrived is kept, so run it again; if it stays so, {origin.place.hint('')}"
        raise
