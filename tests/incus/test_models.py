"""Models of the store in the volumes of machines: brought without anything started inside, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from anklume_images.console import Console
from anklume_images.models.importing import import_file
from anklume_images.models.library import Models
from anklume_images.settings import Settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.store import Store
from launcher.apply.run import launch
from launcher.infra.host import HostFacts
from launcher.infra.load import load_infra
from launcher.observe import volumes
from launcher.private_incus import storage
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.init import STATE
from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.launching import Launcher, clear, images
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anklume_images.store.models import ModelRecord

VOLUMES = [{"path": "/var/lib/models", "kind": "models"}, {"path": "/root/.ollama", "kind": "models"}]
ROLES = ["llama_server", "ollama_server"]
VARIABLES = {"llama_server_model": "string", "ollama_default_model": "string", "ollama_extra_models": "list"}
SPEC = {
    "name": "tiny",
    "description": "A tiny image that serves nothing",
    "version": "1.0",
    "from": "debian",
    "provides": ROLES,
    "variables": {name: {"type": kind, "description": "A model"} for name, kind in VARIABLES.items()},
    "volumes": VOLUMES,
}
FILE = """\
domains:
  lab:
    machines:
      file: {image: tiny, ephemeral: true, vars: {llama_server_model: "small:1b"}}
      manifest:
        image: tiny
        ephemeral: true
        vars: {ollama_default_model: "small:1b", ollama_extra_models: [other, "nobody:has"]}
"""
ONE = """\
domains:
  lab:
    machines:
      file: {image: tiny, ephemeral: true, vars: {llama_server_model: "small:1b"}}
