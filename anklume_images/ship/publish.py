"""Image files to an Incus image store: checked before a byte is sent, sent once, aliases moved last.

An alias moves only when its image is whole there, so a publish that was killed leaves the old names as they were, or
some of them moved, and can be asked for again; one that fails leaves them as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.ship.aliases import aliases_of
from anklume_images.ship.naming import move_names, moving, taken_back
from anklume_images.store.images import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from anklume_images.incus.client import Image as There
    from anklume_images.incus.client import Incus
    from anklume_images.ship.naming import AliasChange
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["ImageFiles", "PublishReport", "image_files", "publish"]


@dataclass(frozen=True)
class ImageFiles:
    """A split image on disk; `fingerprint` is what its bytes must hash to."""

    metadata: Path
    rootfs: Path
    fingerprint: str
    aliases: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishReport:
    """What was changed, or would be: nothing when the image was there with its aliases and properties.

    A dry run does not look at properties.
    """

    fingerprint: str
    imported: bool
    aliases_changed: tuple[AliasChange, ...]
    properties_changed: tuple[str, ...] = ()


def image_files(image: Image, images: Images, store: Store, aliases: Sequence[str] | None = None) -> ImageFiles:
    """The files of an image with the aliases that it gets: those of the channels that point at it, or these."""
    if aliases is None:
        channels = images.channels(image.name, image.architecture)
        pointing = [channel for channel, version in channels.items() if version == image.version]
        aliases = aliases_of(image.name, image.version, pointing)
    return ImageFiles(
        metadata=store.blobs.path(image.metadata.sha256),
        rootfs=store.blobs.path(image.rootfs.sha256),
        fingerprint=image.fingerprint,
        aliases=tuple(aliases),
        properties=image.properties,
    )


def publish(
    files: ImageFiles,
    incus: Incus,
    progress: Callable[[int, int], None] | None = None,
    *,
    note: str = "",
    dry_run: bool = False,
) -> PublishReport:
    """Bring an image, its properties and its aliases into a server's project; files are read only if it lacks them.

    Aliases move all or none, and what was sent goes again where one cannot; `note` becomes their description.
    `progress` gets bytes sent and their total. A dry run changes nothing. StoreError when the files are not what the
    fingerprint says.
    """
    there = incus.image(files.fingerprint)
    if dry_run:
        moved = moving(files.aliases, files.fingerprint, incus.aliases())
        return PublishReport(files.fingerprint, there is None, moved)
    imported = there is None and _send(files, incus, progress)
    changed = () if imported else _fix_properties(files, incus, there or incus.image(files.fingerprint))
    with taken_back(incus, files.fingerprint, sent=imported):
        moved = move_names(incus, files.aliases, files.fingerprint, note)
    return PublishReport(files.fingerprint, imported, moved, changed)


def _send(files: ImageFiles, incus: Incus, progress: Callable[[int, int], None] | None) -> bool:
    actual = fingerprint(files.metadata, files.rootfs)
    if actual != files.fingerprint:
        raise StoreError(
            f"the image's files hash to {actual}, not to {files.fingerprint}",
            where=str(files.rootfs),
            hint="build it again; anklume-images verify lists what else changed",
        )
    return incus.import_image(
        files.metadata, files.rootfs, fingerprint=actual, properties=files.properties, progress=progress
    )


def _fix_properties(files: ImageFiles, incus: Incus, there: There | None) -> tuple[str, ...]:
    properties = there.properties if there else {}
    wrong = {name: value for name, value in files.properties.items() if properties.get(name) != value}
    if wrong:
        incus.set_properties(files.fingerprint, wrong)
    return tuple(sorted(wrong))
