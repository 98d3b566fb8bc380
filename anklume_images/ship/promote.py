"""From one place to the next: a store or an Incus; the files first, names last, all names or none.

What moves is decided here; that it may move (gates) is decided by the caller before.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.incus.client import ObjectId
from anklume_images.ship.publish import image_files, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anklume_images.incus.client import Incus
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["Moved", "names_of", "point_channel", "to_incus", "within_incus"]

Progress = "Callable[[int, int], None] | None"


@dataclass(frozen=True)
class Moved:
    """What a promotion did: `sent` says whether files went over, `names` each name with what it named before."""

    fingerprint: str
    sent: bool
    names: tuple[tuple[str, str | None], ...]


def names_of(name: str, version: str, channel: str, there: Sequence[str]) -> list[str]:
    """The aliases that an image gets at an Incus: its version's, its channel's, and its name if that is there or latest."""
    names = [f"{name}/{version}", f"{name}/{channel}"]
    return [*names, name] if channel == "latest" or name in there else names


def to_incus(
    image: Image, images: Images, store: Store, incus: Incus, channel: str, progress: Callable[[int, int], None] | None
) -> Moved:
    """A store's image to an Incus; what was sent for it is taken back when a name could not be moved."""
    files = replace(image_files(image, images, store), aliases=())
    report = publish(files, incus, progress)
    with _taken_back(incus, image.fingerprint, sent=report.imported):
        names = names_of(image.name, image.version, channel, list(incus.aliases()))
        return Moved(image.fingerprint, report.imported, _move(incus, names, image.fingerprint))


def within_incus(source: Incus, target: Incus, name: str, selector: str, channel: str) -> Moved:
    """An image of one Incus to another, which fetches it itself; `selector` is a channel or a version of it there."""
    aliases = source.aliases()
    wanted = name if selector == "latest" and f"{name}/latest" not in aliases else f"{name}/{selector}"
    if wanted not in aliases:
        there = sorted(alias for alias in aliases if alias.partition("/")[0] == name)
        raise StoreError(
            f"it has no image with the alias {wanted}",
            where=source.address,
            hint=f"of {name} there are: {', '.join(there) or 'none'}",
        )
    fingerprint = aliases[wanted]
    sent = target.image(fingerprint) is None
    if sent:
        target.pull_image(source, fingerprint)
    with _taken_back(target, fingerprint, sent=sent):
        known = [alias.partition("/")[2] for alias in aliases if aliases[alias] == fingerprint and "/" in alias]
        version = max(known, key=len, default=selector)  # channels are shorter than versions with their hash
        names = names_of(name, version, channel, list(target.aliases()))
        return Moved(fingerprint, sent, _move(target, names, fingerprint))


@contextlib.contextmanager
def _taken_back(incus: Incus, fingerprint: str, *, sent: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if sent:
            with contextlib.suppress(AnklumeError):
                incus.delete_object(ObjectId("image", fingerprint))
        raise


def _move(incus: Incus, names: Sequence[str], fingerprint: str) -> tuple[tuple[str, str | None], ...]:
    """Move aliases, each in one request; those that were moved go back when one cannot be."""
    moved: list[tuple[str, str | None]] = []
    try:
        for name in names:
            before = incus.set_alias(name, fingerprint)
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


@contextlib.contextmanager
def point_channel(images: Images, image: Image, channel: str) -> Iterator[str | None]:
    """Point a channel at an image for good, unless the block that signs it fails; yields what it named before."""
    before = images.channels(image.name, image.architecture).get(channel)
    if before != image.version:
        images.set_channel(image.name, image.architecture, channel, image.version)
    try:
        yield before
    except BaseException:
        if before is None:
            images.remove_channel(image.name, image.architecture, channel)
        elif before != image.version:
            images.set_channel(image.name, image.architecture, channel, before)
        raise
