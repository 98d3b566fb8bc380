"""Garbage collection: mark what channels, living commands and trees in use need; remove the rest.

An image that a channel names keeps its files, its base image, and the inputs of both, so that it can be built again
and checked without a network.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.store.models import ModelRecords
from anklume_images.store.store import unless_held

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["GcReport", "collect", "reasons"]


@dataclass(frozen=True)
class GcReport:
    """What was removed, one line each, and the bytes freed."""

    removed: tuple[str, ...]
    bytes: int


def reasons(store: Store, images: Images, image: Image) -> list[str]:
    """What keeps an image: channels, images made from it, running commands."""
    keepers = [
        f"channel {channel}"
        for channel, version in images.channels(image.name, image.architecture).items()
        if version == image.version
    ]
    identity = {"name": image.name, "version": image.version}
    children = [other for other in _kept(images) if other.base == identity and other.architecture == image.architecture]
    keepers += [f"base of {other.ref}" for other in children]
    with store.guarded(exclusively=True):
        if image.rootfs.sha256 in store.leased():
            keepers.append("a running command")
    return keepers


def _kept(images: Images) -> list[Image]:
    """Images that a channel names, and their bases."""
    kept: dict[tuple[str, str, str], Image] = {}
    for image in images:
        if image.version in images.channels(image.name, image.architecture).values():
            here: Image | None = image
            while here:
                kept[here.name, here.version, here.architecture] = here
                base = here.base
                here = images.get(base["name"], base["version"], here.architecture) if base else None
    return list(kept.values())


def collect(
    store: Store, images: Images, trees: set[str], blobs: AbstractSet[str] = frozenset(), *, dry_run: bool = False
) -> GcReport:
    """Remove what nothing needs; `trees` are the digests of the trees that the locks name, `blobs` are to be kept.

    Blobs of models that were imported or pulled are kept by their records.
    """
    if not (store.home / "schema").exists():
        return GcReport((), 0)
    store.sweep()
    with store.guarded(exclusively=True):
        kept = _kept(images)
        leased = store.leased()
        needed = leased | blobs | ModelRecords(store).needed()
        needed |= {digest for image in kept for digest in _digests(images, image)}
        digests = {digest[:32] for digest in trees | {image.toolchain for image in kept}}
        removed: list[str] = []
        freed = 0
        for image in [image for image in images if image not in kept and image.rootfs.sha256 not in leased]:
            removed.append(f"image {image.ref} ({image.architecture})")
            if not dry_run:
                images.remove(image)
        for place in _trees(store.home / "trees"):
            if place.name not in digests and place.name not in leased:
                removed.append(f"tree {place.name}")
                freed += _size(place)
                if not dry_run:
                    shutil.rmtree(place)
        for sha256 in [sha256 for sha256 in store.blobs if sha256 not in needed]:
            removed.append(f"blob {sha256}")
            freed += store.blobs.path(sha256).stat().st_size if dry_run else store.blobs.remove(sha256)
        freed += _leftovers(store, leased, removed, dry_run=dry_run)
    return GcReport(tuple(removed), freed)


def _digests(images: Images, image: Image) -> Iterator[str]:
    yield image.metadata.sha256
    yield image.rootfs.sha256
    lock = images.document(image, "lock")
    for kind in ("debs", "wheels", "files"):
        yield from (entry["sha256"] for entry in lock[kind])


def _trees(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (place for place in sorted(folder.iterdir()) if place.is_dir() and place.name[0] != ".")


def _leftovers(store: Store, leased: set[str], removed: list[str], *, dry_run: bool) -> int:
    """Remove what failed or killed commands left; returns the bytes of it."""
    freed = 0
    with contextlib.ExitStack() as locks:
        for place in _left(store, leased, locks):
            removed.append(f"leftover {place.relative_to(store.home)}")
            freed += _size(place)
            if not dry_run and place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            elif not dry_run:
                place.unlink(missing_ok=True)
    return freed


def _left(store: Store, leased: set[str], locks: contextlib.ExitStack) -> Iterator[Path]:
    """Kept sandboxes, half-removed images; half-unpacked trees, downloads and locks that no process holds."""
    yield from (place for place in store.home.glob("failed/*") if f"failed/{place.name}" not in leased)
    yield from (place for place in store.home.glob("images/*/*/*") if not (place / "manifest.json").exists())
    for pattern in ("trees/.*.new", "partial/*", "building/*"):
        for place in store.home.glob(pattern):
            if locks.enter_context(unless_held(place.with_suffix(".lock") if place.is_dir() else place)):
                yield place


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())
