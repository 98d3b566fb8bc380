"""Which deltas go into a bundle for one host, in place of whole files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from anklume_images.ship.by_delta import delta_of
from anklume_images.ship.catalogue import age
from anklume_images.ship.deltas import Pair

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anklume_images.bundle.needs import Inventory
    from anklume_images.ship.by_delta import SignedDelta
    from anklume_images.ship.simplestreams import Listed
    from anklume_images.store.images import Image, Images, StoredFile

__all__ = ["deltas_for", "pairs_for"]


def pairs_for(listed: Sequence[Listed], chosen: Iterable[Image], inventory: Inventory) -> Iterator[Pair]:
    """The chosen images without a delta, each with the newest version before it that the host has."""
    for image in chosen if inventory.tree else ():
        if _has(inventory, image.rootfs):
            continue
        versions = sorted(
            (one for one in listed if (one.image.name, one.image.architecture) == (image.name, image.architecture)),
            key=lambda one: age(one.image),
        )
        earlier = None
        for one in versions:
            if one.image.version == image.version:
                if earlier is not None and one.delta is None:
                    yield Pair(earlier, one.image, None)
                break
            if _has(inventory, one.image.rootfs):
                earlier = one.image


def deltas_for(images: Images, chosen: Iterable[Image], inventory: Inventory, tree: str) -> Iterator[SignedDelta]:
    """The deltas of the store by which a host that has earlier versions needs less; `tree` has the programs here."""
    for image in chosen if inventory.tree else ():
        delta = delta_of(images, image, partial(_has, inventory), contents=inventory.tree == tree)
        if delta is not None and delta.size < image.rootfs.size and not _has(inventory, image.rootfs):
            yield delta


def _has(inventory: Inventory, file: StoredFile) -> bool:
    return inventory.blobs.get(file.sha256) == file.size
