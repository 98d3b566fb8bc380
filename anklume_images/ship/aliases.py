"""The names by which Incus knows an image of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.store.images import LATEST

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

__all__ = ["aliases_of"]


def aliases_of(name: str, version: str, channels: Iterable[str], there: Container[str] = ()) -> tuple[str, ...]:
    """`name/version`, `name/channel` for its channels, and the bare name if one is the latest or it is `there`."""
    pointing = tuple(channels)
    bare = [name] if LATEST in pointing or name in there else []
    return (f"{name}/{version}", *(f"{name}/{channel}" for channel in pointing), *bare)
