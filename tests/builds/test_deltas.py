"""Deltas between versions: made where they pay, once, and of whole files only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import HostError, StoreError
from anklume_images.ship.delta_programs import Programs, programs_of
from anklume_images.ship.deltas import make_delta, pairs
from anklume_images.ship.index import listed_images, write_index
from anklume_images.ship.simplestreams import PRODUCTS
from anklume_images.store.images import Images, StoredFile
from anklume_images.store.store import Store
from tests.conftest import Cli
from tests.support.blobs import put_blob
from tests.support.stored_images import put

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anklume_images.ship.deltas import Pair
    from anklume_images.store.images import Image

SIZE = 1 << 20


def bytes_of(seed: str, size: int = SIZE) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(size)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def version(store: Store, number: int, data: bytes, channels: tuple[str, ...] = ("latest",)) -> Image:
    store.create()
    rootfs = StoredFile(put_blob(store.blobs, data), len(data))
    fingerprint = hashlib.sha256(data).hexdigest()
    return put(
        store, "app", f"{number}.0-00000000000{number}", epoch=number, rootfs=rootfs, fingerprint=fingerprint,
        channels=channels,
    )  # fmt: skip


def only_pair(store: Store) -> Pair:
    (pair,) = pairs(listed_images(store, Images(store)), ())
    return pair


@pytest.fixture
def programs(incus_tree: Callable[[str], Path]) -> Programs:
    return programs_of(incus_tree("incus-7"))


def test_only_what_a_channel_names_gets_one(store: Store) -> None:
    one = version(store, 1, b"one")
    version(store, 2, b"two", channels=())
    three = version(store, 3, b"three")
    assert [(pair.earlier.version, pair.later.version) for pair in pairs(listed_images(store, Images(store)), ())] == [
        ("2.0-000000000002", three.version)
    ]
    Images(store).set_channel("app", "amd64", "prod", one.version)
    assert len(pairs(listed_images(store, Images(store)), ["app"])) == 1
    assert pairs(listed_images(store, Images(store)), ["other"]) == []


def test_a_delta_is_made_once(store: Store, programs: Programs) -> None:
    version(store, 1, bytes_of("a"))
    two = version(store, 2, bytes_of("a") + bytes_of("b", 1000))
    report = make_delta(store, only_pair(store), lambda: programs)
    assert report.status == "made"
    assert 1000 < report.size < 2000
    assert make_delta(store, only_pair(store), lambda: programs).status == "present"
    write_index(store)
    products = json.loads((store.home / PRODUCTS).read_bytes())["products"]
    (item,) = [
        items["items"]["squashfs.vcdiff"]
        for items in products[f"anklume:app:{two.version}:amd64"]["versions"].values()
        if "squashfs.vcdiff" in items["items"]
    ]
    assert (store.home / item["path"]).stat().st_size == report.size == item["size"]
    assert list((store.home / "scratch").iterdir()) == list((store.home / "leases").iterdir()) == []


def test_what_does_not_pay_is_not_kept(store: Store, programs: Programs) -> None:
    version(store, 1, bytes_of("a"))
    version(store, 2, bytes_of("a", SIZE // 2) + bytes_of("b", SIZE // 2))
    before = set(store.blobs)
    report = make_delta(store, only_pair(store), lambda: programs, 40)
    assert report.status == "too large"
    assert SIZE * 2 // 5 < report.size < SIZE * 3 // 5
    assert set(store.blobs) == before
    assert only_pair(store).delta is None


@pytest.mark.parametrize("which", ["earlier", "later"])
def test_no_delta_of_a_damaged_file(which: str, store: Store, programs: Programs) -> None:
    version(store, 1, bytes_of("a"))
    version(store, 2, bytes_of("a") + b"more")
    pair = only_pair(store)
    path = store.blobs.path(getattr(pair, which).rootfs.sha256)
    data = bytearray(path.read_bytes())
    data[SIZE // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError) as caught:
        make_delta(store, pair, lambda: programs)
    assert str(path) in str(caught.value)
    assert only_pair(store).delta is None


def test_a_program_that_fails_or_makes_something_else_is_found_out(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    version(store, 1, bytes_of("a"))
    version(store, 2, bytes_of("a") + b"more")
    with pytest.raises(HostError):
        make_delta(store, only_pair(store), lambda: replace(programs, xdelta=("false",)))
    crooked = tmp_path / "crooked"
    crooked.write_text('#!/bin/sh\nfor last; do :; done\n[ "$1" = -e ] && echo nonsense > "$last" || echo nonsense\n')
    crooked.chmod(0o755)
    with pytest.raises(HostError):
        make_delta(store, only_pair(store), lambda: replace(programs, xdelta=(str(crooked),)))
    assert only_pair(store).delta is None


def test_the_command(store: Store, test_store: Path, incus_tree: Callable[[str], Path]) -> None:
    incus_tree("incus-7")
    put(store, "app", "1.0-000000000001", epoch=1)
    two = put(store, "app", "2.0-000000000002", epoch=2)
    (store.home / "trees").symlink_to(test_store / "trees")
    cli = Cli(store.home)
    assert cli("deltas", "--offline").stdout.startswith(f"{two.ref}  too large  ")
    (document,) = cli.json("deltas", "--offline", "--most", "100", "app")
    assert (document["from"], document["status"], document["whole"]) == (
        "1.0-000000000001",
        "too large",
        two.rootfs.size,
    )
    result = cli("deltas", "none", check=False)
    assert result.returncode == 1
    assert "anklume-images" in result.stderr
