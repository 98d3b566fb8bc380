"""A volume that comes with its files: no instance is needed to fill it, and one that gets it may read them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import AnklumeError, IncusError
from anklume_images.ship.volume import VolumeFile, make_volume
from launcher.private_incus.daemon import PrivateIncus
from tests.support.instances import create_instance, delete_instance, start_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import ImageFiles

OWNER = {"user.anklume-launch.owner": "test"}


@pytest.fixture
def project(client: Incus) -> Iterator[Incus]:
    """A project with volumes of its own, and the default project's images."""
    config = {"features.images": "false", "features.profiles": "false", "features.storage.volumes": "true"}
    client.send("post", "projects", {"name": "ai", "config": config})
    within = client.within("ai")
    yield within
    for instance in within.get("instances", recursion=1):
        if instance["status"] == "Running":
            within.stop(instance["name"], force=True)
        delete_instance(within, instance["name"])
    for volume in within.get("storage-pools/default/volumes/custom", recursion=1):
        within.send("delete", f"storage-pools/default/volumes/custom/{volume['name']}")
    client.send("delete", "projects/ai")


def make_files(folder: Path) -> list[VolumeFile]:
    """Names that a tarball or a header could get wrong, sizes around a block, modes that nobody else could read."""
    contents = {
        "model.gguf": os.urandom(3 << 20),
        "sub/deeper/a b.gguf": os.urandom(512),
        "sub/é☃.txt": b"1234567",
        "-rf": b"",
        "x" * 180: os.urandom(513),
    }
    files = []
    for number, (name, content) in enumerate(contents.items()):
        source = folder / str(number)
        source.write_bytes(content)
        source.chmod(0o600)
        files.append(VolumeFile(name, source))
    return files


def check_inside(incus: Incus, image: ImageFiles, files: list[VolumeFile]) -> None:
    incus.import_image(image.metadata, image.rootfs, fingerprint=image.fingerprint)
    device = {"type": "disk", "pool": "default", "source": "llm-models", "path": "/var/lib/models"}
    create_instance(incus, "reader", fingerprint=image.fingerprint, devices={"models": device})
    start_instance(incus, "reader")
    for file in files:
        path = f"/var/lib/models/{file.path}"
        assert incus.execute("reader", ["cat", path]).stdout == file.source.read_bytes(), file.path
        assert incus.execute("reader", ["stat", "-c", "%a %u %g", path]).stdout == b"644 0 0\n", file.path
    assert incus.execute("reader", ["stat", "-c", "%a %u", "/var/lib/models/sub/deeper"]).stdout == b"755 0\n"


def test_files_are_in_the_volume_as_a_container_wants_them(project: Incus, image: ImageFiles, tmp_path: Path) -> None:
    files = make_files(tmp_path)
    sent: list[tuple[int, int]] = []
    make_volume(project, "default", "llm-models", files, config=OWNER, description="of a test", progress=record(sent))
    volume = project.get("storage-pools/default/volumes/custom/llm-models")
    assert (volume["config"], volume["description"]) == (OWNER, "of a test")
    assert sent[-1][0] == sent[-1][1] > 3 << 20
    assert len({total for _, total in sent}) == 1
    check_inside(project, image, files)


def record(sent: list[tuple[int, int]]) -> Callable[[int, int], None]:
    return lambda done, total: sent.append((done, total))


@pytest.mark.parametrize("version", ["incus-6", "incus-7"])
def test_on_a_pool_of_plain_directories(
    version: str, incus_tree: Callable[[str], Path], home: Path, image: ImageFiles, tmp_path: Path
) -> None:
    files = make_files(tmp_path)
    with PrivateIncus(tree=incus_tree(version), home=home, storage="dir") as private, private.client() as incus:
        make_volume(incus, "default", "llm-models", files)
        check_inside(incus, image, files)


def test_a_volume_that_is_there_stays_as_it_is(project: Incus, tmp_path: Path) -> None:
    (first, *others) = make_files(tmp_path)
    make_volume(project, "default", "llm-models", [first], config=OWNER)
    with pytest.raises(IncusError, match="there is a volume llm-models already"):
        make_volume(project, "default", "llm-models", others)
    assert project.get("storage-pools/default/volumes/custom/llm-models")["config"] == OWNER


def test_a_file_that_shrinks_leaves_no_volume(project: Incus, tmp_path: Path) -> None:
    (first, *_) = make_files(tmp_path)

    def shrink(_done: int, _total: int) -> None:
        os.truncate(first.source, 10)

    with pytest.raises(AnklumeError, match="the file became shorter while it was read"):
        make_volume(project, "default", "llm-models", [first], progress=shrink)
    assert project.get("storage-pools/default/volumes/custom") == []


def test_a_full_pool_is_told_and_leaves_no_volume(
    incus_tree: Callable[[str], Path], home: Path, tmp_path: Path
) -> None:
    source = tmp_path / "large.gguf"
    with source.open("wb") as file:
        for _ in range(300):
            file.write(os.urandom(1 << 20))
    tree = incus_tree("incus-6")
    with PrivateIncus(tree=tree, home=home, pool_size=256 << 20) as private, private.client() as incus:
        with pytest.raises(IncusError, match=r"No space left on device|Disk quota exceeded"):
            make_volume(incus, "default", "llm-models", [VolumeFile("large.gguf", source)])
        assert incus.get("storage-pools/default/volumes/custom") == []
