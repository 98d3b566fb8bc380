"""Small worlds to build in: a store and specs of each test's own, copied from ones that are built once."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.faulty_mirror import FaultyMirror
from tests.support.leftovers import nothing_left
from tests.support.tiny import World, make_rootfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.builder.trees import Tree


@pytest.fixture(scope="session")
def mirror() -> Iterator[FaultyMirror]:
    """A server on loopback that has what the small images are made of."""
    with FaultyMirror() as server:
        yield server


@pytest.fixture(scope="session")
def rootfs(toolchain: Tree) -> bytes:
    """A root file system of some programs, as a tarball."""
    return make_rootfs(toolchain.root)


@pytest.fixture(scope="session")
def unbuilt(tmp_path_factory: pytest.TempPathFactory, toolchain: Tree, mirror: FaultyMirror, rootfs: bytes) -> World:
    """Specs of a root image `tiny` and of `tiny-app` over it; a store with the toolchain and nothing else."""
    folder = tmp_path_factory.mktemp("unbuilt")
    world = World(folder, mirror)
    world.specs.mkdir()
    (world.store / "trees").mkdir(parents=True)
    (world.store / "schema").write_text("1\n")
    (world.store / "trees" / toolchain.root.parent.name).symlink_to(toolchain.root.parent)
    world.serve("rootfs.tar.gz", rootfs)
    world.serve("note.txt", b"a note\n" * 1000)
    world.root()
    world.app("tiny-app", "cp /etc/passwd /etc/copied", inputs={"note": "note.txt"})
    return world


@pytest.fixture(scope="session")
def built_once(unbuilt: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """The same with both images built."""
    world = unbuilt.copy(tmp_path_factory.mktemp("built") / "world")
    assert world.built("tiny-app")["status"] == "built"
    return world


@pytest.fixture
def fresh(unbuilt: World, tmp_path: Path) -> Iterator[World]:
    """A world of the test's own in which nothing is fetched or built."""
    yield from _own(unbuilt, tmp_path)


@pytest.fixture
def world(built_once: World, tmp_path: Path) -> Iterator[World]:
    """A world of the test's own in which `tiny` and `tiny-app` are built."""
    yield from _own(built_once, tmp_path)


def _own(pattern: World, tmp_path: Path) -> Iterator[World]:
    world = pattern.copy(tmp_path / "world")
    yield world
    nothing_left(world.folder)
    shutil.rmtree(world.folder)
