"""Images, channels and references of a store; verification."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.errors import StoreError
from anklume_images.store.images import Images
from anklume_images.store.repair import repair
from anklume_images.store.store import Store
from anklume_images.store.summaries import summaries
from anklume_images.store.verify import verify_store
from tests.support.blobs import put_blob
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path


ONE, TWO = "1.0-00000000000a", "2.0-00000000000b"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def images(store: Store) -> Images:
    return Images(store)


def test_an_image_comes_back_as_it_was_added(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE, inputs=(b"an input",))
    assert images.get("debian", ONE, "amd64") == image
    assert list(images) == [image]
    assert images.document(image, "lock")["files"][0]["name"] == "input-0"
    assert images.get("debian", ONE, "arm64") is None
    assert images.get("debian", TWO, "amd64") is None


def test_references(store: Store, images: Images) -> None:
    one, two = put(store, "debian", ONE, channels=("prod",)), put(store, "debian", TWO)
    assert images.resolve("debian", "amd64") == two
    assert images.resolve("debian@prod", "amd64") == one
    assert images.resolve(f"debian@{ONE}", "amd64") == one
    assert one.ref == f"debian@{ONE}"


@pytest.mark.parametrize(
    "ref", ["", "@latest", "Debian", "de/bian", "debian@", "debian@../x", "debian@a b", "../etc@x"]
)
def test_what_is_no_reference(ref: str, images: Images) -> None:
    with pytest.raises(StoreError, match="not a reference") as caught:
        images.resolve(ref, "amd64")
    assert caught.value.hint == "write name, name@channel or name@version"


def test_what_is_not_there_is_told_with_what_is(store: Store, images: Images) -> None:
    put(store, "debian", ONE, channels=("prod",))
    with pytest.raises(StoreError, match="the store has no debian@staging for amd64") as caught:
        images.resolve("debian@staging", "amd64")
    assert caught.value.hint == f"there are: prod, {ONE}"
    with pytest.raises(StoreError, match="the store has no debain for amd64") as caught:
        images.resolve("debain", "amd64")
    assert str(caught.value.hint).startswith(
        "did you mean 'debian'? If it has a spec, build it: anklume-images build debain; or "
    )
    with pytest.raises(StoreError) as caught:
        images.resolve("ollama", "amd64")
    assert (
        caught.value.hint
        == "if it has a spec, build it: anklume-images build ollama; or bring it: anklume-images pull, bundle import"
    )


def test_the_same_version_with_the_same_files_is_left_as_it_is(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE)
    folder = images.folder("debian", ONE, "amd64")
    inode = folder.stat().st_ino
    images.add(image, {"recipe.json": b'{"other": 1}'})
    assert folder.stat().st_ino == inode
    assert images.document(image, "recipe") == {}
    assert not list((store.home / "scratch").iterdir())


def test_other_files_of_the_same_version_take_its_place(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE)
    images.add(replace(image, fingerprint="f" * 64), {"recipe.json": b'{"other": 1}'})
    (only,) = images
    assert only.fingerprint == "f" * 64
    assert images.document(only, "recipe") == {"other": 1}
    with pytest.raises(StoreError, match="has no lock"):
        images.document(only, "lock")
    assert not list((store.home / "scratch").iterdir())


def test_what_a_killed_removal_left_is_replaced(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE)
    (images.folder("debian", ONE, "amd64") / "manifest.json").unlink()
    assert list(images) == []
    images.add(image, {"recipe.json": b"{}"})
    assert list(images) == [image]


def test_removing_leaves_no_empty_folders(store: Store, images: Images) -> None:
    one, two = put(store, "debian", ONE), put(store, "debian", TWO)
    images.remove(one)
    assert list(images) == [two]
    images.remove(two)
    assert not list((store.home / "images").iterdir())


def test_channels_move(store: Store, images: Images) -> None:
    put(store, "debian", ONE)
    put(store, "debian", TWO, channels=())
    assert images.channels("debian", "amd64") == {"latest": ONE}
    images.set_channel("debian", "amd64", "latest", TWO)
    assert images.channels("debian", "amd64") == {"latest": TWO}
    assert images.channels("debian", "arm64") == images.channels("other", "amd64") == {}


def test_a_channel_never_points_at_nothing(store: Store, images: Images) -> None:
    put(store, "debian", ONE)
    with pytest.raises(StoreError, match=f"the store has no debian@{TWO} any more"):
        images.set_channel("debian", "amd64", "latest", TWO)
    assert images.channels("debian", "amd64") == {"latest": ONE}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"name": "debian"}', "\0"])
def test_a_damaged_manifest_is_told(text: str, store: Store, images: Images) -> None:
    put(store, "debian", ONE)
    manifest = images.folder("debian", ONE, "amd64") / "manifest.json"
    manifest.write_text(text)
    with pytest.raises(StoreError, match="not the manifest of an image") as caught:
        images.resolve("debian", "amd64")
    assert caught.value.where == str(manifest)
    assert f"remove {manifest.parent} and build debian again" in str(caught.value.hint)


def test_a_manifest_of_a_later_program_is_told(store: Store, images: Images) -> None:
    put(store, "debian", ONE)
    manifest = images.folder("debian", ONE, "amd64") / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"novelty": 1}))
    with pytest.raises(StoreError, match="novelty") as caught:
        images.resolve("debian", "amd64")
    assert "update anklume-images" in str(caught.value.hint)


def test_present_asks_for_both_files_by_size(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE)
    assert images.present("debian", ONE, "amd64") == image
    store.blobs.path(image.rootfs.sha256).write_bytes(b"short")
    assert images.present("debian", ONE, "amd64") is None
    store.blobs.remove(image.rootfs.sha256)
    assert images.present("debian", ONE, "amd64") is None
    assert images.present("debian", TWO, "amd64") is None


class TestVerify:
    """Every byte against the hash that names it."""

    def test_all_is_well(self, store: Store, images: Images) -> None:
        image = put(store, "debian", ONE, inputs=(b"an input",))
        report = verify_store(store, images, [], "amd64")
        assert (report.checked, report.damaged) == (3, ())
        assert report.bytes == image.metadata.size + image.rootfs.size + len(b"an input")

    def test_an_empty_store_is_well(self, store: Store, images: Images) -> None:
        assert verify_store(store, images, [], "amd64").damaged == ()

    @pytest.mark.parametrize("kind", ["metadata", "rootfs"])
    def test_damage_names_the_image(self, kind: str, store: Store, images: Images) -> None:
        image = put(store, "debian", ONE)
        sha256 = getattr(image, kind).sha256
        store.blobs.path(sha256).write_bytes(b"other bytes")
        report = verify_store(store, images, [], "amd64")
        assert report.damaged == (f"debian@{ONE}: blob {sha256} has other bytes",)
        store.blobs.remove(sha256)
        report = verify_store(store, images, ["debian"], "amd64")
        assert report.damaged == (f"debian@{ONE}: blob {sha256} is missing",)

    def test_a_wrong_fingerprint_is_damage(self, store: Store, images: Images) -> None:
        image = put(store, "debian", ONE)
        images.add(replace(image, fingerprint="f" * 64), {})
        (line,) = verify_store(store, images, ["debian"], "amd64").damaged
        assert line == f"debian@{ONE}: its files are not those of its fingerprint"

    def test_repair_removes_what_is_damaged_only(self, store: Store, images: Images) -> None:
        image = put(store, "debian", ONE, inputs=(b"an input",))
        (sha256,) = {*store.blobs} - {image.metadata.sha256, image.rootfs.sha256}
        store.blobs.path(sha256).write_bytes(b"AN input")
        store.blobs.path(image.rootfs.sha256).write_bytes(b"x")
        report = verify_store(store, images, [], "amd64")
        assert len(report.damaged) == 2
        repair(store, images, report.damage)
        assert list(store.blobs) == [image.metadata.sha256]

    def test_what_is_removed_meanwhile_is_no_damage(self, store: Store, images: Images) -> None:
        image = put(store, "debian", ONE, inputs=(b"an input",), channels=())

        class Remover(Console):
            """Does what a gc does at the moment when all is listed and nothing is read."""

            def start(self, *_sizes: Any) -> None:
                images.remove(image)
                for sha256 in list(store.blobs):
                    store.blobs.remove(sha256)

        report = verify_store(store, images, [], "amd64", progress=Remover(quiet=True))
        assert (report.damaged, report.checked) == ((), 0)


def test_blobs_may_be_shared_by_images(store: Store, images: Images) -> None:
    first = put(store, "one", ONE)
    shared = put_blob(store.blobs, b"rootfs of one " + ONE.encode())
    assert shared == first.rootfs.sha256
    assert hashlib.sha256(b"rootfs of one " + ONE.encode()).hexdigest() == shared
    assert len(list(store.blobs)) == 2
    assert len(list(images)) == 1


def test_summaries_follow_the_manifests(store: Store, images: Images) -> None:
    image = put(store, "debian", ONE)
    other = put(store, "app", TWO, base=image)
    first = summaries(store, images)
    assert [one.ref for one in first] == [other.ref, image.ref]
    for one, whole in zip(first, (other, image), strict=True):
        assert {name: getattr(whole, name) for name in asdict(whole) if hasattr(one, name)} == {
            name: getattr(one, name) for name in asdict(whole) if hasattr(one, name)
        }
    assert summaries(store, images) == first
    manifest = images.folder("debian", ONE, "amd64") / "manifest.json"
    manifest.write_text(manifest.read_text().replace("The image debian", "Another one"))
    assert [one.description for one in summaries(store, images)] == ["The image app", "Another one"]
    images.remove(other)
    assert [one.name for one in summaries(store, images)] == ["debian"]
    manifest.write_text("{}")
    with pytest.raises(StoreError) as caught:
        summaries(store, images)
    assert str(manifest) in str(caught.value)
