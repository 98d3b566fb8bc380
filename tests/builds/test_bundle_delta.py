"""A bundle for a host that has the version before: a delta, applied by the real xdelta3, refused where it is none's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from anklume_images.bundle.checked import Opened, check
from anklume_images.bundle.delta import deltas_for
from anklume_images.bundle.gather import Chosen, gather
from anklume_images.bundle.index import BundleError
from anklume_images.bundle.needs import take_inventory
from anklume_images.bundle.parts import Sink, Source
from anklume_images.bundle.reader import BundleReader
from anklume_images.bundle.receive import receive
from anklume_images.bundle.writer import write_bundle
from anklume_images.console import Console
from anklume_images.ship.by_delta import DeltaError, keep_deltas
from anklume_images.ship.delta_programs import Programs, programs_of
from anklume_images.ship.deltas import make_delta, pairs
from anklume_images.ship.index import listed_images
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.origins import Origins
from tests.builds.test_deltas import bytes_of, version
from tests.support.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anklume_images.bundle.needs import Inventory

QUIET = Console(quiet=True)


TREE = "t" * 64  # the digest of it, as a bundle's maker and its reader know it


@pytest.fixture
def programs(incus_tree: Callable[[str], Path]) -> Programs:
    return programs_of(incus_tree("incus-7"))


def make(theirs: Publisher, path: Path, inventory: Inventory | None = None) -> Path:
    image = theirs.images.resolve("app", "amd64")
    deltas = tuple(deltas_for(theirs.images, [image], inventory, TREE)) if inventory else ()
    keep_deltas(theirs.store, deltas)
    theirs.sign()
    with theirs.store.lease() as lease:
        gathered = gather(theirs.store, theirs.repository, Chosen((image,), deltas=deltas), lease, inventory)
        write_bundle(gathered, Sink(path), QUIET)
    return path


def take(path: Path, store: Store, fingerprint: str, programs: Programs) -> None:
    source = Source.at(str(path))
    with contextlib.closing(source), store.scratch("test") as scratch:
        opened = Opened(BundleReader(source), scratch / "bundle")
        origins = Origins(store)
        origins.accept(opened.place, fingerprint, "me@here")
        checked = check(opened, origins.at(opened.place), store.home)
        receive(opened, checked, Images(store), store, QUIET, programs=lambda: programs)


def test_a_host_that_has_the_version_before_is_sent_the_delta(tmp_path: Path, programs: Programs) -> None:
    theirs, far = Publisher(tmp_path), Store(tmp_path / "far")
    one = version(theirs.store, 1, bytes_of("a"))
    first = make(theirs, tmp_path / "first")
    fingerprint = theirs.repository.identity
    take(first, far, fingerprint, programs)
    two = version(theirs.store, 2, bytes_of("a") + bytes_of("b", 50_000))
    (pair,) = pairs(listed_images(theirs.store, theirs.images), ())
    make_delta(theirs.store, pair, lambda: programs)
    whole = make(theirs, tmp_path / "whole", take_inventory(far))
    update = make(theirs, tmp_path / "update", take_inventory(far, tree=TREE))
    assert update.stat().st_size < whole.stat().st_size * 0.15

    sound = far.blobs.path(one.rootfs.sha256).read_bytes()
    far.blobs.path(one.rootfs.sha256).write_bytes(sound[:-1] + b"?")
    with pytest.raises(DeltaError, match="damaged"):
        take(update, far, fingerprint, programs)
    assert Images(far).get("app", two.version, "amd64") is None
    far.blobs.path(one.rootfs.sha256).write_bytes(sound)
    take(update, far, fingerprint, programs)
    assert Images(far).resolve("app", "amd64") == two
    assert far.blobs.verify(two.rootfs.sha256)

    with pytest.raises(BundleError, match="leaves out"):
        take(update, Store(tmp_path / "other"), fingerprint, programs)
