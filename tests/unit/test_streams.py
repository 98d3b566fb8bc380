"""The store as others find it: simplestreams documents, the catalogue page, and how both are kept up to date."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from anklume_images.ship.index import write_index
from anklume_images.ship.simplestreams import INDEX, PRODUCTS
from anklume_images.store.deltas import Delta, write_delta
from anklume_images.store.gc import Wants, collect
from anklume_images.store.images import Images, Package, StoredFile
from anklume_images.store.store import Store
from anklume_images.trust.revoked import Revocation, write_revocations
from tests.support.blobs import put_blob
from tests.support.stored_images import put, put_model

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.store.images import Image

ONE, TWO, THREE = "1.0-00000000000a", "2.0-00000000000b", "3.0-00000000000c"
DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def products(store: Store) -> dict[str, Any]:
    document = json.loads((store.home / PRODUCTS).read_bytes())
    index = json.loads((store.home / INDEX).read_bytes())
    assert index["index"]["images"]["products"] == sorted(document["products"])
    assert index["index"]["images"]["path"] == PRODUCTS
    return dict(document["products"])


def aliases(store: Store) -> dict[str, str]:
    """Alias -> version, as a client reads them."""
    found = {}
    for product in products(store).values():
        for alias in product["aliases"].split(","):
            assert alias not in found
            found[alias] = product["release"]
    return found


def images_in(product: dict[str, Any]) -> list[str]:
    """The fingerprints that Incus makes of a product: of each version with both files."""
    versions = [version["items"] for version in product["versions"].values()]
    return [items["incus.tar.xz"]["combined_squashfs_sha256"] for items in versions if "squashfs" in items]


def with_delta(store: Store, image: Image, base: str, data: bytes = b"a delta") -> Delta:
    delta = Delta(base, put_blob(store.blobs, data), len(data))
    write_delta(Images(store).folder(image.name, image.version, image.architecture), delta)
    return delta


def test_every_image_is_a_product_with_the_bytes_of_the_store(store: Store) -> None:
    one = put(store, "debian", ONE, channels=("prod",), epoch=20 * DAY)
    two = put(store, "debian", TWO, channels=("latest", "dev"), epoch=21 * DAY)
    assert write_index(store)
    found = products(store)
    assert list(found) == sorted(found)
    assert [images_in(product) for product in found.values()] == [[one.fingerprint], [two.fingerprint]]
    for product in found.values():
        ((name, version),) = product["versions"].items()
        assert datetime.strptime(name[:8], "%Y%m%d").replace(tzinfo=UTC).year == 1970
        assert name.endswith(product["release"])
        data = [(store.home / item["path"]).read_bytes() for item in version["items"].values()]
        assert [hashlib.sha256(file).hexdigest() for file in data] == [i["sha256"] for i in version["items"].values()]
        assert [len(file) for file in data] == [item["size"] for item in version["items"].values()]
        assert hashlib.sha256(b"".join(data)).hexdigest() == images_in(product)[0]
    assert aliases(store) == {
        f"debian/{ONE}": ONE,
        "debian/prod": ONE,
        f"debian/{TWO}": TWO,
        "debian/dev": TWO,
        "debian/latest": TWO,
        "debian": TWO,
    }


def test_a_delta_brings_its_base_along_without_a_second_image(store: Store) -> None:
    one, two = put(store, "debian", ONE, channels=(), epoch=1), put(store, "debian", TWO, epoch=2)
    delta = with_delta(store, two, ONE)
    write_index(store)
    product = products(store)[f"anklume:debian:{TWO}:amd64"]
    assert images_in(product) == [two.fingerprint]
    (item,) = (
        items["items"]["squashfs.vcdiff"] for items in product["versions"].values() if "squashfs" in items["items"]
    )
    assert (store.home / item["path"]).read_bytes() == b"a delta"
    base = product["versions"][item["delta_base"]]["items"]
    assert list(base) == ["incus.tar.xz"]
    assert base["incus.tar.xz"]["combined_squashfs_sha256"] == one.fingerprint
    assert item["sha256"] == delta.sha256


@pytest.mark.parametrize("lost", ["base", "file"])
def test_a_delta_that_helps_nobody_is_not_told(lost: str, store: Store) -> None:
    one, two = put(store, "debian", ONE, channels=()), put(store, "debian", TWO)
    delta = with_delta(store, two, ONE)
    if lost == "base":
        Images(store).remove(one)
    else:
        store.blobs.remove(delta.sha256)
    write_index(store)
    assert list(products(store)[f"anklume:debian:{TWO}:amd64"]["versions"]) == [f"19700101_0000_{TWO}"]


def test_two_versions_of_the_same_bytes_are_one_image(store: Store) -> None:
    one = put(store, "debian", ONE, channels=("prod",))
    put(store, "debian", TWO, fingerprint=one.fingerprint, metadata=one.metadata, rootfs=one.rootfs)
    write_index(store)
    (product,) = products(store).values()
    assert set(aliases(store)) == {"debian", "debian/prod", "debian/latest", f"debian/{ONE}", f"debian/{TWO}"}
    assert images_in(product) == [one.fingerprint]


def state(store: Store) -> dict[str, tuple[bytes, int]]:
    """Bytes and times of what is served."""
    files = [store.home / place for place in (PRODUCTS, INDEX, "index.html")]
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_what_has_not_changed_is_not_written(store: Store) -> None:
    put(store, "debian", ONE)
    assert write_index(store)
    before = state(store)
    assert not write_index(store)
    assert state(store) == before
    (store.home / "cache/index.json").write_bytes(b"{")
    (store.home / "cache/images.json").write_bytes(b'{"schema": 1, "images": {"x": {}}}')
    assert write_index(store)
    assert state(store) == before


def test_it_follows_what_happens_in_the_store(store: Store) -> None:
    one, two = put(store, "debian", ONE), put(store, "debian", TWO, channels=("dev",))
    write_index(store)
    assert aliases(store)["debian"] == ONE
    Images(store).set_channel("debian", "amd64", "latest", TWO)
    assert write_index(store)
    assert aliases(store)["debian"] == TWO
    store.blobs.remove(one.rootfs.sha256)
    assert write_index(store)
    assert set(products(store)) == {f"anklume:debian:{TWO}:amd64"}
    (store.home / "index.html").unlink()
    assert write_index(store)
    Images(store).remove(two)
    write_index(store)
    assert products(store) == {}


def test_no_store_is_made_for_an_index(store: Store) -> None:
    assert not write_index(store)
    assert not store.home.exists()


def test_gc_stops_naming_images_before_their_files_go(store: Store) -> None:
    one = put(store, "debian", ONE, channels=())
    put(store, "debian", TWO)
    write_index(store)

    def unlist() -> None:
        assert store.blobs.has(one.rootfs.sha256)
        write_index(store)
        assert set(products(store)) == {f"anklume:debian:{TWO}:amd64"}

    collect(store, Images(store), Wants(keep=1), unlist=unlist)
    assert not store.blobs.has(one.rootfs.sha256)
    assert set(products(store)) == {f"anklume:debian:{TWO}:amd64"}


def test_gc_keeps_the_delta_of_what_it_keeps(store: Store) -> None:
    one, two = put(store, "debian", ONE, channels=("prod",)), put(store, "debian", TWO)
    kept, gone = with_delta(store, two, ONE, b"from one to two"), put_blob(store.blobs, b"of nobody")
    collect(store, Images(store), Wants(keep=1))
    assert store.blobs.has(kept.sha256)
    assert not store.blobs.has(gone)
    Images(store).set_channel("debian", "amd64", "prod", TWO)
    report = collect(store, Images(store), Wants(keep=1))
    assert f"image {one.ref} (amd64)" in report.removed
    assert not store.blobs.has(kept.sha256)


WRITER = """
import sys
from pathlib import Path
from anklume_images.ship.index import write_index
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.revoked import Revocation, write_revocations

