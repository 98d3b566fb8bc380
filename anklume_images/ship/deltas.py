"""Deltas between versions: made by xdelta3 out of a tree, read back before they count, kept where they pay."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from anklume_images.errors import HostError, StoreError
from anklume_images.files import CHUNK
from anklume_images.linux import die_with_parent
from anklume_images.ship.catalogue import predecessors
from anklume_images.store.blobs import hash_file
from anklume_images.store.deltas import Delta, write_delta
from anklume_images.store.images import Images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from anklume_images.ship.simplestreams import Listed
    from anklume_images.store.images import Summary
    from anklume_images.store.store import Store

__all__ = ["MOST", "DeltaReport", "Pair", "make_delta", "pairs", "run_xdelta", "xdelta_of"]

MOST = 50  # percent of the whole file: what is larger does not pay
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
    """What became of a pair; `size` is that of the delta, in bytes."""

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


def xdelta_of(tree: Path) -> list[str]:
    """How to run xdelta3 out of an unpacked tree, by the tree's own loader: it needs neither root nor a namespace."""
    loader = next(tree.glob("usr/lib*/ld-linux-*.so.?"), None) or next(tree.glob("usr/lib/*/ld-linux-*.so.?"), None)
    libraries = next(tree.glob("usr/lib/*-linux-gnu"), None)
    if loader is None or libraries is None or not (tree / "usr/bin/xdelta3").exists():
        raise HostError("the tree has no xdelta3", where=str(tree))
    return [str(loader), "--library-path", str(libraries), str(tree / "usr/bin/xdelta3")]


def make_delta(store: Store, pair: Pair, xdelta: Sequence[str], most: int = MOST) -> DeltaReport:
    """Make the delta of a pair, unless it is there, and keep it where it has at most `most` percent of the whole.

    The index is to be written afterwards.
    """
    if pair.delta:
        return DeltaReport(pair, "present", pair.delta.size)
    images, later = Images(store), pair.later
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
        run_xdelta([*xdelta, *_ENCODE, "-s", str(before), str(after), str(file)])
        size = file.stat().st_size
        if size * 100 > later.rootfs.size * most:
            return DeltaReport(pair, "too large", size)
        _check([*xdelta, "-d", "-q", "-c", "-s", str(before), str(file)], later)
        delta = Delta(pair.earlier.version, hash_file(file), size)
        lease.add([delta.sha256])
        store.blobs.adopt(file, delta.sha256)
        folder = images.folder(later.name, later.version, later.architecture)
        with store.guarded():
            if not (folder / "manifest.json").exists():
                raise StoreError(f"the store has no {later.ref} any more", where=str(store.home))
            write_delta(folder, delta)
    return DeltaReport(pair, "made", size)


def _check(argv: Sequence[str], later: Summary) -> None:
    """Apply the delta and compare what comes out, as Incus will."""
    digest = hashlib.sha256()
    run_xdelta(argv, digest.update)
    if digest.hexdigest() != later.rootfs.sha256:
        raise HostError(f"xdelta3 made a delta to {later.ref} that makes another file")


def run_xdelta(argv: Sequence[str], take: Callable[[bytes], object] = bytes) -> None:
    """Run xdelta3, which ends with this process, and hand on what it writes to its output."""
    with tempfile.TemporaryFile("w+b") as errors:
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - this command has no threads
        ) as process:
            assert process.stdout is not None  # noqa: S101  asked for above
            while chunk := process.stdout.read(CHUNK):
                take(chunk)
        if process.returncode:
            errors.seek(0)
            said = errors.read(1 << 12).decode(errors="replace").strip()
            raise HostError(f"xdelta3 failed with exit code {process.returncode}: {said or 'it says nothing'}")
