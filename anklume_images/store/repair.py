"""Put right what `verify` found: from another store, from the mirrors, or by removing what is to be made anew."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.files import CHUNK, fsync_directory, open_regular
from anklume_images.inputs.lockfile import Deb, ReleaseFile, Wheel
from anklume_images.store.images import Images
from anklume_images.store.override_log import OverrideLog
from anklume_images.store.promotion_log import PromotionLog
from anklume_images.store.sums import damaged_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.channel_log import Place
    from anklume_images.store.store import Store
    from anklume_images.store.verify import Damage

__all__ = ["Repaired", "locked_files", "repair"]

_COMMAND = "verify --repair"


@dataclass(frozen=True)
class Repaired:
    """What was done about a damage; `left` when it is still there."""

    done: str
    left: bool = False


def repair(
    store: Store,
    images: Images,
    damage: Sequence[Damage],
    others: Sequence[Store] = (),
    fetch: Callable[[str, LockedFile], None] | None = None,
    served: Callable[[str], str | None] = lambda _sha256: None,
) -> list[tuple[Damage, Repaired]]:
    """Put right what can be; bytes from elsewhere are compared with their hash before they count.

    `others` are stores that are asked in turn. `served` has a blob from a store that is served, and says from which;
    it is asked next, and then `fetch`, which has an input of the named image from the mirrors.
    """
    results = []
    done: dict[object, Repaired] = {}
    inputs = locked_files(images) if fetch else {}
    # Channels are put back by what can be read of the log.
    for one in sorted(damage, key=lambda one: one.log is not None):
        what = one.blob or one.documents or one.channel or one.tree or one.derived or one.log
        if what not in done:
            if one.blob:
                done[what] = _blob(store, one.blob, others, served, inputs, fetch)
            elif one.documents:
                done[what] = _documents(store, images, one.documents, others)
            elif one.channel:
                done[what] = _channel(store, images, one.channel)
            elif one.tree:
                done[what] = _tree(store, one.tree)
            elif one.derived:
                one.derived.unlink(missing_ok=True)
                done[what] = Repaired("removed, to be written again")
            elif one.log:
                done[what] = _log(store, images, one.log)
            else:
                done[what] = Repaired("left as it is", left=True)
        results.append((one, done[what]))
    return results


def locked_files(images: Images) -> dict[str, tuple[str, LockedFile]]:
    """The inputs that images' locks name, by sha256, each with the name of its image."""
    kinds: dict[str, type[LockedFile]] = {"debs": Deb, "wheels": Wheel, "files": ReleaseFile}
    found: dict[str, tuple[str, LockedFile]] = {}
    for image in images.readable():
        try:
            lock = images.document(image, "lock")
            entries = [kind(**entry) for name, kind in kinds.items() for entry in lock[name]]
        except (StoreError, ValueError, TypeError, KeyError):
            continue
        for entry in entries:
            found.setdefault(entry.sha256, (image.name, entry))
    return found


def _blob(
    store: Store,
    sha256: str,
    others: Sequence[Store],
    served: Callable[[str], str | None],
    inputs: dict[str, tuple[str, LockedFile]],
    fetch: Callable[[str, LockedFile], None] | None,
) -> Repaired:
    with store.lease() as lease:
        lease.add([sha256])
        for other in others:
            if _taken(store, sha256, other):
                return Repaired(f"taken from {other.home}")
        store.blobs.remove(sha256)
        if place := served(sha256):
            return Repaired(f"fetched from {place}")
        if fetch and sha256 in inputs:
            try:
                fetch(*inputs[sha256])
            except AnklumeError as error:
                return Repaired(f"removed; it could not be fetched: {error.message.splitlines()[0]}")
            return Repaired("fetched again")
    return Repaired("removed, to be fetched or built again")


def _taken(store: Store, sha256: str, other: Store) -> bool:
    """Copy a blob out of another store, if it is sound there."""
    digest = hashlib.sha256()
    with store.scratch("repair") as scratch:
        copy = scratch / sha256
        try:
            source = open_regular(other.blobs.path(sha256))
        except OSError:
            return False
        with source, copy.open("wb") as target:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
        if digest.hexdigest() != sha256:
            return False
        store.blobs.adopt(copy, sha256)
    return True


def _documents(store: Store, images: Images, key: tuple[str, str, str], others: Sequence[Store]) -> Repaired:
    """Take an image's documents from a store where they are sound, with its files where they are not here."""
    target = images.folder(*key)
    gone = not target.exists()
    for other in others:
        with store.scratch("repair") as scratch, store.lease() as lease:
            try:
                shutil.copytree(Images(other).folder(*key), scratch / "new")
            except (FileNotFoundError, shutil.Error):
                continue
            image = None if damaged_files(scratch / "new") else Images(other).get(*key)
            if image is None:
                continue
            files = [file.sha256 for file in (image.metadata, image.rootfs)]
            lease.add(files)
            if not all(store.blobs.has(sha256) or _taken(store, sha256, other) for sha256 in files):
                continue
            with store.guarded(exclusively=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.exists():
                    target.rename(scratch / "old")
                (scratch / "new").rename(target)
                fsync_directory(target.parent)
        return Repaired(f"taken from {other.home}")
    hint = "name a store that has it sound with --from, or build it again"
    if gone:  # a channel names it
        hint = "name a store that has it with --from, build it again, or remove the channel with `channel rm`"
    return Repaired(f"left as it is: {hint}", left=True)


def _channel(store: Store, images: Images, place: Place) -> Repaired:
    """Put a channel where its log has it; record one that the log does not know."""
    with store.guarded():
        version = images.log.restore(place, command=_COMMAND, why="its file was not as its log has it")
    return Repaired(f"names {version} again" if version else "recorded as it is")


def _log(store: Store, images: Images, name: str) -> Repaired:
    for log in (PromotionLog(store), OverrideLog(store)):
        if store.home / name == log.chain.path:
            log.begin_anew()
            return Repaired("put aside, and another begun")
    with store.guarded():
        images.log.begin(command=_COMMAND, why="the log before was damaged")
    return Repaired("put aside, and another begun with the channels as they are")


def _tree(store: Store, tree: Path) -> Repaired:
    with store.guarded(exclusively=True):
        if tree.name in store.leased():
            return Repaired("left as it is: a running command uses it", left=True)
        shutil.rmtree(tree)
    return Repaired("removed, to be unpacked again")
