"""Locks of infra.yml files in a store, `infra/<project>.json`: the images that they name stay until the lock goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FOLDER", "locked_by_infra"]

FOLDER = "infra"


def locked_by_infra(home: Path) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Name, version and architecture of each image that a lock names, and the lock's project; StoreError."""
    for path in sorted((home / FOLDER).glob("*.json")):
        try:
            document = json.loads(path.read_bytes())
            for machine in document["machines"].values():
                if machine["image"] is not None:
                    name, _, version = machine["image"].partition("@")
                    yield (name, version, machine["architecture"]), document["project"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"not the lock of an infra.yml: {error!r}",
                where=str(path),
                hint="remove it, or have the bundle that it came in again",
            ) from None