"""
PLACE = "/var/lib/models/small-1b.gguf"
MANIFESTS = "/root/.ollama/models/manifests/registry.ollama.ai/library"


@dataclass
class World:
    """The command, with a store that has two models, `small:1b` and `other`."""

    launcher: Launcher
    store: Store
    small: ModelRecord
    other: ModelRecord

    def sh(self, machine: str, script: str) -> str:
        result = self.launcher.execute("lab", machine, "sh", "-c", script)
        assert result.code == 0, result.stderr
        return result.stdout.decode()

    def sha256(self, machine: str, path: str) -> str:
        result = self.launcher.execute("lab", machine, "cat", path)
        assert result.code == 0, result.stderr
        return hashlib.sha256(result.stdout).hexdigest()

    def perl(self, machine: str, script: str) -> None:
        result = self.launcher.execute("lab", machine, "perl", "-e", script)
        assert result.code == 0, result.stderr

    def folder(self, volume: str) -> Path:
        """The volume's files, as the daemon's host has them."""
        root = self.launcher.incus.socket.parent
        return root / "storage-pools/default/custom" / f"lab_{volume}"

    def lines(self) -> list[str]:
        """What the plan says of models."""
        said = self.launcher("plan", code=3).stdout.splitlines()
        return [line.strip() for line in said if "models in volume" in line or "to copy" in line]


def stock(store: Store, folder: Path) -> tuple[ModelRecord, ModelRecord]:
    records = []
    for name, seed in (("small:1b", 1), ("other", 2)):
        file = folder / "model.gguf"
        file.write_bytes(tiny_gguf(seed))
        records.append(import_file(store, file, name, progress=Console(quiet=True)))
    return records[0], records[1]


def write_specs(folder: Path) -> Path:
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny/spec.yml").write_text(json.dumps(SPEC))
    (folder / "tiny/distrobuilder.yaml.j2").write_text('{% extends "_image.yaml.j2" %}\n')
    return folder


def make_world(incus: PrivateIncus, rootfs: Path, place: Path, *, beside: Path | None = None) -> World:
    """A store in `place`; what else a test writes lies there, too, or beside."""
    store = Store(place / "store")
    folder = beside or place
    variables = {
        name: {"type": kind, "default": None, "description": "A model", "secret": False}
        for name, kind in VARIABLES.items()
    }
    put_tiny(store, rootfs, folder, 1, provides=ROLES, variables=variables, volumes=VOLUMES)
    launcher = Launcher(incus, store.home, folder, folder / "infra.yml", write_specs(folder / "specs"))
    return World(launcher, store, *stock(store, folder))


@pytest.fixture
def world(incus: PrivateIncus, tiny_rootfs: Path, tmp_path: Path) -> Iterator[World]:
    before = images(incus)
    yield make_world(incus, tiny_rootfs, tmp_path)
    clear(incus, before)


@pytest.mark.both_versions
def test_they_are_there_as_each_engine_wants_them_and_only_what_is_missing_is_brought(world: World) -> None:
    world.launcher.write(FILE, zone=150)
    said = world.lines()
    assert (
        f"+ models in volume default/file-models: small:1b ({513:.1f} KiB)  (project lab)".replace("513.0", "512.9")
        in said
    )
    assert len([line for line in said if line.startswith("+ models in volume")]) == 2
    step = next(step for step in world.launcher.json("plan", code=3)["steps"] if step["kind"] == "models")
    assert (step["project"], step["name"], step["machines"]) == ("lab", "default/file-models", ["file"])
    assert step["changes"] == [{"key": "models.small:1b", "before": None, "after": world.small.size}]
    world.launcher("apply")
    # A file for one engine.
    assert world.sha256("file", PLACE) == world.small.sha256
    assert world.sh("file", f"stat -c '%a %u %g' {PLACE}") == "644 0 0\n"
    # Manifests and blobs for the other: the blobs that they name, and nothing else.
    for name, tag, record in (("small", "1b", world.small), ("other", "latest", world.other)):
        manifest = json.loads(world.sh("manifest", f"cat {MANIFESTS}/{name}/{tag}"))
        assert manifest["layers"][0]["digest"] == f"sha256:{record.sha256}"
        for entry in (manifest["config"], *manifest["layers"]):
            path = "/root/.ollama/models/blobs/" + entry["digest"].replace(":", "-")
            assert world.sha256("manifest", path) == entry["digest"].partition(":")[2]
            assert world.sh("manifest", f"stat -c '%s %u' {path}") == f"{entry['size']} 0\n"
    assert world.sh("manifest", f"ls {MANIFESTS}").split() == ["other", "small"]
    with world.launcher.incus.client("lab") as client:
        config = {name: client.get(f"instances/{name}")["config"] for name in ("file", "manifest")}
    assert config["file"]["user.anklume.llama_server_model"] == "small-1b.gguf"
    assert config["manifest"]["user.anklume.ollama_default_model"] == "small:1b"
    world.launcher.settled()
    # While they run: what went is brought again, and nothing else is touched.
    kept = world.folder("manifest-models-2") / f"models/blobs/sha256-{world.other.sha256}"
    before = kept.stat().st_ino, kept.stat().st_mtime_ns
    world.perl("file", f"unlink '{PLACE}' or die")
    blob = f"/root/.ollama/models/blobs/sha256-{world.small.sha256}"
    world.perl("manifest", f"unlink('{MANIFESTS}/other/latest', '{blob}') == 2 or die")
    started = {name: world.sh(name, "stat -c %Y /proc/1") for name in ("file", "manifest")}
    steps = world.launcher.json("plan", code=3)["steps"]
    assert {(step["kind"], step["action"]) for step in steps} == {("models", "change")}
    assert sorted(change["after"] for step in steps for change in step["changes"])[1:] == [world.small.size] * 2
    world.launcher("apply")
    assert world.sha256("file", PLACE) == world.small.sha256
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == before
    assert world.sh("manifest", f"ls {MANIFESTS}/other") == "latest\n"
    assert {name: world.sh(name, "stat -c %Y /proc/1") for name in started} == started
    world.launcher.settled()


def test_links_in_a_volume_lead_nowhere(world: World) -> None:
    world.launcher.write(FILE, zone=151)
    world.launcher("apply")
    host = world.launcher.incus.socket.parents[3] / "etc"
    secret = host / "seen-from-the-volume"
    secret.write_text("of the host")
    # A link in the place of a file is replaced, and one in the place of a folder is in the way.
    world.perl("file", f"unlink '{PLACE}' or die; symlink '/etc/{secret.name}', '{PLACE}' or die")
    manifests = "/root/.ollama/models/manifests"
    world.perl("manifest", f"rename '{manifests}', '/root/.ollama/moved' or die; symlink '/etc', '{manifests}' or die")
    names = sorted(os.listdir(host))
    said = world.launcher("apply", code=1).stderr
    assert "the volume has no place for models/manifests/" in said
    assert secret.read_text() == "of the host"
    assert sorted(os.listdir(host)) == names
    assert world.sha256("file", PLACE) == world.small.sha256
    secret.unlink()


def test_one_that_the_store_lacks_is_told_before_anything_is_touched(world: World) -> None:
    world.launcher.write(ONE.replace("small:1b", "smal:1b"), zone=152)
    said = world.launcher("apply", code=1).stderr
    assert "llama_server_model of file: the store has no model called 'smal:1b'" in said
    assert "there are: other, small:1b, smollm2-135m" in said
    world.launcher.write(ONE.replace("small:1b", "smollm2-135m"), zone=152)
    said = world.launcher("plan", code=1).stderr
    assert re.search(r"hint: anklume-images .*models pull smollm2-135m\n", said)
    with world.launcher.incus.client() as client:
        assert [project["name"] for project in client.get("projects", recursion=1)] == ["default"]
    # A file of the volume's own is no name of the store.
    world.launcher.write(ONE.replace("small:1b", "My own.gguf"), zone=152)
    assert not world.lines()


def test_a_model_that_was_damaged_in_the_store_is_not_brought(world: World) -> None:
    world.launcher.write(ONE, zone=153)
    blob = world.store.blobs.path(world.small.sha256)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    assert "other bytes than its name says" in world.launcher("apply", code=1).stderr
    assert list(world.folder("file-models").iterdir()) == []


def test_killed_in_the_middle_it_is_whole_or_not_there(world: World, tmp_path: Path) -> None:
    content = tiny_gguf() + bytes(32 << 20)
    (tmp_path / "large.gguf").write_bytes(content)
    import_file(world.store, tmp_path / "large.gguf", "large", progress=Console(quiet=True))
    world.launcher.write(ONE.replace("small:1b", "large"), zone=154)
    folder = world.folder("file-models")
    process = world.launcher.start("apply")
    end = time.monotonic() + 60
    while not (folder.is_dir() and list(folder.glob(".anklume-*"))):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert [path.name[:9] for path in folder.iterdir()] == [".anklume-"]
    world.launcher("apply")
    assert [path.name for path in folder.iterdir()] == ["large.gguf"]
    assert (folder / "large.gguf").read_bytes() == content


def test_a_volume_that_is_too_small_is_told(world: World) -> None:
    if world.launcher.incus.storage != "btrfs":  # others do not hold to a size
        return
    volumes_of_file = "storage_volumes: {own: {path: /var/lib/models, size: 400KiB}}"
    world.launcher.write(ONE.replace("ephemeral: true", f"ephemeral: true, {volumes_of_file}"), zone=155)
    said = world.launcher("apply", code=1).stderr
    assert "the storage pool is full: small-1b.gguf has 525,248 bytes" in said
    assert list(world.folder("own").iterdir()) == []


@pytest.mark.both_versions
def test_where_the_files_are_out_of_reach_they_come_through_incus(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "_REACHABLE", frozenset())  # as with a driver that mounts a volume only in use
    file = world.launcher.write(FILE, zone=156)
    assert world.launcher.specs is not None
    catalog = Catalog.load([world.launcher.specs, builtin_specs()])
    infra, _ = load_infra(file, catalog, host=HostFacts())
    models = Models(world.store, [], Settings(), Console(quiet=True))
    with world.launcher.client() as client:
        launch(infra, world.store, client, Console(quiet=True), models=models)
        prepared, _ = launch(infra, world.store, client, Console(quiet=True), models=models)
        assert not prepared.plan.todo
        assert world.sha256("file", PLACE) == world.small.sha256
        assert world.sh("manifest", f"ls {MANIFESTS}/other") == "latest\n"
        # What it was made without comes through Incus, by way of the machine that runs.
        import_third(world)
        world.launcher.write(FILE.replace('[other, "nobody:has"]', "[other, third]"), zone=156)
        infra, _ = load_infra(file, catalog, host=HostFacts())
        launch(infra, world.store, client, Console(quiet=True), models=models)
        manifest = json.loads(world.sh("manifest", f"cat {MANIFESTS}/third/latest"))
        path = "/root/.ollama/models/blobs/" + manifest["layers"][0]["digest"].replace(":", "-")
        assert world.sha256("manifest", path) == manifest["layers"][0]["digest"].partition(":")[2]
        assert world.sh("manifest", f"stat -c '%a %u %g' {path}") == "644 0 0\n"
        assert world.sh("manifest", "stat -c '%a %u %g' /root/.ollama/models/blobs") == "755 0 0\n"
        prepared, _ = launch(infra, world.store, client, Console(quiet=True), models=models)
        assert not prepared.plan.todo
        # While nobody runs with it, it is told, and nothing else stops for it.
        world.launcher.write(FILE.replace('[other, "nobody:has"]', "[other, third, fourth]"), zone=156)
        import_third(world, "fourth")
        client.within("lab").stop("manifest", force=True)
        infra, _ = load_infra(file, catalog, host=HostFacts())
        prepared, _ = launch(infra, world.store, client, Console(quiet=True), models=models)
        assert any("out of reach" in notice and "fourth" in notice for notice in prepared.plan.notices)
        launch(infra, world.store, client, Console(quiet=True), models=models)
    assert world.sh("manifest", f"ls {MANIFESTS}/fourth") == "latest\n"


def import_third(world: World, name: str = "third") -> None:
    path = world.launcher.folder / "third.gguf"
    path.write_bytes(tiny_gguf(seed=3))
    import_file(world.store, path, name, progress=Console(quiet=True))


def test_on_a_pool_of_plain_directories(
    incus_tree: Callable[[str], Path], home: Path, tiny_rootfs: Path, tmp_path: Path
) -> None:
    with PrivateIncus(tree=incus_tree("incus-6"), home=home, storage="dir") as private:
        world = make_world(private, tiny_rootfs, tmp_path)
        world.launcher.write(FILE, zone=157)
        world.launcher("apply")
        assert world.sha256("file", PLACE) == world.small.sha256
        assert world.sh("manifest", f"stat -c '%a %u %g' {MANIFESTS}/small/1b") == "644 0 0\n"
        world.launcher.settled()


def test_on_one_file_system_with_the_pool_a_model_takes_no_room(
    incus_tree: Callable[[str], Path], home: Path, tiny_rootfs: Path, tmp_path: Path
) -> None:
    with PrivateIncus(tree=incus_tree("incus-7"), home=home) as private:
        if private.storage != "btrfs":
            return
        # The store lies in the file system of the pool, as one on a host that is all btrfs would.
        place = private.socket.parents[3] / str(storage.MOUNT).lstrip("/") / "of-the-host"
        place.mkdir()
        world = make_world(private, tiny_rootfs, place, beside=tmp_path)
        world.launcher.write(ONE, zone=158)
        world.launcher("apply")
        folder = f"{STATE}/storage-pools/default/custom/lab_file-models"
        said = private.run(["btrfs", "filesystem", "du", "--raw", folder], capture_output=True, check=True).stdout
        total, exclusive = next(line.split()[:2] for line in said.decode().splitlines() if "small-1b.gguf" in line)
        assert int(total) >= world.small.size
        assert int(exclusive) == 0
        assert world.sha256("file", PLACE) == world.small.sha256
