"""gc keeps what channels, living commands and trees in use need, and removes the rest."""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING

import pytest

from anklume_images.store.gc import collect, reasons
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.store.verify import verify_store
from tests.support.stored_images import put
from tests.unit.test_store import holder

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.gc import GcReport
    from anklume_images.store.images import Image

ONE, TWO = "1.0-00000000000a", "2.0-00000000000b"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def images(store: Store) -> Images:
    return Images(store)


def gc(store: Store, *trees: str, dry_run: bool = False) -> GcReport:
    return collect(store, Images(store), set(trees), dry_run=dry_run)


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
    freed = gone.metadata.size + gone.rootfs.size + len(b"old")
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
