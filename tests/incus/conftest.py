"""Private Incuses of both versions, started once each and shared by the tests that do not break them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.store.store import Store
from launcher.private_incus.daemon import PrivateIncus
from tests.support.incus_images import make_image, make_rootfs
from tests.support.instances import delete_image, delete_instance
from tests.support.launching import Launcher, clear, images
from tests.support.tiny_store import put_tiny, write_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import ImageFiles

VERSIONS = ("incus-6", "incus-7")


@pytest.fixture(scope="session")
def disk() -> Iterator[Path]:
    """A folder on a real disk, with a short path."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def started(incus_tree: Callable[[str], Path], disk: Path) -> Iterator[Callable[[str], PrivateIncus]]:
    """Starts a version at its first use; both have two simulated cards."""
    running: dict[str, PrivateIncus] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> PrivateIncus:
            if name not in running:
                home = disk / name
                running[name] = stack.enter_context(PrivateIncus(tree=incus_tree(name), home=home, fake_gpus=2))
            return running[name]

        yield start


@pytest.fixture(params=VERSIONS)
def incus(request: pytest.FixtureRequest, started: Callable[[str], PrivateIncus]) -> Iterator[PrivateIncus]:
    """A running private Incus, once of each version; other tests get it with the images that it had."""
    shared = started(request.param)
    before = images(shared)
    yield shared
    assert images(shared) == before


@pytest.fixture
def client(incus: PrivateIncus) -> Iterator[Incus]:
    """A connection to it; what the test made through it is removed afterwards."""
    with incus.client() as connection:
        before = {image["fingerprint"] for image in connection.get("images", recursion=1)}
        yield connection
        for instance in connection.get("instances", recursion=1):
            if instance["status"] == "Running":
                connection.stop(instance["name"], force=True)
            delete_instance(connection, instance["name"])
        for image in connection.get("images", recursion=1):
            if image["fingerprint"] not in before:
                delete_image(connection, image["fingerprint"])


@pytest.fixture(scope="session")
def tiny_rootfs(started: Callable[[str], PrivateIncus], disk: Path) -> Path:
    """A root file system of 1.5 MB that boots."""
    return make_rootfs(started("incus-6"), disk / "tiny.squashfs")


@pytest.fixture(scope="session")
def large_rootfs(tiny_rootfs: Path, disk: Path) -> Path:
    """The same with zeros behind it: 500 MiB to send, next to nothing on disk."""
    large = disk / "large.squashfs"
    large.write_bytes(tiny_rootfs.read_bytes())
    os.truncate(large, 500 << 20)
    return large


@pytest.fixture
def image(tiny_rootfs: Path, tmp_path: Path) -> ImageFiles:
    """An image that no other test has."""
    return make_image(tmp_path, tiny_rootfs, aliases=("tiny", "tiny/latest"), kind="test")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of its own on disk for the state of Incuses that a test starts itself."""
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def tiny(incus: PrivateIncus, tiny_rootfs: Path, tmp_path: Path) -> Iterator[Launcher]:
    """`anklume-launch` with a store of its own that holds the image `tiny`, which boots in a moment."""
    store = Store(tmp_path / "store")
    put_tiny(store, tiny_rootfs, tmp_path, 1)
    before = images(incus)
    yield Launcher(incus, store.home, tmp_path, tmp_path / "infra.yml", write_specs(tmp_path / "specs"))
    clear(incus, before)


@pytest.fixture
def launcher(incus: PrivateIncus, built: Callable[[str], Any], test_store: Path, tmp_path: Path) -> Iterator[Launcher]:
    """`anklume-launch` upon a running private Incus, once of each version; what it made is removed afterwards."""
    built("debian")
    before = images(incus)
    yield Launcher(incus, test_store, tmp_path, tmp_path / "infra.yml")
    clear(incus, before)
