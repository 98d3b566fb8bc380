"""Damage and want: each is told with what to do, and doing it mends it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images import linux
from anklume_images.architectures import host_architecture
from anklume_images.builder.apt import TreeApt
from anklume_images.console import Console
from anklume_images.inputs.lockfile import load_locks
from anklume_images.pipeline import Options, Pipeline
from anklume_images.settings import Settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from tests.support.debian_archive import StandInArchive, StandInPackage
from tests.support.faulty_mirror import Fault
from tests.support.leftovers import nothing_left, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.tiny import World

SECONDS = 30.0


def blob_of(world: World, name: str, kind: str) -> Path:
    image = Images(Store(world.store)).resolve(name)
    return Store(world.store).blobs.path(getattr(image, kind).sha256)


def input_of(world: World, name: str, label: str) -> Path:
    (lock,) = load_locks(world.specs / name / "lock.json").values()
    (file,) = [file for file in lock.files if file.name == label]
    return Store(world.store).blobs.path(file.sha256)


def flip_a_bit(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0x10]))


def fingerprints(world: World) -> dict[str, str]:
    return {entry["name"]: entry["fingerprint"] for entry in world.json("list")}


def test_a_damaged_input(world: World) -> None:
    world.app("other", "cp /etc/passwd /etc/more", inputs={"note": "note.txt"})
    damaged = input_of(world, "other", "note")
    flip_a_bit(damaged)
    assert f"damaged: blob {damaged.name}" in world("verify", rc=1).stdout
    result = world("build", "other", rc=1)
    assert f"{damaged}: other: the input note.txt is damaged in the store" in result.stderr
    assert re.search(
        r"hint: anklume-images .*fetch --rebuild other \(`verify --repair` removes damaged blobs first\)", result.stderr
    )
    assert "1 damaged" in world("verify", "--repair").stdout
    assert not damaged.exists()
    assert world("fetch", "other").stdout.startswith("1 fetched")
    assert world.built("other")["status"] == "built"
    assert " 0 damaged" in world("verify").stdout


@pytest.mark.parametrize("kind", ["rootfs", "metadata"])
def test_a_damaged_image(kind: str, world: World) -> None:
    before = fingerprints(world)
    flip_a_bit(blob_of(world, "tiny", kind))
    for refs in ([], ["tiny"]):
        result = world("verify", *refs, rc=1)
        assert re.search(r"^damaged: tiny@\S+: blob [0-9a-f]{64} has other bytes$", result.stdout, re.MULTILINE)
    assert world("verify", "tiny-app").stdout.endswith(" 0 damaged\n")
    world("verify", "--repair")
    assert "files are missing" in json.dumps(world.json("build", "tiny", "--explain", rc=3))
    assert world.built("tiny")["status"] == "built"
    assert fingerprints(world) == before
    assert " 0 damaged" in world("verify").stdout


def test_a_damaged_base_is_not_built_upon(world: World) -> None:
    flip_a_bit(blob_of(world, "tiny", "rootfs"))
    world.app("other")
    result = world("build", "other", rc=1)
    assert "error: the base tiny@" in result.stderr
    assert "is not in the store, or damaged" in result.stderr
    assert re.search(r"hint: anklume-images .*verify --repair; anklume-images .*build tiny", result.stderr)
    world("verify", "--repair")
    world("build", "tiny")
    assert world.built("other")["status"] == "built"


@pytest.mark.parametrize("kind", ["rootfs", "metadata"])
def test_a_lost_file_of_an_image_is_made_again(kind: str, world: World) -> None:
    before = fingerprints(world)
    blob_of(world, "tiny-app", kind).unlink()
    assert "is missing" in world("verify", "tiny-app", rc=1).stdout
    assert world.built("tiny-app")["status"] == "built"
    assert fingerprints(world) == before
    assert " 0 damaged" in world("verify").stdout


def test_an_image_that_comes_out_otherwise_takes_the_place_of_the_lost_one(world: World) -> None:
    world.app("moment", "cat /proc/sys/kernel/random/uuid > /etc/moment")
    first = world.built("moment")["fingerprint"]
    blob_of(world, "moment", "rootfs").unlink()
    second = world.built("moment")["fingerprint"]
    assert first != second
    assert fingerprints(world)["moment"] == second
    assert " 0 damaged" in world("verify").stdout


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "tiny"}', '{"schema": 99}'])
def test_a_damaged_manifest(text: str, world: World) -> None:
    image = Images(Store(world.store)).resolve("tiny-app")
    folder = Images(Store(world.store)).folder(image.name, image.version, image.architecture)
    (folder / "manifest.json").write_text(text)
    result = world("show", "tiny-app", rc=1)
    assert f"error: {folder}/manifest.json: not the manifest of an image" in result.stderr
    assert f"hint: remove {folder} and build tiny-app again" in result.stderr
    shutil.rmtree(folder)
    assert world.built("tiny-app")["fingerprint"] == image.fingerprint


def test_an_image_that_was_half_removed_is_built_again(world: World) -> None:
    image = Images(Store(world.store)).resolve("tiny-app")
    (Images(Store(world.store)).folder(image.name, image.version, image.architecture) / "manifest.json").unlink()
    assert "tiny-app" not in world("list").stdout
    assert world.built("tiny-app")["fingerprint"] == image.fingerprint
    assert "tiny-app" in world("list").stdout


EDITS: dict[str, Callable[[str], str]] = {
    "a hash": lambda text: re.sub(r'"sha256": "[0-9a-f]{8}', '"sha256": "00000000', text),
    "a path": lambda text: text.replace("note.txt", "other.txt"),
    "the digest": lambda text: re.sub(r'("digests": \{\n  "\w+": ")[0-9a-f]{8}', r"\g<1>00000000", text),
    "half of it": lambda text: text[: len(text) // 2],
    "its schema": lambda text: text.replace('"schema": 1', '"schema": 2'),
    "its shape": lambda _: "[]\n",
    "everything": lambda _: "",
}


@pytest.mark.parametrize("what", EDITS)
def test_a_lock_edited_by_hand(what: str, world: World) -> None:
    path = world.specs / "tiny-app" / "lock.json"
    before = path.read_text()
    path.write_text(EDITS[what](before))
    assert path.read_text() != before
    result = world("build", "tiny-app", rc=1)
    assert f"error: {path}: " in result.stderr
    assert re.search(r"hint: .*anklume-images .*lock", result.stderr) or "lock again" in result.stderr
    # And that is what mends it.
    world("lock", "tiny-app")
    assert path.read_text() == before
    assert world.built("tiny-app")["status"] == "present"


def test_a_lock_whose_spec_changed(world: World) -> None:
    spec = world.specs / "tiny-app" / "spec.yml"
    spec.write_text(spec.read_text().replace('version: "1.0"', 'version: "2.0"'))
    result = world("build", "tiny-app", rc=1)
    assert "the spec of tiny-app changed since it was locked" in result.stderr
    assert re.search(r"hint: run: anklume-images .*lock tiny-app$", result.stderr, re.MULTILINE)
    world("lock", "tiny-app")
    assert world.built("tiny-app")["version"].startswith("2.0-")


def test_a_lock_whose_base_was_locked_anew(world: World) -> None:
    body = world.bodies["rootfs.tar.gz"]
    world.serve("rootfs.tar.gz", body + bytes(512))
    world.root()
    try:
        result = world("build", "tiny-app", rc=1)
    finally:
        world.serve("rootfs.tar.gz", body)
    assert "changed since it was locked" in result.stderr or "was locked anew since" in result.stderr
    assert re.search(r"hint: run: anklume-images .*lock tiny-app$", result.stderr, re.MULTILINE)


STORES = {
    "of a newer schema": ("3\n", "the store is of schema 3, this program knows up to 2", "update anklume-images"),
    "with another's schema": ("<xml>\n", "this is not a store", "name another with --store"),
    "with an empty schema": ("", "this is not a store", "name another with --store"),
}


@pytest.mark.parametrize("what", STORES)
def test_a_store_that_is_none(what: str, world: World) -> None:
    schema, message, hint = STORES[what]
    (world.store / "schema").write_text(schema)
    for command in (["list"], ["build", "tiny"], ["gc"], ["verify"]):
        result = world(*command, rc=1)
        assert f"error: {world.store}: {message}" in result.stderr
        assert hint in result.stderr
    assert (world.store / "schema").read_text() == schema


def test_a_folder_of_something_else_is_not_made_a_store(fresh: World) -> None:
    shutil.rmtree(fresh.store)
    fresh.store.mkdir()
    (fresh.store / "letter.txt").write_text("dear all\n")
    result = fresh("build", "tiny", rc=1)
    assert f"error: {fresh.store}: this is not a store: it holds letter.txt and no schema" in result.stderr
    assert "hint: name an empty folder" in result.stderr
    assert [path.name for path in fresh.store.iterdir()] == ["letter.txt"]


def test_a_file_is_no_store(fresh: World) -> None:
    shutil.rmtree(fresh.store)
    fresh.store.write_text("no folder\n")
    assert fresh("list", rc=2).stderr.count("error:") == 1
    fresh.store.unlink()


@pytest.fixture
def small_disk(fresh: World) -> Iterator[Callable[[int], None]]:
    """Puts the store on a disk of so many kilobytes, or gives that disk another size."""
    pattern = fresh.folder / "pattern"
    fresh.store.rename(pattern)
    fresh.store.mkdir()
    linux.mount("tmpfs", fresh.store, "tmpfs", 0, "size=1M")
    try:
        shutil.copytree(pattern, fresh.store, symlinks=True, dirs_exist_ok=True)
        yield lambda size: linux.mount("tmpfs", fresh.store, "tmpfs", linux.REMOUNT, f"size={size}k")
    finally:
        linux.umount(fresh.store)


# The tarball of the root takes 4.1 MB, the image 3.3 MB.
@pytest.mark.parametrize("kilobytes", [8, 2048, 4400, 5500, 7000, 7600])
def test_a_full_disk(kilobytes: int, small_disk: Callable[[int], None], fresh: World, built_once: World) -> None:
    small_disk(kilobytes)
    result = fresh("build", "tiny", rc=1)
    assert re.search(r"No space left on device|the disk is full|no space", result.stderr, re.IGNORECASE), result.stderr
    assert "hint: " in result.stderr
    small_disk(100_000)
    assert fresh.json("list") == []
    assert " 0 damaged" in fresh("verify").stdout
    assert fresh.built("tiny")["fingerprint"] == fingerprints(built_once)["tiny"]
    assert not list((fresh.store / "scratch").iterdir())


def wait_for_process(world: World, word: str) -> list[int]:
    end = time.monotonic() + SECONDS
    while not (found := [int(line.split()[0]) for line in processes(world.folder) if word in line]):
        assert time.monotonic() < end, f"no {word} was seen"
        time.sleep(0.002)
    return found


@pytest.mark.parametrize("victim", ["worker", "mksquashfs"])
def test_killed_while_it_packs(victim: str, world: World) -> None:
    world.app("large", "dd if=/dev/urandom of=/large bs=1M count=200")
    with world.start("build", "large") as process:
        packers = wait_for_process(world, " mksquashfs ")
        workers = [pid for pid in wait_for_process(world, "distrobuilder pack-incus") if pid not in packers]
        children = {pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in workers}
        worker = next(pid for pid, parent in children.items() if parent in workers or len(workers) == 1)
        os.kill(worker if victim == "worker" else packers[-1], signal.SIGKILL)
        out, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, out
    assert "Traceback" not in errors
    assert "error: large: " in errors, errors
    assert "  log: " in errors
    if victim == "worker":
        assert "distrobuilder said it was done, but its squashfs is cut short" in errors
    assert "build with fewer --jobs" in errors
    assert "large" not in world("list").stdout
    nothing_left(world.folder)


class TestInputsThatMirrorsDropped:
    """A locked package that no mirror has any more."""

    SPEC = (
        "name: {name}\ndescription: A stand-in\nversion: {{package: greeting}}\n{origin}\narchitectures: [{arch}]\n"
        "archives: {{own: {url!r}}}\n"
        "inputs: {{debian: {{suites: [{{archive: own, suite: trixie}}], packages: [greeting]}}}}\n"
    )

    @pytest.fixture
    def archive(self, world: World, monkeypatch: pytest.MonkeyPatch) -> StandInArchive:
        """An archive that apt trusts in place of Debian's, and a spec of a package of it, locked."""
        archive = StandInArchive(world.mirror, world.folder.parent.name)
        self.publish(archive, "1.0-1")
        (world.folder / "key.asc").write_text(archive.key.armoured)

        def keyring(apt: TreeApt) -> str:
            (apt.scratch / "key.asc").write_text(archive.key.armoured)
            return f"{apt.mounted}/key.asc"

        monkeypatch.setattr(TreeApt, "keyring", keyring)
        self.spec(world, archive, "greeter")
        self.pipeline(world).lock("greeter")
        return archive

    @staticmethod
    def publish(archive: StandInArchive, version: str) -> None:
        essential = [StandInPackage("base", fields={"Essential": "yes"}), StandInPackage("apt")]
        archive.publish("trixie", [*essential, StandInPackage("greeting", version)])

    def spec(self, world: World, archive: StandInArchive, name: str, base: str | None = None) -> None:
        folder = world.specs / name
        folder.mkdir()
        origin = f"from: {base}" if base else "distribution: debian\nrelease: trixie"
        text = self.SPEC.format(name=name, arch=host_architecture(), url=archive.url, origin=origin)
        (folder / "spec.yml").write_text(text)
        (folder / "distrobuilder.yaml.j2").write_text('{% extends "_image.yaml.j2" %}\n')

    @staticmethod
    def pipeline(world: World, **options: Any) -> Pipeline:
        catalog = Catalog.load([world.specs, builtin_specs()])
        chosen = Options(host_architecture(), **options)
        return Pipeline(Store(world.store), catalog, Settings(), chosen, Console())

    @staticmethod
    def drop(world: World, archive: StandInArchive, version: str) -> None:
        """As a mirror does when a newer version has come."""
        path = archive.url.removeprefix(world.mirror.url) + "/" + StandInPackage("greeting", version).path
        world.mirror.fault(path, always=Fault(status=404))

    def test_are_named_with_the_way_out(self, world: World, archive: StandInArchive) -> None:
        self.drop(world, archive, "1.0-1")
        result = world("fetch", "greeter", rc=1)
        assert "1 file could not be fetched" in result.stderr
        assert "greeting_1.0-1_all.deb (own)" in result.stderr
        assert "--refresh-missing" in result.stderr
        result = world("build", "greeter", "tiny-app", rc=1)
        assert "tiny-app@" in result.stdout
        assert "--refresh-missing" in result.stderr

    def test_are_resolved_anew_when_asked_to(
        self, world: World, archive: StandInArchive, capfd: pytest.CaptureFixture[str]
    ) -> None:
        committed = (world.specs / "greeter" / "lock.json").read_bytes()
        self.publish(archive, "2.0-1")
        self.drop(world, archive, "1.0-1")
        pipeline = self.pipeline(world, refresh_missing=True)
        report = pipeline.fetch(["greeter"])
        assert report.fetched >= 1
        said = capfd.readouterr().err
        assert "warning: greeter: no mirror has 1 of the locked inputs any more (greeting_1.0-1_all.deb)" in said
        assert f"warning: greeter: locked anew in {world.store}/locks/greeter/" in said
        assert "the committed lock is unchanged" in said
        assert (world.specs / "greeter" / "lock.json").read_bytes() == committed
        # It counts from now on, which is said each time; until the committed lock is another.
        assert pipeline.prepare("greeter").version.startswith("2.0-")
        assert world("fetch", "greeter").stdout.startswith("0 fetched")
        assert "in place of the committed lock" in world("fetch", "greeter").stderr
        self.pipeline(world).lock("greeter")
        assert (world.specs / "greeter" / "lock.json").read_bytes() != committed
        assert "in place of" not in world("fetch", "greeter").stderr

    def test_what_is_made_from_a_refreshed_base_is_resolved_anew_too(
        self, world: World, archive: StandInArchive, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.spec(world, archive, "child", base="greeter")
        self.pipeline(world).lock("child")
        self.publish(archive, "2.0-1")
        self.drop(world, archive, "1.0-1")
        self.pipeline(world, refresh_missing=True).fetch(["child"])
        assert "warning: child: its base greeter was resolved anew, so it is too" in capfd.readouterr().err

    def test_what_cannot_be_locked_stops_no_other(self, world: World, archive: StandInArchive) -> None:
        essential = [StandInPackage("base", fields={"Essential": "yes"}), StandInPackage("apt")]
        archive.publish("stale", [*essential, StandInPackage("greeting", "1.0-1")], valid=-3600)
        for name in ("a-stale", "b-fresh", "c-broken"):
            self.spec(world, archive, name)
        for name, old, new in (("a-stale", "suite: trixie", "suite: stale"), ("c-broken", "description", "descripton")):
            spec = world.specs / name / "spec.yml"
            spec.write_text(spec.read_text().replace(old, new))
        argv = [sys.executable, "-m", "tests.support.own_key", *world.argv("lock", "--missing", "--json")[3:]]
        environment = {**os.environ, "STAND_IN_KEY": str(world.folder / "key.asc")}
        done = subprocess.run(
            argv, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        entries = json.loads(done.stdout)["locks"]
        locks = {entry["name"]: entry for entry in entries if entry["architecture"] == host_architecture()}
        assert set(locks) >= {"a-stale", "b-fresh", "c-broken"}
        assert (locks["b-fresh"]["changed"], locks["b-fresh"]["error"]) == (True, None)
        assert (world.specs / "b-fresh" / "lock.json").exists()
        assert "--allow-expired" in locks["a-stale"]["hint"]
        assert done.stderr.count("unknown key 'descripton'") == 1, "said once, not for each architecture"
        assert f"not locked: a-stale ({host_architecture()})" in done.stderr

    def test_an_unreachable_mirror_is_no_reason_to_resolve_anew(self, world: World, archive: StandInArchive) -> None:
        path = archive.url.removeprefix(world.mirror.url) + "/" + StandInPackage("greeting", "1.0-1").path
        world.mirror.fault(path, always=Fault(status=503, headers={"Retry-After": "0"}))
        result = world("fetch", "greeter", "--refresh-missing", rc=1)
        assert "503" in result.stderr
        assert not (world.store / "locks").exists()


def peak(argv: list[str], folder: Path) -> tuple[int, str]:
    """The largest resident size, in bytes, of any process of a command, and what it said."""
    script = (
        "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); print(r.returncode, r.stdout, r.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True, cwd=folder
    )
    size, _, said = result.stdout.partition("\n")
    return int(size), said


def test_a_large_input_is_never_in_memory_as_a_whole(world: World) -> None:
    """Of what runs, only distrobuilder's programs are not ours; they stay below as well."""
    size = 1 << 30
    large = world.folder / "large"
    with large.open("wb") as stream:
        stream.truncate(size)
    blobs = Store(world.store).blobs
    digest = subprocess.run(["sha256sum", large], capture_output=True, text=True, check=True).stdout.split()[0]
    world.app("heavy", "ls -l /", inputs={"note": "note.txt"})
    spec = world.specs / "heavy" / "spec.yml"
    body = world.bodies["note.txt"]
    spec.write_text(
        spec.read_text()
        .replace(hashlib.sha256(body).hexdigest(), digest)
        .replace(f"{host_architecture()}: {len(body)}}}", f"{host_architecture()}: {size}}}")
    )
    world("lock", "heavy")
    blobs.path(digest).parent.mkdir(parents=True, exist_ok=True)
    large.rename(blobs.path(digest))
    for arguments in (["build", "heavy", "--offline"], ["verify"], ["build", "heavy", "--check"]):
        memory, said = peak(world.argv(*arguments), world.folder)
        assert said.startswith("0 "), said
        assert memory < 200 << 20, arguments
