"""Image files to an Incus image store: checked before a byte is sent, sent once, aliases moved last.

An alias moves only when its image is whole in the store, so a publish that was killed leaves the old names as they
were and can be asked for again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.ship.aliases import aliases_of
from anklume_images.store.images import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["AliasChange", "ImageFiles", "PublishReport", "image_files", "publish"]


@dataclass(frozen=True)
class ImageFiles:
    """A split image on disk; `fingerprint` is what its bytes must hash to."""

    metadata: Path
    rootfs: Path
    fingerprint: str
    aliases: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AliasChange:
    """An alias that was made (`before` is None) or moved."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True)
class PublishReport:
    """What a publish changed: nothing when the image was there with its aliases and properties."""

    fingerprint: str
    imported: bool
    aliases_changed: tuple[AliasChange, ...]
    properties_changed: tuple[str, ...]


def image_files(image: Image, images: Images, store: Store) -> ImageFiles:
    """The files of an image with the aliases it gets: its name where it is the latest, and `name/version` always."""
    channels = images.channels(image.name, image.architecture)
    pointing = [channel for channel, version in channels.items() if version == image.version]
    return ImageFiles(
        metadata=store.blobs.path(image.metadata.sha256),
        rootfs=store.blobs.path(image.rootfs.sha256),
        fingerprint=image.fingerprint,
        aliases=aliases_of(image.name, image.version, pointing),
        properties=image.properties,
    )


def publish(
    files: ImageFiles, incus: Incus, progress: Callable[[int, int], None] | None = None, *, public: bool = False
) -> PublishReport:
    """Bring an image, its properties and its aliases into a server's project; files are read only if it lacks them.

    `progress` gets bytes sent and their total. StoreError when the files are not what the fingerprint says.
    """
    imported = False
    if incus.image(files.fingerprint) is None:
        _check(files)
        imported = incus.import_image(
            files.metadata,
            files.rootfs,
            fingerprint=files.fingerprint,
            properties=files.properties,
            public=public,
            progress=progress,
        )
    changed = () if imported else _fix_properties(files, incus)
    return PublishReport(files.fingerprint, imported, _fix_aliases(files, incus), changed)


def _check(files: ImageFiles) -> None:
    actual = fingerprint(files.metadata, files.rootfs)
    if actual != files.fingerprint:
        raise StoreError(
            f"the image's files hash to {actual}, not to {files.fingerprint}",
            where=str(files.rootfs),
            hint="build it again; anklume-images verify lists what else changed",
        )


def _fix_properties(files: ImageFiles, incus: Incus) -> tuple[str, ...]:
    image = incus.image(files.fingerprint)
    properties = image.properties if image else {}
    wrong = {name: value for name, value in files.properties.items() if properties.get(name) != value}
    if wrong:
        incus.set_properties(files.fingerprint, wrong)
    return tuple(sorted(wrong))


def _fix_aliases(files: ImageFiles, incus: Incus) -> tuple[AliasChange, ...]:
    aliases = incus.aliases() if files.aliases else {}
    wrong = [name for name in files.aliases if aliases.get(name) != files.fingerprint]
    changes = (AliasChange(name, incus.set_alias(name, files.fingerprint), files.fingerprint) for name in wrong)
    return tuple(change for change in changes if change.before != files.fingerprint)