store, channel, rounds = Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
for number in range(rounds):
    Images(store).set_channel("debian", "amd64", channel, sys.argv[4 + number % 2])
    write_index(store)
"""


def writer(store: Store, channel: str, rounds: int) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", WRITER, str(store.home), channel, str(rounds), ONE, TWO]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_writers_the_last_one_tells_how_it_is(store: Store) -> None:
    put(store, "debian", ONE)
    put(store, "debian", TWO, channels=())
    for process in [writer(store, channel, 4) for channel in ("dev", "prod", "staging")]:
        process.communicate()
        assert process.returncode == 0
    channels = Images(store).channels("debian", "amd64")
    assert {
        alias: version for alias, version in aliases(store).items() if alias.count("/") and version not in alias
    } == {f"debian/{channel}": version for channel, version in channels.items()}
    assert not write_index(store)


def test_a_killed_writer_leaves_whole_files_and_no_others(store: Store) -> None:
    put(store, "debian", ONE)
    put(store, "debian", TWO)
    write_index(store)
    for number in range(8):
        process = writer(store, "dev", 1000)
        time.sleep(number * 0.013)
        process.kill()
        process.communicate()
        assert set(products(store)) == {f"anklume:debian:{version}:amd64" for version in (ONE, TWO)}
        assert "</html>" in (store.home / "index.html").read_text()
    Images(store).set_channel("debian", "amd64", "prod", ONE)
    assert write_index(store)
    assert aliases(store)["debian/dev"] == Images(store).channels("debian", "amd64")["dev"]
    hidden = [path for folder in ("", "streams/v1", "cache") for path in (store.home / folder).glob(".*")]
    assert hidden == []


class Page(HTMLParser):
    """What the page links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name == "href" and value]
        self.loaded += [value for name, value in attrs if name in {"src", "srcset", "data"} and value]
        assert tag not in {"link", "img", "iframe", "base", "form"}

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_links_to_what_is_there_and_loads_nothing(store: Store) -> None:
    one = put(store, "debian", ONE, epoch=1, channels=("prod",))
    two = put(store, "debian", TWO, epoch=2)
    with_delta(store, two, ONE)
    write_index(store)
    page = Page((store.home / "index.html").read_text())
    assert page.loaded == []
    files = [link for link in page.links if link[0] != "#"]
    assert files
    assert [link for link in files if not (store.home / link).is_file()] == []
    text = "".join(page.words)
    for word in (one.fingerprint, two.fingerprint, "prod", "latest", "incus launch anklume:debian my-machine"):
        assert word in text
    assert files.count(f"images/debian/{TWO}/amd64/sbom.cdx.json") == 1


