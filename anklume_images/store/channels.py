"""Where a channel can go back to, by its log and by what the store still has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.store.generations import versions

if TYPE_CHECKING:
    from anklume_images.store.channel_log import Place
    from anklume_images.store.images import Images

__all__ = ["present_version", "version_before"]


def present_version(images: Images, place: Place) -> str:
    """The version that a channel names; StoreError where there is no such channel."""
    version = images.log.version(place)
    if version is None:
        there = ", ".join(images.channels(place.image, place.architecture))
        hint = f"there are: {there}" if there else "make one: anklume-images channel set REF CHANNEL"
        raise StoreError(f"there is no channel {place}", hint=hint)
    return version


def version_before(images: Images, place: Place, asked: str | None = None) -> str:
    """The version that a channel named before the present one, or the earlier one that is asked for.

    StoreError where there is none, or where its files are gone.
    """
    present = present_version(images, place)
    moves = images.log.read().of(place)
    earlier = [version for version in versions(moves) if version != present]
    listed = [version for version in earlier if images.present(place.image, version, place.architecture)]
    hint = f"it can go back to: {', '.join(listed)}" if listed else "anklume-images channel set REF CHANNEL moves it"
    if asked is None and not earlier:
        raise StoreError(f"{place} has named no version before {present}", hint=hint)
    if asked is not None and asked not in {move.after for move in moves}:
        raise StoreError(f"{place} has never named {asked}", hint=hint)
    version = asked or earlier[-1]
    if images.present(place.image, version, place.architecture) is None:
        raise StoreError(f"{place} cannot go back to {version}: its files are gone", hint=hint)
    return version
