"""Garbage collection: remove what no root needs (`roots`), or, within a budget, the oldest of that.

An image that a channel names keeps its files, its base image, and the inputs of both, so that it can be built again
and checked without a network. One that a channel can go back to keeps its files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.store.generations import GENERATIONS
from anklume_images.store.models import ModelRecords
from anklume_images.store.roots import Roots, find_roots
from anklume_images.store.store import unless_held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["GcReport", "Wants", "collect", "reasons", "reasons_of_name"]


@dataclass(frozen=True)
class Wants:
    """What is to stay beside what the store itself names: trees by digest, blobs by sha256, each with who wants it.

    `keep` is how many versions a channel keeps, the one that it names included.
    """

    trees: Mapping[str, str] = field(default_factory=dict)
    blobs: Mapping[str, str] = field(default_factory=dict)
    keep: int = GENERATIONS


@dataclass(frozen=True)
class GcReport:
    """What was removed, one line each, and the bytes freed; `size` is what the store has then, where it was measured.

    `fits` says whether that is within the budget.
    """

    removed: tuple[str, ...]
    bytes: int
    size: int | None = None
    fits: bool = True


@dataclass(frozen=True)
class _Item:
    """Something that nothing needs: an image with its blobs, a tree, or a blob; `time` is when it came, in ns."""

    time: int
    image: Image | None = None
    tree: Path | None = None
    blobs: tuple[str, ...] = ()
    bytes: int = 0


def reasons(store: Store, images: Images, image: Image, wants: Wants | None = None) -> list[str]:
    """What keeps an image: channels, images made from it, running commands."""
    kept = _roots(store, images, wants or Wants()).images.get(image.key)
    return list(kept.why) if kept else []


def reasons_of_name(store: Store, images: Images, start: str, wants: Wants | None = None) -> dict[str, list[str]]:
    """What keeps each blob and tree whose name begins with these hex digits; nothing that is not there."""
    names = [name for name in store.blobs if name.startswith(start)]
    names += [place.name for place in _trees(store.home / "trees") if place.name.startswith(start)]
    if not names:
        return {}
    roots = _roots(store, images, wants or Wants())
    return {name: list(roots.names.get(name, ())) for name in names}


def _roots(store: Store, images: Images, wants: Wants) -> Roots:
    with store.guarded(exclusively=True, as_it_is=True):
        blobs = _wanted(store, wants)
        return find_roots(images, list(images), store.leased(), wants.trees, blobs, wants.keep)


def _wanted(store: Store, wants: Wants) -> dict[str, str]:
    """The blobs that something beside images wants, with what that is."""
    return {**wants.blobs, **dict.fromkeys(ModelRecords(store).needed(), "a model")}


def collect(
    store: Store,
    images: Images,
    wants: Wants,
    *,
    dry_run: bool = False,
    budget: int | None = None,
    unlist: Callable[[], object] = lambda: None,
) -> GcReport:
    """Remove what nothing needs; with a `budget` in bytes only the oldest, until the store is no larger than that.

    Blobs of models that were imported or pulled are kept by their records. `unlist` is called when images are gone
    and their files are yet to go: nobody is to be sent there any more.
    """
    if not (store.home / "schema").exists():
        return GcReport((), 0, 0)
    store.sweep()
    images.settle()
    with store.guarded(exclusively=True, as_it_is=dry_run):
        leased = store.leased()
        listed = list(images)
        roots = find_roots(images, listed, leased, wants.trees, _wanted(store, wants), wants.keep)
        size = None if budget is None else _size_of_all(store.home)
        removed: list[str] = []
        freed = _leftovers(store, leased, removed, dry_run=dry_run)
        items = _unneeded(store, listed, roots)
        if budget is not None and size is not None:
            items = _oldest(items, size - freed - budget)
        freed += sum(item.bytes for item in items)
        if not dry_run:
            _remove(store, images, items, unlist)
            _prune(store.home / "images")
        lines = [line for item in items for line in _lines(item)]
    left = None if size is None else size - freed
    kinds = ("image", "tree", "blob")
    lines.sort(key=lambda line: kinds.index(line.split()[0]))
    return GcReport((*lines, *removed), freed, left, budget is None or left is None or left <= budget)


def _unneeded(store: Store, listed: list[Image], roots: Roots) -> list[_Item]:
    """What can go, the oldest first; a blob of several images goes with the last of them."""
    gone = [image for image in listed if not roots.keeps(image)]
    times = {image.key: _time(_documents(store, image) / "manifest.json") for image in gone}
    gone.sort(key=lambda image: (times[image.key], image.key))
    owner: dict[str, Image] = {}
    for image in gone:
        owner |= dict.fromkeys(image.blobs(), image)
    blobs: dict[str, list[str]] = {}
    items = []
    for sha256 in store.blobs:
        if sha256 in roots.names:
            continue
        if sha256 in owner:
            blobs.setdefault(owner[sha256].ref + owner[sha256].architecture, []).append(sha256)
        else:
            status = store.blobs.path(sha256).stat()
            items.append(_Item(status.st_mtime_ns, blobs=(sha256,), bytes=status.st_size))
    for image in gone:
        names = tuple(blobs.get(image.ref + image.architecture, ()))
        size = sum(store.blobs.path(name).stat().st_size for name in names) + _size(_documents(store, image))
        items.append(_Item(times[image.key], image=image, blobs=names, bytes=size))
    trees = [place for place in _trees(store.home / "trees") if place.name not in roots.names]
    items += [_Item(_time(place), tree=place, bytes=_size(place)) for place in trees]
    return sorted(items, key=lambda item: item.time)


def _oldest(items: list[_Item], excess: int) -> list[_Item]:
    """The first of the items that together have so many bytes."""
    chosen = []
    for item in items:
        if excess <= 0:
            break
        chosen.append(item)
        excess -= item.bytes
    return chosen


def _lines(item: _Item) -> list[str]:
    lines = [f"image {item.image.ref} ({item.image.architecture})"] if item.image else []
    lines += [f"tree {item.tree.name}"] if item.tree else []
    return lines + [f"blob {sha256}" for sha256 in item.blobs]


def _remove(store: Store, images: Images, items: list[_Item], unlist: Callable[[], object]) -> None:
    """Images first: what is killed then leaves blobs that nobody names, never an image without its files."""
    for item in items:
        if item.image:
            images.remove(item.image)
    unlist()
    for item in items:
        if item.tree:
            shutil.rmtree(item.tree)
        for sha256 in item.blobs:
            store.blobs.remove(sha256)


def _prune(folder: Path) -> None:
    """Remove the empty folders of versions and names that a killed removal left."""
    for pattern in ("*/*", "*"):
        for place in folder.glob(pattern):
            with contextlib.suppress(OSError):  # it is not empty
                place.rmdir()


def _documents(store: Store, image: Image) -> Path:
    return store.home / "images" / image.name / image.version / image.architecture


def _time(path: Path) -> int:
    return path.stat().st_mtime_ns


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
    for pattern in (".schema.*", "history/.*.*", "channels/*/*/.*"):
        yield from store.home.glob(pattern)  # files that were yet to be renamed; who writes them holds gc.lock
    for pattern in ("trees/.*.new", "partial/*", "building/*"):
        for place in store.home.glob(pattern):
            if locks.enter_context(unless_held(place.with_suffix(".lock") if place.is_dir() else place)):
                yield place


def _size(place: Path) -> int:
    files = place.rglob("*") if place.is_dir() else [place]
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())


def _size_of_all(home: Path) -> int:
    """The bytes of all files of the store, each once."""
    sizes: dict[tuple[int, int], int] = {}
    for folder, _, names in os.walk(home):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    sizes[status.st_dev, status.st_ino] = status.st_size
        finally:
            os.close(descriptor)
    return sum(sizes.values())
