"""What gc keeps, and why: channels and what they can go back to, bases, locks, models, trees, running commands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.canonical import what_is_wrong
from anklume_images.errors import StoreError
from anklume_images.store.deltas import read_delta
from anklume_images.store.generations import generations
from anklume_images.store.infra_locks import locked_by_infra
from anklume_images.store.store import tree_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from anklume_images.store.images import Image, Images

__all__ = ["Kept", "Roots", "find_roots", "inputs_of"]

RUNNING = "a running command"
_SHA256 = re.compile(r"[0-9a-f]{64}")
Key = tuple[str, str, str]


@dataclass
class Kept:
    """An image that stays; a `whole` one with its base and the inputs of both, so that it can be built again."""

    image: Image
    why: list[str] = field(default_factory=list)
    whole: bool = False


@dataclass(frozen=True)
class Roots:
    """Why images, blobs and trees stay: `names` are blobs by sha256, and trees and kept sandboxes by their folders."""

    images: Mapping[Key, Kept]
    names: Mapping[str, Sequence[str]]

    def keeps(self, image: Image) -> bool:
        """Say whether an image stays."""
        return image.key in self.images


def find_roots(
    images: Images,
    listed: Sequence[Image],
    leased: AbstractSet[str],
    trees: Mapping[str, str],
    blobs: Mapping[str, str],
    keep: int,
) -> Roots:
    """Mark what stays; `trees` (by digest) and `blobs` say what wants them, `keep` how many versions channels keep."""
    known = {image.key: image for image in listed}
    kept: dict[Key, Kept] = {}
    for key, why, whole in _named(images, keep):
        if key in known:
            entry = kept.setdefault(key, Kept(known[key]))
            entry.why.append(why)
            entry.whole |= whole
    _keep_bases(kept, known)
    for image in listed:
        if image.rootfs.sha256 in leased:
            kept.setdefault(image.key, Kept(image)).why.append(RUNNING)
    return Roots(kept, _names(images, kept.values(), leased, trees, blobs))


def _names(
    images: Images,
    kept: Iterable[Kept],
    leased: AbstractSet[str],
    trees: Mapping[str, str],
    blobs: Mapping[str, str],
) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    entries = list(kept)
    there = {entry.image.key for entry in entries}
    for entry in entries:
        image = entry.image
        delta = read_delta(images.folder(image.name, image.version, image.architecture))
        if delta and (image.name, delta.base, image.architecture) in there:
            for sha256 in delta.blobs:
                names.setdefault(sha256, []).append(f"the delta to {image.ref} ({image.architecture})")
        needed = [*image.blobs(), *(_inputs(images, image) if entry.whole else ())]
        for name in needed:
            names.setdefault(name, []).append(f"the image {image.ref} ({image.architecture})")
    for wanted in (
        {tree_path(images.home, digest).name: why for digest, why in trees.items()},
        blobs,
        dict.fromkeys(leased, RUNNING),
    ):
        for name, why in wanted.items():
            names.setdefault(name, []).append(why)
    return names


def _named(images: Images, keep: int) -> Iterator[tuple[Key, str, bool]]:
    """What channels name and can go back to. What a channel's log names counts even where the channel is damaged."""
    history = images.log.read()
    if history.breaks:  # a line that is lost may be the one that says what a damaged channel named
        raise images.log.damaged()
    places = list(images.log.places())
    for place in places:
        yield (place.image, images.log.version(place) or "", place.architecture), f"channel {place.channel}", True
    there = set(places)
    for place in {move.place: None for move in history.moves}:
        if place in there:
            for version in sorted(generations(history.of(place), keep) - {images.log.version(place)}):
                yield (place.image, version, place.architecture), f"channel {place.channel} can go back to it", False
    for key, project in locked_by_infra(images.home):
        yield key, f"the lock of the infra {project}", False


def _keep_bases(kept: dict[Key, Kept], known: Mapping[Key, Image]) -> None:
    todo = [entry.image for entry in kept.values() if entry.whole]
    seen = {image.key for image in todo}
    while todo:
        image = todo.pop(0)
        if image.base is None:
            continue
        key = (image.base["name"], image.base["version"], image.architecture)
        if key not in known:
            continue
        entry = kept.setdefault(key, Kept(known[key]))
        entry.why.append(f"base of {image.ref}")
        entry.whole = True
        if key not in seen:
            seen.add(key)
            todo.append(known[key])


def _inputs(images: Images, image: Image) -> Iterator[str]:
    yield image.toolchain[:32]
    yield from inputs_of(images.document(image, "lock"), f"{images.folder(*image.key)}/lock.json")


def inputs_of(lock: Any, where: str) -> list[str]:
    """The sha256 of each input that the lock of an image names; StoreError when it is none."""
    try:
        found = [entry["sha256"] for kind in ("debs", "wheels", "files") for entry in lock[kind]]
        if not all(_SHA256.fullmatch(sha256) for sha256 in found):
            raise ValueError("the name of an input is not a sha256")  # noqa: TRY301  told as the others are
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"not the lock of an image: {what_is_wrong(error)}", where=where, hint="verify the store"
        ) from None
    return found
