"""Deltas between versions: made by xdelta3, read back before they count, kept where they pay."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from anklume_images.errors import HostError, StoreError
from anklume_images.ship.by_delta import keep_deltas, signed_delta
from anklume_images.ship.catalogue import predecessors
from anklume_images.ship.delta_programs import DECODE, run_xdelta
from anklume_images.ship.repack import encode_contents, packing_of, repack
from anklume_images.store.blobs import hash_file
from anklume_images.store.deltas import ContentsDelta, Delta, write_delta
from anklume_images.store.images import Images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from anklume_images.ship.delta_programs import Programs
    from anklume_images.ship.simplestreams import Listed
    from anklume_images.store.images import Summary
    from anklume_images.store.store import Store

__all__ = ["MOST", "DeltaReport", "Pair", "make_delta", "pairs"]

MOST = 50  # percent of the whole file: what is larger does not pay
_ENOUGH = 10  # percent; where a delta has more, one between the contents is made too, which takes longer to apply
# Level 1 and xdelta3's default window, 64 MiB of the earlier file: between versions of images as large as 266 MiB level
# 9 and a window of 512 MiB made the delta 0.1 to 0.7 % smaller, in 1.2 GiB of memory rather than 120 MiB. What an
# image has is compressed: a second compression finds nothing.
_ENCODE = ("-e", "-1", "-S", "none", "-B", str(64 << 20), "-q", "-f")


@dataclass(frozen=True)
class Pair:
    """Two versions of an image between which there can be a delta, and the one that is there."""

    earlier: Summary
    later: Summary
    delta: Delta | None


@dataclass(frozen=True)
class DeltaReport:
    """What became of a pair; `size` is that of the delta, in bytes, the smaller one where there are two."""

    pair: Pair
    status: Literal["made", "present", "too large"]
    size: int


def pairs(listed: Sequence[Listed], names: Iterable[str]) -> list[Pair]:
    """The versions that a channel names, of the named images or of all, each with the one before it."""
    chosen = set(names)
    of = {(one.image.ref, one.image.architecture): one for one in listed}
    found = []
    for later, earlier in predecessors(listed):
        one = of[later.ref, later.architecture]
        if one.channels and (not chosen or later.name in chosen):
            delta = one.delta if one.delta and one.delta.base == earlier.version else None
            found.append(Pair(earlier, later, delta))
    return found


def make_delta(store: Store, pair: Pair, programs: Callable[[], Programs], most: int = MOST) -> DeltaReport:
    """Make the delta of a pair, unless it is there, and keep it where it has at most `most` percent of the whole.

    The index is to be written afterwards, and the store to be signed, for others to hear of it.
    """
    if pair.delta:
        return _kept(store, pair, pair.delta, "present")  # what tells of it too, which an earlier program did not write
    images, later, tools = Images(store), pair.later, programs()
    with store.lease() as lease, store.scratch("delta") as scratch:
        lease.add([pair.earlier.rootfs.sha256, later.rootfs.sha256])
        before, after = store.blobs.path(pair.earlier.rootfs.sha256), store.blobs.path(later.rootfs.sha256)
        for image in (pair.earlier, later):
            if not store.blobs.verify(image.rootfs.sha256):
                raise StoreError(
                    f"the root file system of {image.ref} is missing or damaged",
                    where=str(store.blobs.path(image.rootfs.sha256)),
                    hint="anklume-images verify --repair, then build it again",
                )
        file = scratch / "delta"
        run_xdelta([*tools.xdelta, *_ENCODE, "-s", str(before), str(after), str(file)])
        size = file.stat().st_size
        if size * 100 > later.rootfs.size * most:
            return DeltaReport(pair, "too large", size)
        _check([*tools.xdelta, *DECODE, "-s", str(before), str(file)], later)
        contents = None
        if size * 100 > later.rootfs.size * _ENOUGH and (made := _of_contents(before, after, scratch, tools, later)):
            contents_file, contents = made
        delta = Delta(pair.earlier.version, hash_file(file), size, contents)
        lease.add(delta.blobs)
        store.blobs.adopt(file, delta.sha256)
        if contents:
            store.blobs.adopt(contents_file, contents.sha256)
        folder = images.folder(later.name, later.version, later.architecture)
        with store.guarded():
            if not (folder / "manifest.json").exists():
                raise StoreError(f"the store has no {later.ref} any more", where=str(store.home))
            write_delta(folder, delta)
        return _kept(store, pair, delta, "made")


def _kept(store: Store, pair: Pair, delta: Delta, status: Literal["made", "present"]) -> DeltaReport:
    told = signed_delta(pair.earlier.rootfs.sha256, pair.later.rootfs.sha256, delta)
    keep_deltas(store, [told])
    return DeltaReport(pair, status, told.size)


def _of_contents(
    before: Path, after: Path, scratch: Path, programs: Programs, later: Summary
) -> tuple[Path, ContentsDelta] | None:
    """The delta between what is in the files, where packing makes the later one again; none for other files."""
    packing = packing_of(after)
    if packing is None or packing_of(before) is None:
        return None
    file = encode_contents(before, after, scratch, programs)
    if hash_file(repack(before, file, packing, later.rootfs.size, scratch, programs)) != later.rootfs.sha256:
        return None
    return file, ContentsDelta(hash_file(file), file.stat().st_size, packing)


def _check(argv: Sequence[str], later: Summary) -> None:
    """Apply the delta and compare what comes out, as Incus will."""
    digest = hashlib.sha256()
    run_xdelta(argv, digest.update)
    if digest.hexdigest() != later.rootfs.sha256:
        raise HostError(f"xdelta3 made a delta to {later.ref} that makes another file")
