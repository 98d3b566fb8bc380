"""From one place to the next: a store or an Incus; the files first, names last, all names or none.

What moves is decided here; that it may move (gates) is decided by the caller before.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.incus.client import ObjectId
from anklume_images.inputs.fetch import fetch
from anklume_images.ship.publish import image_files, publish
from anklume_images.ship.pull import missing
from anklume_images.store.generations import TAKEN_BACK
from anklume_images.store.models import ModelRecords
from anklume_images.trust.attest import add_attestation, attestations
from anklume_images.trust.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anklume_images.incus.client import Incus
    from anklume_images.inputs.fetch import Progress
    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store

__all__ = ["Moved", "into_store", "model_into_store", "names_of", "to_incus", "within_incus"]


@dataclass(frozen=True)
class Moved:
    """What a promotion did: `sent` says whether files went over, `names` each name with what it named before."""

    fingerprint: str
    sent: bool
    names: tuple[tuple[str, str | None], ...]


def names_of(name: str, version: str, channel: str, there: Sequence[str]) -> list[str]:
    """The aliases that an image gets at an Incus: of its version, its channel, and its name if latest or there."""
    names = [f"{name}/{version}", f"{name}/{channel}"]
    return [*names, name] if channel == "latest" or name in there else names


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
    with _taken_back(incus, image.fingerprint, sent=report.imported):
        names = names_of(image.name, image.version, channel, list(incus.aliases()))
        return Moved(image.fingerprint, report.imported, _move(incus, names, image.fingerprint, note))


def within_incus(
    source: Incus, target: Incus, name: str, selector: str, channel: str, *, note: str = "", dry_run: bool = False
) -> Moved:
    """An image of one Incus to another, which fetches it itself; `selector` is a channel or a version of it there."""
    aliases = source.aliases()
    wanted = name if selector == "latest" and f"{name}/latest" not in aliases else f"{name}/{selector}"
    if wanted not in aliases:
        similar = sorted(alias for alias in aliases if alias.partition("/")[0] == name)
        raise StoreError(
            f"it has no image with the alias {wanted}",
            where=source.address,
            hint=f"of {name} there are: {', '.join(similar) or 'none'}",
        )
    fingerprint = aliases[wanted]
    known = [alias.partition("/")[2] for alias in aliases if aliases[alias] == fingerprint and "/" in alias]
    version = max(known, key=len, default=selector)  # channels are shorter than versions with their hash
    there = target.aliases()
    names = names_of(name, version, channel, list(there))
    sent = target.image(fingerprint) is None
    if dry_run:
        moving = [name for name in names if there.get(name) != fingerprint]
        return Moved(fingerprint, sent, tuple((name, there.get(name)) for name in moving))
    if sent:
        target.pull_image(source, fingerprint)
    with _taken_back(target, fingerprint, sent=sent):
        return Moved(fingerprint, sent, _move(target, names, fingerprint, note))


@contextlib.contextmanager
def _taken_back(incus: Incus, fingerprint: str, *, sent: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if sent:
            with contextlib.suppress(AnklumeError):
                incus.delete_object(ObjectId("image", fingerprint))
        raise


def _move(incus: Incus, names: Sequence[str], fingerprint: str, note: str) -> tuple[tuple[str, str | None], ...]:
    """Move aliases, each in one request; those that were moved go back when one cannot be."""
    moved: list[tuple[str, str | None]] = []
    try:
        for name in names:
            before = incus.set_alias(name, fingerprint, note)
            if before != fingerprint:
                moved.append((name, before))
    except BaseException:
        for name, before in reversed(moved):
            with contextlib.suppress(AnklumeError):
                if before is None:
                    incus.delete_alias(name)
                else:
                    incus.set_alias(name, before)
        raise
    return tuple(moved)


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
) -> None:
    """An image of one store to another one's folder; its channel moves last, and back if that cannot be signed."""
    with target.lease() as lease:
        lease.add(image.blobs())
        fetch(missing(image.blobs(), target), target.blobs, Place(str(images.home)), progress=progress)
        theirs.add(image, images.documents(image))
        for path, data in attestations(images.home, image):
            add_attestation(target.home, image, data, str(path))
        with _point_channel(theirs, image, channel, why):
            if sign is not None:
                sign()


def model_into_store(
    record: ModelRecord, source: Store, target: Store, *, sign: Callable[[], object] | None, progress: Progress | None
) -> None:
    """A model of one store to another one's folder; its name means what it meant before if that cannot be signed."""
    records = ModelRecords(target)
    with target.lease() as lease:
        lease.add(record.blobs())
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
def _point_channel(images: Images, image: Image, channel: str, why: str) -> Iterator[None]:
    before = images.channels(image.name, image.architecture).get(channel)
    place = (image.name, image.architecture, channel)
    images.set_channel(*place, image.version, command="promote", why=why)
    try:
        yield
    except BaseException:
        if before is None:
            images.remove_channel(*place, command=TAKEN_BACK, why="it could not be signed")
        else:
            images.set_channel(*place, before, command=TAKEN_BACK, why="it could not be signed")
        raise
