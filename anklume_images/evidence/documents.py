"""The documents about an image: those that were made with it, or, for one built earlier, made of what the store has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anklume_images.errors import StoreError
from anklume_images.evidence.contents import contents_of
from anklume_images.evidence.provenance import make_provenance
from anklume_images.evidence.sbom import digests_of_document, make_sbom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["PROVENANCE", "SBOM", "lineage", "provenance", "sbom"]

SBOM, PROVENANCE = "sbom.cdx", "provenance.slsa"


def sbom(store: Store, images: Images, image: Image, warn: Callable[[str], None]) -> Any:
    """The bill of materials, with licences and source packages.

    Images that have no provenance were built before these came in: theirs is made anew, with the hashes of the old one.
    `warn` is told where the image's files are not there to read.
    """
    stored = images.document(image, SBOM)
    if images.has_document(image, PROVENANCE):
        return stored
    try:
        contents = contents_of(store, image)
    except StoreError as error:
        warn(f"without licences and source packages, which only the image's files have: {error}")
        return stored
    return json.loads(make_sbom(image, digests_of_document(stored), contents))


def provenance(images: Images, image: Image) -> Any:
    """The provenance; of an image without one it is made of its recipe and lock."""
    if images.has_document(image, PROVENANCE):
        return images.document(image, PROVENANCE)
    return json.loads(make_provenance(image, images.document(image, "recipe"), images.document(image, "lock")))


def lineage(images: Images, image: Image) -> Iterator[Image]:
    """The image and its bases, the root last, as far as the store has them."""
    here: Image | None = image
    while here is not None:
        yield here
        here = images.get(here.base["name"], here.base["version"], here.architecture) if here.base else None
