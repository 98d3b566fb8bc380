"""gc keeps what channels, living commands and trees in use need, and removes the rest."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import StoreError
from anklume_images.store.gc import Wants, collect, reasons, reasons_of_name
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.store.verify import verify_store
from tests.support.killed import killed_at, started
from tests.support.stored_images import put
from tests.unit.test_store import holder

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.gc import GcReport
    from anklume_images.store.images import Image

ONE, TWO, THREE = "1.0-00000000000a", "2.0-00000000000b", "3.0-00000000000c"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def images(store: Store) -> Images:
    return Images(store)


def gc(store: Store, *trees: str, dry_run: bool = False, keep: int = 1, budget: int | None = None) -> GcReport:
    wants = Wants(dict.fromkeys(trees, "a lock"), keep=keep)
    return collect(store, Images(store), wants, dry_run=dry_run, budget=budget)


def everything(store: Store) -> set[str]:
    return {str(path.relative_to(store.home)) for path in store.home.rglob("*")} - {"gc.lock"}


def make_tree(store: Store, digest: str) -> Path:
    root = store.home / "trees" / digest[:32] / "root"
    root.mkdir(parents=True)
    (root / "file").write_bytes(b"x" * 100)
    (root / "link").symlink_to("file")
    return root.parent


def test_without_a_store_there_is_nothing_to_do(store: Store) -> None:
    assert gc(store).removed == ()
    assert not store.home.exists()


def test_what_a_channel_names_stays_with_its_base_and_inputs(store: Store) -> None:
    base = put(store, "debian", ONE, channels=(), inputs=(b"a deb", b"another"))
    middle = put(store, "middle", ONE, channels=(), base=base, inputs=(b"a wheel",))
    put(store, "app", ONE, channels=("prod",), base=middle, inputs=(b"a tarball",))
    before = everything(store)
    assert gc(store) == gc(store)
    assert gc(store).removed == ()
    assert everything(store) >= before - {"building", "partial"}
    assert len(list(Images(store))) == 3


def test_the_rest_goes(store: Store, images: Images) -> None:
    kept = put(store, "debian", TWO, inputs=(b"shared", b"new"))
    gone = put(store, "debian", ONE, channels=(), inputs=(b"shared", b"old"))
    documents = images.folder("debian", ONE, "amd64").iterdir()
    freed = gone.metadata.size + gone.rootfs.size + len(b"old") + sum(path.stat().st_size for path in documents)
    dry = gc(store, dry_run=True)
    assert len(list(images)) == 2, "a dry run removes nothing"
    report = gc(store)
    assert report == dry
    assert report.bytes == freed
    assert report.removed[0] == f"image {gone.ref} (amd64)"
    assert [line.split()[0] for line in report.removed] == ["image", "blob", "blob", "blob"]
    assert list(images) == [kept]
    assert verify_store(store, images, [], "amd64").damaged == ()
    assert len(list(store.blobs)) == 4
    assert gc(store).removed == ()


def test_a_version_stays_as_long_as_any_channel_names_it(store: Store, images: Images) -> None:
    put(store, "debian", ONE, channels=("latest", "prod"))
    put(store, "debian", TWO)
    assert gc(store).removed == ()
    images.set_channel("debian", "amd64", "prod", TWO)
    assert gc(store).removed[0] == f"image debian@{ONE} (amd64)"


def test_what_a_channel_can_go_back_to_stays(store: Store, images: Images) -> None:
    put(store, "debian", ONE, inputs=(b"old input",))
    put(store, "debian", TWO, inputs=(b"new input",))
    put(store, "debian", THREE, inputs=(b"newest input",))
    report = gc(store, keep=2)
    assert [line.split()[:2] for line in report.removed if line.startswith("image")] == [["image", f"debian@{ONE}"]]
    assert images.present("debian", TWO, "amd64")
    assert len(list(store.blobs)) == 2 * 2 + 1, "of the inputs, those of the version that the channel names"
    assert gc(store, keep=1).removed[0] == f"image debian@{TWO} (amd64)"


def test_a_channel_that_is_gone_keeps_nothing(store: Store, images: Images) -> None:
    put(store, "debian", ONE, channels=("prod",))
    put(store, "debian", TWO, channels=("prod",))
    images.remove_channel("debian", "amd64", "prod")
    assert len([line for line in gc(store, keep=9).removed if line.startswith("image")]) == 2


def test_what_a_damaged_channel_named_stays(store: Store, images: Images) -> None:
    put(store, "debian", ONE)
    path = store.home / "channels" / "debian" / "amd64" / "latest"
    path.write_text(path.read_text().replace("1", "9", 1))
    assert gc(store, keep=1).removed == ()
    assert images.present("debian", ONE, "amd64")


def test_a_damaged_log_stops_it(store: Store, images: Images) -> None:
    put(store, "debian", ONE, channels=())
    put(store, "app", ONE)
    images.log.path.write_bytes(images.log.path.read_bytes().replace(b"latest", b"lastet"))
    with pytest.raises(StoreError, match="log of the channels' moves is damaged"):
        gc(store)
    assert len(list(images)) == 2


class TestBudget:
    """The oldest that nothing needs goes first, and no more than has to."""

    @pytest.fixture(autouse=True)
    def some(self, store: Store) -> None:
        for number in range(1, 5):
            image = put(store, "debian", f"{number}.0-00000000000a", channels=("latest",) if number == 4 else ())
            folder = Images(store).folder(image.name, image.version, image.architecture)
            for path in (folder / "manifest.json", store.blobs.path(image.rootfs.sha256)):
                os.utime(path, (number, number))

    def size(self, store: Store) -> int:
        return sum(path.stat().st_size for path in store.home.rglob("*") if path.is_file())

    def images(self, store: Store) -> list[str]:
        return [image.version[0] for image in Images(store)]

    def test_a_store_that_fits_is_left_alone(self, store: Store) -> None:
        report = gc(store, budget=self.size(store))
        assert (report.removed, report.size, report.fits) == ((), self.size(store), True)

    def test_the_oldest_goes(self, store: Store) -> None:
        assert gc(store, budget=self.size(store) - 1).fits
        assert self.images(store) == ["2", "3", "4"]

    def test_a_dry_run_says_the_same(self, store: Store) -> None:
        budget = self.size(store) - 2000
        dry = gc(store, budget=budget, dry_run=True)
        assert self.images(store) == ["1", "2", "3", "4"]
        assert gc(store, budget=budget) == dry
        assert self.images(store) == ["3", "4"]

    def test_what_is_needed_stays_and_that_is_said(self, store: Store) -> None:
        report = gc(store, budget=10)
        assert not report.fits
        assert report.size
        assert report.size > 10
        assert self.images(store) == ["4"]


def test_it_is_killed_at_any_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    for version in (ONE, TWO, THREE):
        put(store, "debian", version, inputs=(version.encode(), b"shared"))
    make_tree(store, "c" * 64)
    expected = tmp_path / "expected"
    shutil.copytree(store.home, expected, symlinks=True)
    gc(Store(expected))
    line, killed, changed = 2, True, 0
    while killed:
        line += 11
        copy = tmp_path / f"copy-{line}"
        shutil.copytree(store.home, copy, symlinks=True)
        other = Store(copy)
        killed = killed_at(line, partial(gc, other))
        changed += everything(other) not in (everything(store), everything(Store(expected)))
        assert verify_store(other, Images(other), [], "amd64", jobs=1).damaged == ()
        assert Images(other).present("debian", THREE, "amd64")
        gc(other)
        assert everything(other) == everything(Store(expected))
        shutil.rmtree(copy)
    assert changed > 3, "some were killed in the middle"


def test_two_of_them_and_a_build_at_once(
    store: Store, images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    rounds = 12
    for number in range(40):
        put(store, "old", f"{number}.0-00000000000a", channels=())
    go = tmp_path / "go"

    def build() -> None:
        for number in range(1, rounds + 1):
            version = f"{number}.0-00000000000a"
            files = [f"{part} of debian {version}".encode() for part in ("metadata", "rootfs")]
            with store.lease() as lease:
                lease.add(hashlib.sha256(data).hexdigest() for data in (*files, version.encode()))
                put(store, "debian", version, channels=("latest", "prod"), inputs=(version.encode(),))

    def collect_often() -> None:
        while not go.exists():
            time.sleep(0.001)
        for _ in range(rounds):
            gc(store, keep=2)

    children = [started(action) for action in (build, collect_often, collect_often)]
    go.touch()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    gc(store, keep=2)
    assert verify_store(store, images, [], "amd64").damaged == ()
    assert [image.version.partition(".")[0] for image in images] == [str(rounds - 1), str(rounds)]
    assert all(images.present(*image.key) for image in images)
    history = images.log.read()
    assert (len(history.moves), history.breaks) == (2 * rounds, ())


def test_why_a_blob_or_a_tree_stays(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE, inputs=(b"an input",), toolchain="a" * 64)
    make_tree(store, "a" * 64)
    lock = images.document(image, "lock")["files"][0]["sha256"]
    wants = Wants({"a" * 64: "the lock of toolchain"}, {lock: "the lock of debian"})

    def why(start: str) -> list[list[str]]:
        return list(reasons_of_name(store, images, start, wants).values())

    assert why(image.rootfs.sha256) == [[f"the image debian@{ONE} (amd64)"]]
    assert why(lock[:20]) == [[f"the image debian@{ONE} (amd64)", "the lock of debian"]]
    assert why("a" * 32) == [[f"the image debian@{ONE} (amd64)", "the lock of toolchain"]]
    assert why("0" * 64) == []
    with store.lease() as lease:
        lease.add([lock])
        assert "a running command" in why(lock)[0]


def test_trees_in_use_stay(store: Store) -> None:
    put(store, "debian", ONE, toolchain="a" * 64)
    built_with, locked, old = (make_tree(store, letter * 64) for letter in "abc")
    report = gc(store, "b" * 64)
    assert report.removed == (f"tree {'c' * 32}",)
    assert report.bytes == 100
    assert [place.exists() for place in (built_with, locked, old)] == [True, True, False]


def test_what_a_running_command_names_stays(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE, channels=(), inputs=(b"an input",))
    tree = make_tree(store, "c" * 64)
    failed = store.home / "failed" / "debian"
    failed.mkdir(parents=True)
    (failed / "log").write_text("x")
    with holder(store, *store.blobs, "c" * 32, "failed/debian") as (process, scratch):
        assert gc(store).removed == ()
        assert images.get("debian", ONE, "amd64") == image
        assert scratch.is_dir()
        process.kill()
        process.wait()
        report = gc(store)
    assert {line.split()[0] for line in report.removed} == {"image", "tree", "blob", "leftover"}
    assert not any(place.exists() for place in (tree, failed, scratch))
    assert list(images) == list(store.blobs) == []


def test_an_image_that_is_being_shipped_stays(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE, channels=())
    with store.lease() as lease:
        lease.add([image.metadata.sha256, image.rootfs.sha256])
        assert gc(store).removed == ()
    assert len(gc(store).removed) == 3


def test_what_killed_commands_left_goes(store: Store) -> None:
    put(store, "debian", ONE)
    left = [
        store.home / "failed" / "app" / "work" / "file",
        store.home / "trees" / f".{'a' * 32}.new" / "root" / "file",
        store.home / "images" / "app" / ONE / "amd64" / "recipe.json",
        store.home / "partial" / f"{'b' * 64}.part",
        store.home / "partial" / "new-x1y2",
        store.home / "building" / ("c" * 64),
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    (store.home / "trees" / f".{'a' * 32}.lock").touch()
    dry = gc(store, dry_run=True)
    assert all(path.exists() for path in left)
    report = gc(store)
    assert report == dry
    assert report.bytes == 5 * len(left)
    assert len(report.removed) == len(left)
    assert all(line.startswith("leftover ") for line in report.removed)
    assert not any(path.exists() for path in left)


def test_what_living_commands_write_stays(store: Store) -> None:
    put(store, "debian", ONE)
    unpacking = store.home / "trees" / f".{'a' * 32}.new"
    (unpacking / "root").mkdir(parents=True)
    held = [
        unpacking.with_suffix(".lock"),
        store.home / "partial" / f"{'b' * 64}.part",
        store.home / "building" / ("c" * 64),
    ]
    streams = []
    for path in held:
        path.parent.mkdir(parents=True, exist_ok=True)
        streams.append(path.open("w"))
        fcntl.flock(streams[-1], fcntl.LOCK_EX)
    try:
        assert gc(store).removed == ()
    finally:
        for stream in streams:
            stream.close()
    assert unpacking.is_dir()
    assert all(path.exists() for path in held)


def test_an_image_whose_base_is_gone_is_kept_all_the_same(store: Store, images: Images) -> None:
    base = put(store, "debian", ONE)
    put(store, "app", ONE, base=base)
    images.remove(base)
    (store.home / "channels" / "debian" / "amd64" / "latest").unlink()
    gc(store)
    assert [image.name for image in images] == ["app"]


def test_why(store: Store, images: Images) -> None:
    base = put(store, "debian", ONE, channels=("latest", "prod"))
    old = put(store, "debian", TWO, channels=())
    app = put(store, "app", ONE, base=base)

    def why(image: Image) -> list[str]:
        return reasons(store, images, image)

    assert why(base) == ["channel latest", "channel prod", f"base of app@{ONE}"]
    assert why(app) == ["channel latest"]
    assert why(old) == []
    with store.lease() as lease:
        lease.add([old.rootfs.sha256])
        assert why(old) == ["a running command"]


def test_the_inputs_of_every_kind_stay(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE, inputs=(b"one", b"two", b"three"))
    path = images.folder("debian", ONE, "amd64") / "lock.json"
    lock = json.loads(path.read_text())
    first, second, third = lock["files"]
    path.write_text(json.dumps(lock | {"files": [first], "debs": [second], "wheels": [third]}))
    assert gc(store).removed == ()
    assert len(list(store.blobs)) == 5
    assert images.get("debian", ONE, "amd64") == image
