"""From a reference to a published image: what the store's manifest says, in Incus' words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.incus.client import Incus
from anklume_images.ship.publish import ImageFiles, publish

if TYPE_CHECKING:
    from anklume_images.console import Console
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["image_files", "publish_ref"]


def image_files(image: Image, images: Images, store: Store) -> ImageFiles:
    """The files of an image with the aliases it gets: its name where it is the latest, and `name/version` always."""
    channels = images.channels(image.name, image.architecture)
    aliases = [f"{image.name}/{image.version}"]
    aliases += [f"{image.name}/{channel}" for channel, version in channels.items() if version == image.version]
    if channels.get("latest") == image.version:
        aliases.append(image.name)
    return ImageFiles(
        metadata=store.blobs.path(image.metadata.sha256),
        rootfs=store.blobs.path(image.rootfs.sha256),
        fingerprint=image.fingerprint,
        aliases=tuple(aliases),
        properties=image.properties,
    )


def publish_ref(
    images: Images,
    store: Store,
    ref: str,
    architecture: str,
    remote: str | None,
    project: str | None,
    console: Console,
) -> dict[str, Any]:
    """Publish one image and say what changed."""
    image = images.resolve(ref, architecture)
    files = image_files(image, images, store)
    with store.lease() as lease, Incus.find(remote, project=project) as incus:
        lease.add([image.metadata.sha256, image.rootfs.sha256])
        sent = 0

        def progress(done: int, total: int) -> None:
            nonlocal sent
            if not sent:  # not before: what is there is not sent
                console.start(total, 1, "sending")
            console.advance(done - sent)
            sent = done

        try:
            report = publish(files, incus, progress)
        finally:
            console.finish()
    changed = bool(report.aliases_changed or report.properties_changed)
    return {
        "ref": image.ref,
        "fingerprint": report.fingerprint,
        "status": "imported" if report.imported else "changed" if changed else "present",
        "aliases": {change.name: change.after for change in report.aliases_changed},
    }
