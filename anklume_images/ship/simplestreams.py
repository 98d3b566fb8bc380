"""Images and channels as simplestreams documents, which a stock `incus` reads: pure.

Format, from Incus' shared/simplestreams: a product has aliases and versions, and its aliases are those of each of its
versions, so every image is a product of its own here. What Incus does not say, and was tried:

- The name of a version begins with its date, eight digits, or the version is passed over in silence.
- A fingerprint that two products have makes "More than one match" of every launch by it.
- Of the deltas of one version Incus applies each whose base it has, one after the other into one file: two spoil the
  image, so there is one at most. Its base must be a version of the same product: it is there without a root file
  system, which is enough for a delta, and makes no image.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anklume_images.ship.aliases import aliases_of
from anklume_images.store.blobs import blob_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anklume_images.store.deltas import Delta
    from anklume_images.store.images import StoredFile, Summary

__all__ = ["INDEX", "PRODUCTS", "Listed", "index_document", "products_document", "version_name"]

INDEX = "streams/v1/index.json"
PRODUCTS = "streams/v1/images.json"


@dataclass(frozen=True)
class Listed:
    """An image that is served, the channels that point at it, and its delta."""

    image: Summary
    channels: tuple[str, ...] = ()
    delta: Delta | None = None


def products_document(listed: Iterable[Listed]) -> dict[str, Any]:
    """`images.json`: a product for each fingerprint."""
    known = {(one.image.name, one.image.version, one.image.architecture): one.image for one in listed}
    products: dict[str, Any] = {}
    by_fingerprint: dict[str, dict[str, Any]] = {}
    for one in listed:
        aliases = ",".join(aliases_of(one.image.name, one.image.version, one.channels))
        same = by_fingerprint.get(one.image.fingerprint)
        if same:
            same["aliases"] += f",{aliases}"
            continue
        product = _product(one, aliases, known)
        products[_product_id(one.image)] = by_fingerprint[one.image.fingerprint] = product
    return {
        "content_id": "images",
        "datatype": "image-downloads",
        "format": "products:1.0",
        "products": products,
    }


def index_document(products: Iterable[str]) -> dict[str, Any]:
    """`index.json`: where the products are."""
    images = {
        "datatype": "image-downloads",
        "format": "products:1.0",
        "path": PRODUCTS,
        "products": sorted(products),
    }
    return {"format": "index:1.0", "index": {"images": images}}


def version_name(image: Summary) -> str:
    """`YYYYMMDD_HHMM`, when the newest of its inputs was made, and the version."""
    return f"{datetime.fromtimestamp(image.epoch, UTC):%Y%m%d_%H%M}_{image.version}"


def _product_id(image: Summary) -> str:
    return f"anklume:{image.name}:{image.version}:{image.architecture}"


def _product(one: Listed, aliases: str, known: Mapping[tuple[str, str, str], Summary]) -> dict[str, Any]:
    image = one.image
    items = {"incus.tar.xz": _metadata(image), "squashfs": _item("squashfs", image.rootfs)}
    versions = {version_name(image): {"items": items}}
    base = known.get((image.name, one.delta.base, image.architecture)) if one.delta else None
    if one.delta and base:
        items["squashfs.vcdiff"] = {
            "delta_base": version_name(base),
            "ftype": "squashfs.vcdiff",
            "path": blob_path(one.delta.sha256),
            "sha256": one.delta.sha256,
            "size": one.delta.size,
        }
        versions[version_name(base)] = {"items": {"incus.tar.xz": _metadata(base)}}
    return {
        "aliases": aliases,
        "arch": image.architecture,
        "os": image.name,
        "release": image.version,
        "release_title": image.version,
        "versions": versions,
    }


def _metadata(image: Summary) -> dict[str, Any]:
    return {"combined_squashfs_sha256": image.fingerprint, **_item("incus.tar.xz", image.metadata)}


def _item(ftype: str, file: StoredFile) -> dict[str, Any]:
    return {"ftype": ftype, "path": blob_path(file.sha256), "sha256": file.sha256, "size": file.size}
