"""Locks of infra.yml files in a store, `infra/<project>.json`: the images that they name stay until the lock goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.canonical import parsed, what_is_wrong
from anklume_images.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FOLDER", "images_of_lock", "locked_by_infra"]

FOLDER = "infra"


def images_of_lock(data: bytes, where: str) -> list[tuple[tuple[str, str, str], str]]:
    """Name, version and architecture of each image that a lock names, and the lock's project; StoreError."""
    try:
        document = parsed(data)
        named = [
            ((*machine["image"].partition("@")[::2], machine["architecture"]), document["project"])
            for machine in document["machines"].values()
            if machine["image"] is not None
        ]
        if not all(isinstance(word, str) for key, project in named for word in (*key, project)):
            raise ValueError("a name is not text")  # noqa: TRY301  told as the others are
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"not the lock of an infra.yml: {what_is_wrong(error)}",
            where=where,
            hint="remove it, or import the bundle again that it came in",
        ) from None
    return named


def locked_by_infra(home: Path) -> Iterator[tuple[tuple[str, str, str], str]]:
    """The same of all locks that the store at `home` has."""
    for path in sorted((home / FOLDER).glob("*.json")):
        yield from images_of_lock(path.read_bytes(), str(path))
