"""Images from another store into one's own: only the blobs that are missing, the image last, its channel after that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import FetchError, PolicyError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile

if TYPE_CHECKING:
    from anklume_images.inputs.fetch import Progress
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store
    from anklume_images.trust.origin import Origin

__all__ = ["Pulled", "RevokedError", "missing", "pull"]


class RevokedError(PolicyError):
    """An image that its store has revoked."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did: `bytes` that were fetched; `before` is where the channel pointed, if it was moved."""

    image: Image
    bytes: int
    new: bool
    channel: str | None = None
    before: str | None = None


def missing(image: Image, store: Store) -> list[LockedFile]:
    """The files of an image that a store lacks."""
    files = {file.sha256: file for file in (image.metadata, image.rootfs)}
    return [
        LockedFile("store", f"blobs/sha256/{file.sha256[:2]}/{file.sha256}", file.sha256, file.size)
        for file in files.values()
        if not store.blobs.has(file.sha256, file.size)
    ]


def pull(
    origin: Origin, image: Image, images: Images, store: Store, *, channel: str | None, progress: Progress | None = None
) -> Pulled:
    """Have an image of another store, and point `channel` at it, if one is named.

    What was fetched before a kill is resumed. RevokedError before anything is fetched; FetchError where blobs are not
    what was signed.
    """
    if revocation := origin.revoked(image):
        raise RevokedError(
            f"{image.ref} was revoked on {revocation.since[:10]}: {revocation.why}",
            where=str(origin.place),
            hint="pull another version of it",
        )
    with store.lease() as lease:
        lease.add([image.metadata.sha256, image.rootfs.sha256])
        documents = origin.documents(image)
        there = images.present(image.name, image.version, image.architecture)
        try:
            report = fetch(missing(image, store), store.blobs, origin.place, progress=progress)
        except FetchError as error:
            error.hint = f"what has arrived is kept, so run it again; if it stays so, {origin.place.hint('')}"
            raise
        images.add(image, documents)
        before = images.channels(image.name, image.architecture).get(channel) if channel else None
        if channel and before != image.version:
            images.set_channel(image.name, image.architecture, channel, image.version, command="pull")
    return Pulled(image, report.bytes, there is None, channel, before)
