"""From store to store by a delta, with the real xdelta3: less is sent, and where it is of no use, the whole is."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from anklume_images.bundle.delta import deltas_for, pairs_for
from anklume_images.bundle.needs import take_inventory
from anklume_images.errors import HostError
from anklume_images.ship.by_delta import SignedDelta, apply_delta, delta_path
from anklume_images.ship.delta_programs import Programs, programs_of
from anklume_images.ship.deltas import make_delta, pairs
from anklume_images.ship.index import listed_images
from anklume_images.ship.promote import into_store
from anklume_images.ship.pull import Pulled, pull
from anklume_images.ship.wanted import wanted
from anklume_images.store.deltas import DELTA
from anklume_images.store.gc import Wants, collect
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from tests.builds.test_bundle_delta import TREE
from tests.builds.test_deltas import SIZE, bytes_of, version
from tests.support.publisher import Publisher

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anklume_images.ship.delta_programs import HostPrograms
    from anklume_images.store.images import Image

MORE = 50_000  # bytes of the later version that the earlier one has not


@dataclass(frozen=True)
class TreePrograms:
    """The programs of a tree that is there."""

    tree: Path

    def there(self) -> bool:
        return True

    def programs(self) -> Programs:
        return programs_of(self.tree)


@pytest.fixture
def programs(incus_tree: Callable[[str], Path]) -> TreePrograms:
    return TreePrograms(incus_tree("incus-7"))


class Site:
    """A signed store with two versions and the delta between them, and another one that has the first of them."""

    def __init__(self, folder: Path, programs: TreePrograms) -> None:
        self.theirs, self.far = Publisher(folder), Store(folder / "far")
        self.one = version(self.theirs.store, 1, bytes_of("a"))
        self.theirs.sign()
        self.far.create()
        self.origins = Origins(self.far)
        self.place = Place(str(self.theirs.store.home))
        self.origins.accept(self.place, self.theirs.repository.identity, "me@here")
        self.pulled(None)
        self.two = version(self.theirs.store, 2, bytes_of("a") + bytes_of("b", MORE))
        (pair,) = pairs(listed_images(self.theirs.store, self.theirs.images), ())
        self.delta = make_delta(self.theirs.store, pair, programs.programs).size
        self.theirs.sign()

    def pulled(self, programs: HostPrograms | None) -> Pulled:
        origin = self.origins.contact(str(self.place))
        image, channel = origin.resolve("app", "amd64")
        return pull(origin, image, Images(self.far), self.far, channel=channel, programs=programs)

    def has(self, image: Image) -> bool:
        """Whether the other store has that and names it, and nothing lies about that was for the way only."""
        assert Images(self.far).resolve("app", "amd64") == image
        assert self.far.blobs.verify(image.rootfs.sha256)
        files = {file.sha256 for one in Images(self.far) for file in (one.metadata, one.rootfs)}
        return set(self.far.blobs) == files and not list(self.far.blobs.partial.iterdir())


@pytest.fixture
def site(tmp_path: Path, programs: TreePrograms) -> Site:
    return Site(tmp_path, programs)


def test_a_store_that_has_the_version_before_pulls_the_delta(site: Site, programs: TreePrograms) -> None:
    assert site.pulled(programs).bytes == site.delta + site.two.metadata.size < SIZE * 0.15
    assert site.has(site.two)
    assert site.pulled(programs).bytes == 0


def test_promoting_into_a_folder_reads_the_delta(site: Site, programs: TreePrograms) -> None:
    sent = into_store(
        site.two, site.theirs.images, Images(site.far), site.far,
        channel="latest", why="", sign=None, progress=None, programs=programs,
    )  # fmt: skip
    assert sent.bytes == site.delta + site.two.metadata.size
    assert site.has(site.two)


def test_where_a_delta_is_of_no_use_the_whole_is_fetched(site: Site, programs: TreePrograms) -> None:
    """It was damaged, its start is, it makes another file: all of that is found out, and what comes is right."""
    whole = site.two.rootfs.size + site.two.metadata.size
    path = site.far.blobs.path(site.one.rootfs.sha256)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + b"?")
    assert site.pulled(programs).bytes == site.delta + whole
    path.write_bytes(sound)
    assert site.has(site.two)


@pytest.mark.parametrize("wrong", ["bytes", "file", "unsigned"])
def test_a_delta_that_is_none(site: Site, programs: TreePrograms, wrong: str) -> None:
    store, rootfs = site.theirs.store, site.two.rootfs
    document = store.home / delta_path(rootfs.sha256)
    whole, blob = rootfs.size + site.two.metadata.size, site.theirs.store.blobs
    if wrong == "bytes":
        (name,) = [name for name in blob if blob.path(name).stat().st_size == site.delta]
        blob.path(name).write_bytes(bytes(site.delta))
    elif wrong == "file":  # signed, of a delta to another file
        three = version(store, 3, bytes_of("a") + bytes_of("c", MORE))
        pair = next(pairs_for(listed_images(store, site.theirs.images), [three], take_inventory(site.far, tree=TREE)))
        make_delta(store, pair, programs.programs)
        (other,) = deltas_for(site.theirs.images, [three], take_inventory(site.far, tree=TREE), TREE)
        document.write_bytes(SignedDelta(other.earlier, rootfs.sha256, other.sha256, other.size).to_bytes())
        site.theirs.images.set_channel("app", "amd64", "latest", site.two.version)
        site.theirs.sign()
    else:
        document.write_bytes(document.read_bytes() + b"\n")
    report = site.pulled(programs)
    assert report.bytes >= whole
    assert site.has(site.two)


def test_no_delta_without_its_programs_or_where_less_is_left_than_it_has(site: Site, programs: TreePrograms) -> None:
    (delta,) = deltas_for(site.theirs.images, [site.two], take_inventory(site.far, tree=TREE), TREE)
    whole = site.two.rootfs.size + site.two.metadata.size
    assert wanted(site.two, site.far, delta, None).bytes(site.far) == whole
    assert wanted(site.two, site.far, delta, programs).bytes(site.far) == site.delta + site.two.metadata.size
    part = site.far.blobs.partial / f"{site.two.rootfs.sha256}.part"
    part.write_bytes(site.theirs.store.blobs.path(site.two.rootfs.sha256).read_bytes()[: -site.delta])
    assert wanted(site.two, site.far, delta, programs).delta is None
    assert site.pulled(programs).bytes == site.delta + site.two.metadata.size
    assert site.has(site.two)


def test_a_bundle_for_a_host_starts_from_the_newest_version_that_it_has(site: Site) -> None:
    three = version(site.theirs.store, 3, bytes_of("a") + bytes_of("c", MORE))
    listed = listed_images(site.theirs.store, site.theirs.images)
    inventory = take_inventory(site.far, tree=TREE)
    (pair,) = pairs_for(listed, [site.two, three], inventory)  # the second has a delta
    assert (pair.earlier.version, pair.later.version) == (site.one.version, three.version)
    assert list(pairs_for(listed, [site.one, three], take_inventory(site.far))) == []
    assert list(pairs_for(listed, [site.one], inventory)) == []


def squashed(programs: Programs, folder: Path, name: str, more: bytes) -> bytes:
    """A squashfs as builds pack them, of many small files, one of which is early and other in each version."""
    tree, packed = folder / name, folder / f"{name}.squashfs"
    tree.mkdir()
    (tree / "a").write_bytes(more)
    for number in range(600):
        (tree / f"file-{number}").write_bytes(bytes_of(str(number), 2000).hex().encode())
    options = ["-noappend", "-no-exports", "-no-progress", "-quiet", "-b", "1M", "-all-time", "7", "-mkfs-time", "9"]
    argv = [*programs.mksquashfs, str(tree), str(packed), *options, "-comp", "zstd", "-Xcompression-level", "12"]
    subprocess.run(argv, check=True)
    return packed.read_bytes()


def test_where_packing_moves_everything_the_contents_are_sent(tmp_path: Path, programs: TreePrograms) -> None:
    """One small file more, and the squashfs has little in common with the one before; what is in it has."""
    theirs, far = Publisher(tmp_path), Store(tmp_path / "far")
    theirs.store.create()
    one = version(theirs.store, 1, squashed(programs.programs(), tmp_path, "one", b""))
    into_store(one, theirs.images, Images(far), far, channel="latest", why="", sign=None, progress=None)
    two = version(theirs.store, 2, squashed(programs.programs(), tmp_path, "two", bytes_of("more", 70_001)))
    (pair,) = pairs(listed_images(theirs.store, theirs.images), ())
    report = make_delta(theirs.store, pair, programs.programs, 100)
    assert report.size < two.rootfs.size * 0.1
    whole, less = (
        next(deltas_for(theirs.images, [two], take_inventory(far, tree=TREE), tree)) for tree in ("another", TREE)
    )
    assert whole.size > two.rootfs.size * 0.4
    assert (less.size, whole.packing) == (report.size, None)
    collect(theirs.store, theirs.images, Wants())
    assert all(theirs.store.blobs.has(delta.sha256, delta.size) for delta in (whole, less))

    def send() -> int:
        options = {"channel": "latest", "why": "", "sign": None, "progress": None, "programs": programs}
        return into_store(two, theirs.images, Images(far), far, **options).bytes

    assert send() == less.size + two.metadata.size
    assert far.blobs.verify(two.rootfs.sha256)
    assert not list((far.home / "scratch").iterdir())
    with pytest.raises(HostError, match="programs failed"):  # it makes more than it has to
        apply_delta(less, two.rootfs.size - 1, far, programs.programs())
    far.blobs.remove(two.rootfs.sha256)
    path = Images(theirs.store).folder("app", two.version, "amd64") / DELTA
    path.write_text(path.read_text().replace('"level": 12', '"level": 3'))
    assert send() == less.size + two.rootfs.size
    assert far.blobs.verify(two.rootfs.sha256)
