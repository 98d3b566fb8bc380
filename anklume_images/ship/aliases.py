"""The names by which Incus knows an image of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.store.images import LATEST

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["aliases_of"]


def aliases_of(name: str, version: str, channels: Iterable[str]) -> tuple[str, ...]:
    """`name/version`, `name/channel` for the channels that point at it, and the bare name where it is the latest."""
    pointing = tuple(channels)
    aliases = [f"{name}/{version}", *(f"{name}/{channel}" for channel in pointing)]
    return tuple([*aliases, name] if LATEST in pointing else aliases)
