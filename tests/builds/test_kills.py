"""Killed or interrupted at any moment, a command leaves nothing running and nothing half; run again, it succeeds."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.architectures import host_architecture
from anklume_images.console import Console
from anklume_images.inputs.lockfile import load_locks
from anklume_images.locking import TOOLCHAIN
from anklume_images.pipeline import Options, Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.blobs import Blobs
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from tests.support.blobs import share_blob
from tests.support.debian_archive import StandInArchive, StandInPackage
from tests.support.faulty_mirror import Fault
from tests.support.leftovers import nothing_left, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.tiny import World

SECONDS = 30.0
KILLS = 8
TIMES = random.Random(2)  # noqa: S311  the same moments each time


def holds(world: World, pattern: str) -> bool:
    return next(world.store.glob(pattern), None) is not None


def said(world: World, word: str) -> bool:
    return any(word in log.read_text(errors="replace") for log in world.store.glob("logs/*/*.log"))


# Moments in a build, in their order, seen from outside; each lasts until the build's end.
MOMENTS: dict[str, Callable[[World], bool]] = {
    "it has a lease": lambda world: holds(world, "leases/*"),
    "its inputs are there": lambda world: holds(world, "blobs/sha256/*/*"),
    "it has its scratch": lambda world: holds(world, "scratch/*") or said(world, "compress"),
    "the sandbox is there": lambda world: said(world, "---"),
    "distrobuilder runs": lambda world: said(world, "--- distrobuilder"),
    "distrobuilder has unpacked": lambda world: said(world, "Unpacking image"),
    "the image is packed": lambda world: said(world, "--- collect metadata"),
    "its files are listed": lambda world: said(world, "--- list files"),
    "its metadata is packed": lambda world: said(world, "--- compress metadata"),
    "a file of it is in place": lambda world: len(list(world.store.glob("blobs/sha256/*/*"))) > 1,
    "the image is in place": lambda world: holds(world, "images/*/*/*/manifest.json"),
}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    def looked() -> bool:
        assert process.poll() is None, process.communicate()
        return bool(condition())

    wait_until(looked)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.001)


def whole(world: World) -> None:
    """Nothing in the store is half: every blob has the bytes of its name, every image its files and documents."""
    assert " 0 damaged" in world("verify").stdout
    images = Images(Store(world.store))
    for image in images:
        assert images.present(image.name, image.version, image.architecture)
        for name in ("recipe", "lock", "sbom.cdx", "provenance.slsa"):
            images.document(image, name)
    for channel in world.store.glob("channels/*/*/latest"):
        assert images.resolve(channel.parts[-3])


def completed(world: World, reference: World, name: str = "tiny") -> None:
    """The same command again does it, clears what the killed one left, and comes to the same bytes."""
    entry = world.built(name)
    assert entry["fingerprint"] == Images(Store(reference.store)).resolve(name).fingerprint
    assert os.listdir(world.store / "scratch") == []
    assert os.listdir(world.store / "leases") == []
    assert os.listdir(world.store / "partial") == []


@pytest.mark.matrix
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_build_is_killed(moment: str, fresh: World, built_once: World) -> None:
    with fresh.start("build", "tiny") as process:
        wait_for(lambda: MOMENTS[moment](fresh), process)
        process.kill()
    nothing_left(fresh.folder)
    whole(fresh)
    completed(fresh, built_once)


@pytest.mark.matrix
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_build_is_interrupted(moment: str, fresh: World, built_once: World) -> None:
    with fresh.start("build", "tiny") as process:
        wait_for(lambda: MOMENTS[moment](fresh), process)
        os.killpg(process.pid, signal.SIGINT)
        out, errors = process.communicate(timeout=SECONDS)
    assert "Traceback" not in errors
    if process.returncode != 0:  # the last moments may come too late
        assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted"), out
    else:
        assert moment in list(MOMENTS)[-2:], "it went on"
    nothing_left(fresh.folder)
    assert os.listdir(fresh.store / "scratch") == [], "an interrupted command clears up itself"
    whole(fresh)
    completed(fresh, built_once)


def test_interrupted_as_its_thread_starts(fresh: World, built_once: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if "ThreadPoolExecutor" in thread.name and threading.current_thread() is threading.main_thread():
            wait_until(lambda: holds(fresh, "scratch/*"))  # later it starts threads itself, which this would hold up
            monkeypatch.undo()
            raise KeyboardInterrupt

    options = Options(host_architecture(), jobs=1)
    catalog = Catalog.load([fresh.specs, builtin_specs()])
    pipeline = Pipeline(Store(fresh.store), catalog, load_settings(), options, Console(quiet=True))
    pipeline.fetch(["tiny"])
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.build(["tiny"])
    nothing_left(fresh.folder)
    assert not holds(fresh, "images/*/*/*/manifest.json")
    assert [thread.name for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name] == []
    completed(fresh, built_once)


@pytest.mark.matrix
@pytest.mark.parametrize("part", [(number + TIMES.random()) / KILLS for number in range(KILLS)])
def test_a_build_over_a_base_is_killed_at_any_time(part: float, world: World, built_once: World, usual: float) -> None:
    image = Images(Store(world.store)).resolve("tiny-app")
    with Store(world.store).guarded(exclusively=True):
        Images(Store(world.store)).remove(image)
    with world.start("build", "tiny-app") as process:
        time.sleep(part * usual)
        process.kill()
    nothing_left(world.folder)
    Images(Store(world.store)).remove_channel("tiny-app", host_architecture(), "latest")
    whole(world)
    completed(world, built_once, "tiny-app")


@pytest.fixture(scope="session")
def usual(built_once: World, tmp_path_factory: pytest.TempPathFactory) -> float:
    """The seconds that a build over a base takes."""
    world = built_once.copy(tmp_path_factory.mktemp("usual") / "world")
    Images(Store(world.store)).remove(Images(Store(world.store)).resolve("tiny-app"))
    begun = time.monotonic()
    world("build", "tiny-app")
    return time.monotonic() - begun


@pytest.mark.matrix
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("arrived", [-1, 1, 2_000_000])
def test_a_fetch_is_ended(arrived: int, how: signal.Signals, fresh: World, rootfs: bytes) -> None:
    fresh.mirror.holding.clear()
    fresh.mirror.release.clear()
    fresh.mirror.fault("/rootfs.tar.gz", Fault(hold=arrived))
    with fresh.start("fetch", "tiny") as process:
        assert fresh.mirror.holding.wait(SECONDS)
        wait_for(lambda: sum(part.stat().st_size for part in fresh.store.glob("partial/*")) == max(arrived, 0), process)
        os.killpg(process.pid, how)
        _, errors = process.communicate(timeout=SECONDS)
    fresh.mirror.release.set()
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert "Traceback" not in errors
    nothing_left(fresh.folder)
    whole(fresh)
    assert not holds(fresh, "blobs/sha256/*/*")
    before = len(fresh.mirror.requests)
    assert fresh("fetch", "tiny").stdout.startswith("1 fetched")
    if arrived == 2_000_000:
        assert fresh.mirror.requests[before].range == f"bytes={arrived}-", "what had arrived is not fetched again"
    whole(fresh)


@dataclass
class Locking:
    """Runs `lock` of a spec whose package is in a stand-in archive."""

    world: World
    archive: StandInArchive
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def lock(self) -> Path:
        return self.world.specs / "greeter" / "lock.json"

    def start(self) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "tests.support.own_key", *self.world.argv("lock", "greeter")[3:]]
        environment = os.environ | {
            "STAND_IN_KEY": str(self.world.folder / "key.asc"),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = {"cwd": self.world.folder, "env": environment, "start_new_session": True, "text": True}
        return subprocess.Popen(argv, **options, **pipes)


@pytest.fixture
def locking(world: World) -> Iterator[Locking]:
    archive = StandInArchive(world.mirror, world.folder.parent.name)
    (world.folder / "key.asc").write_text(archive.key.armoured)
    folder = world.specs / "greeter"
    folder.mkdir()
    (folder / "spec.yml").write_text(
        "name: greeter\ndescription: A stand-in\nversion: {package: greeting}\ndistribution: debian\nrelease: trixie\n"
        f"architectures: [{host_architecture()}]\narchives: {{own: {archive.url!r}}}\n"
        "inputs: {debian: {suites: [{archive: own, suite: trixie}], packages: [greeting]}}\n"
    )
    (folder / "distrobuilder.yaml.j2").write_text('{% extends "_image.yaml.j2" %}\n')
    essential = [StandInPackage("base", fields={"Essential": "yes"}), StandInPackage("apt")]
    archive.publish("trixie", [*essential, StandInPackage("greeting")])
    yield Locking(world, archive)
    world.mirror.release.set()


HELD = {
    "while apt asks for the index": ("dists/trixie/InRelease", -1),
    "while the index arrives": ("dists/trixie/InRelease", 300),
    "while the packages' list arrives": (f"dists/trixie/main/binary-{host_architecture()}/Packages", 100),
}


@pytest.mark.matrix
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("moment", HELD)
def test_a_lock_is_ended(moment: str, how: signal.Signals, locking: Locking) -> None:
    world = locking.world
    path, held = HELD[moment]
    world.mirror.holding.clear()
    world.mirror.release.clear()
    world.mirror.fault(f"{locking.archive.url.removeprefix(world.mirror.url)}/{path}", Fault(hold=held))
    with locking.start() as process:
        assert world.mirror.holding.wait(SECONDS)
        assert any("/usr/lib/apt" in line or "apt-get" in line for line in processes(world.folder))
        os.killpg(process.pid, how)
        _, errors = process.communicate(timeout=SECONDS)
    world.mirror.release.set()
    assert process.returncode == (130 if how is signal.SIGINT else -how)
    assert "Traceback" not in errors
    nothing_left(world.folder)
    assert not locking.lock.exists()
    if how is signal.SIGINT:
        assert os.listdir(world.store / "scratch") == []
    with locking.start() as process:
        _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert os.listdir(world.store / "scratch") == []
    debs = load_locks(locking.lock)[host_architecture()].debs
    assert [deb.package for deb in debs] == ["apt", "base", "greeting"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_unpacking_a_tree_is_ended(how: signal.Signals, fresh: World, pipeline: Pipeline, built_once: World) -> None:
    pipeline.fetch([TOOLCHAIN])
    for entry in pipeline.locks.get(TOOLCHAIN):
        share_blob(pipeline.store.blobs, entry.sha256, Blobs(fresh.store))
    (link,) = (fresh.store / "trees").iterdir()
    link.unlink()
    with fresh.start("build", "tiny") as process:
        wait_for(lambda: holds(fresh, "trees/.*.new/root/usr/bin/apt"), process)
        os.killpg(process.pid, how)
        _, errors = process.communicate(timeout=SECONDS)
    assert "Traceback" not in errors
    assert not link.exists()
    nothing_left(fresh.folder)
    whole(fresh)
    completed(fresh, built_once)
    assert [path.name for path in (fresh.store / "trees").iterdir() if path.is_dir()] == [link.name]


def test_interrupted_while_another_process_builds_the_same(world: World) -> None:
    world.app("slow", "sleep 3")
    with world.start("build", "slow") as first:
        wait_for(lambda: any("distrobuilder" in line for line in processes(world.folder)), first)
        with world.start("build", "slow") as second:
            assert second.stderr is not None
            for line in second.stderr:
                if "waiting" in line:
                    break
            os.killpg(second.pid, signal.SIGINT)
            second.communicate(timeout=SECONDS)
            assert second.returncode == 130
            assert first.poll() is None, "the first goes on"
        _, errors = first.communicate(timeout=SECONDS)
    assert first.returncode == 0, errors


def test_killed_while_another_process_waits_for_it(world: World) -> None:
    world.app("slow", "sleep 3")
    with world.start("build", "slow") as first:
        wait_for(lambda: any("distrobuilder" in line for line in processes(world.folder)), first)
        with world.start("build", "slow", "--json") as second:
            assert second.stderr is not None
            for line in second.stderr:
                if "waiting" in line:
                    break
            first.kill()
            out, errors = second.communicate(timeout=SECONDS)
            assert second.returncode == 0, errors
            assert json.loads(out)["images"][0]["status"] == "built"
