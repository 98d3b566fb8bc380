"""The store: collecting a thousand versions, and verifying as fast as the CPUs hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from anklume_images.inputs.lockfile import load_locks
from anklume_images.store.images import Image, Images, Package, StoredFile
from anklume_images.store.store import Store
from tests.bench.measure import RUNS, figures, pairs, say, seconds
from tests.support.blobs import put_blob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.inputs.lockfile import Lock
    from tests.bench.measure import Bench

IMAGES, VERSIONS = 20, 50  # a thousand together
MOST = 2 << 30  # bytes of blobs that are verified


def store(bench: Bench) -> None:
    """A thousand versions of twenty images collected; blobs verified against sha256sum on all CPUs."""
    home = bench.place() / "store"
    lock = load_locks(bench.pipeline.catalog.get("debian").lock_file)["amd64"]
    with _without_fsync():
        _fill(Store(home), lock)
    say(f"{IMAGES} images of {VERSIONS} versions, {len(lock.debs)} packages each")
    figures(
        "gc that removes 960 of them",
        "≤ 5 s",
        [_collect(home, home.with_name(f"copy-{number}")) for number in range(RUNS)],
    )
    _verify(bench)


def _fill(store: Store, lock: Lock) -> None:
    images = Images(store)
    store.create()
    packages = tuple(Package("deb", deb.package, deb.version) for deb in lock.debs)
    locked = json.dumps(asdict(lock), sort_keys=True, indent=1).encode()
    for name in (f"image-{number}" for number in range(IMAGES)):
        for number in range(VERSIONS):
            version = f"{number}.0-{hashlib.sha256(f'{name} {number}'.encode()).hexdigest()[:12]}"
            data = [f"{part} of {name} {number}".encode() * 100 for part in ("metadata", "rootfs")]
            files = [StoredFile(put_blob(store.blobs, part), len(part)) for part in data]
            print_ = hashlib.sha256(b"".join(data)).hexdigest()
            about = ("0" * 64, print_, *files, 1, 0, "An image to measure with", "0" * 64)
            image = Image(name, version, "amd64", *about, packages=packages)
            images.add(image, {"recipe.json": b"{}", "lock.json": locked, "sbom.cdx.json": locked})
            images.set_channel(name, "amd64", "latest", version, command="build")
        images.set_channel(name, "amd64", "prod", version, command="channel set")


@contextmanager
def _without_fsync() -> Iterator[None]:
    with mock.patch.object(os, "fsync"):  # what is measured is read, not kept
        yield


def _run(home: Path, *arguments: str) -> None:
    program = Path(sys.executable).with_name("anklume-images")
    subprocess.run(
        [program, "--store", home, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )


def _collect(home: Path, copy: Path) -> float:
    subprocess.run(["cp", "-al", home, copy], check=True)
    took = seconds(lambda: _run(copy, "gc"))
    shutil.rmtree(copy)
    return took


def _verify(bench: Bench) -> None:
    """Blobs of the real store, the largest among them, in a store of their own; both read them from memory."""
    home = bench.place() / "store"
    Store(home).create()
    source = bench.pipeline.store.blobs
    left = MOST
    for sha256 in sorted(source, key=lambda name: -source.path(name).stat().st_size):
        size = source.path(sha256).stat().st_size
        if size <= left:
            left -= size
            target = Store(home).blobs.path(sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source.path(sha256), target)
    blobs = str(home / "blobs")
    others = f"find {blobs} -type f -print0 | xargs -0 -n 1 -P {os.cpu_count()} sha256sum > /dev/null"
    subprocess.run(["sh", "-c", others], check=True)
    pairs(
        f"verify {(MOST - left) >> 20} MiB against sha256sum on {os.cpu_count()} CPUs",
        "≤ 1.25",
        lambda: _run(home, "verify"),
        lambda: subprocess.run(["sh", "-c", others], check=True),
    )