def test_the_page_says_what_changed_since_the_version_before(store: Store) -> None:
    old = (Package("deb", "apt", "1"), Package("deb", "gone", "1"), Package("deb", "same", "7"))
    new = (Package("deb", "apt", "2"), Package("deb", "come", "3"), Package("deb", "same", "7"))
    put(store, "debian", THREE, epoch=2, packages=new)  # by what it is made of, not by its name
    put(store, "debian", TWO, epoch=1, packages=old, channels=())
    put(store, "debian", ONE, epoch=3, packages=new, channels=())
    write_index(store)
    text = " ".join("".join(Page((store.home / "index.html").read_text()).words).split())
    assert f"Since {TWO} apt: 1 → 2 come: 3 is new gone: 1 is gone" in text
    assert f"Since {THREE} The same packages" in text
    assert "same: 7" not in text


def test_the_page_says_how_much_larger_a_version_is(store: Store) -> None:
    one = put(store, "debian", ONE, epoch=1)
    data = store.blobs.path(one.rootfs.sha256).read_bytes() + bytes(2048)
    put(store, "debian", TWO, epoch=2, rootfs=StoredFile(put_blob(store.blobs, data), len(data)))
    put(store, "debian", THREE, epoch=3)
    write_index(store)
    text = (store.home / "index.html").read_text()
    assert f"Since {ONE}, 2.0 KiB larger<" in text
    assert f"Since {TWO}, 2.0 KiB smaller<" in text


def test_the_page_shows_some_of_many_changes(store: Store) -> None:
    put(store, "debian", ONE, epoch=1)
    put(store, "debian", TWO, epoch=2, packages=tuple(Package("deb", f"p{n}", "1") for n in range(100)))
    write_index(store)
    assert "and 40 more" in (store.home / "index.html").read_text()


def test_a_revoked_image_is_told_and_not_served(store: Store) -> None:
    one, two = put(store, "debian", ONE, epoch=1), put(store, "debian", TWO, epoch=2)
    with_delta(store, two, ONE)
    write_index(store)
    entry = Revocation("debian", ONE, "amd64", one.fingerprint, "a hole in <it>", "2026-11-29T16:00:00Z")
    write_revocations(store.home, [entry])
    assert write_index(store)
    assert list(products(store)) == [f"anklume:debian:{TWO}:amd64"]
    assert one.fingerprint not in (store.home / PRODUCTS).read_text()
    text = " ".join("".join(Page((store.home / "index.html").read_text()).words).split())
    assert f"debian@{ONE} (amd64), 2026-11-29: a hole in <it> fingerprint {one.fingerprint}" in text
    Images(store).remove(two)
    write_index(store)
    assert "a hole in" in (store.home / "index.html").read_text()


def test_models_are_told_with_licence_and_source_until_they_are_revoked(store: Store) -> None:
    record = put_model(store, "org/toy:1b", license="<MIT>", source="made by hand")
    put_model(store, "lost")
    store.blobs.remove(put_model(store, "lost", b"of which the file is gone").sha256)
    write_index(store)
    page = Page((store.home / "index.html").read_text())
    assert {"org/toy:1b", "<MIT>", "made by hand"} <= set(page.words)
    assert "lost" not in page.words
    assert [link for link in map(unquote, page.links) if not (store.home / link).is_file()] == []
    assert write_index(store) is False
    write_revocations(store.home, [Revocation("org/toy:1b", "", "", record.sha256, "it lies", "2026-11-29T16:00:00Z")])
    assert write_index(store)
    text = " ".join("".join(Page((store.home / "index.html").read_text()).words).split())
    assert "model org/toy:1b, 2026-11-29: it lies" in text
    assert "Language models" not in text


def test_words_of_an_image_are_no_html(store: Store) -> None:
    put(store, "debian", ONE, description="<script>alert(1)</script> & more")
    write_index(store)
    text = (store.home / "index.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
