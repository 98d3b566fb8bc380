"""`make bench`: how long the main things take, as ratios of two things measured in one run, three times each.

A report, not a test: it fails on nothing. Goals stand beside the figures.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from anklume_images.build.apt import sandbox_network
from anklume_images.build.builder import built_files, plan_of
from anklume_images.build.recipe import COMPRESSION
from anklume_images.build.sandbox import Job, Mount, Step, Surroundings, run_job
from anklume_images.console import Console
from anklume_images.inputs.fetch import fetch
from anklume_images.pipeline import Options, Pipeline
from anklume_images.settings import load_settings
from anklume_images.ship.publish import publish
from anklume_images.ship.verb import image_files
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.blobs import Blobs
from anklume_images.store.images import host_architecture
from anklume_images.store.store import Store
from launcher.trial.private import PrivateIncus

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 3
MEMORY = 8 << 30


@dataclass
class Bench:
    """The pipeline and a folder for what the runs leave."""

    pipeline: Pipeline
    scratch: Path

    def place(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.scratch))


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def pairs(name: str, goal: str, ours: Callable[[], object], other: Callable[[], object]) -> None:
    """Measure two things in turn and print the ratio pair by pair."""
    rows = [(seconds(ours), seconds(other)) for _ in range(RUNS)]
    ratios = [a / b for a, b in rows]
    each = "  ".join(f"{a:.2f}/{b:.2f} s" for a, b in rows)
    print(f"{name}: median ratio {statistics.median(ratios):.2f} (goal {goal}); {each}", flush=True)  # noqa: T201


def single(name: str, goal: str, action: Callable[[], object]) -> None:
    """Measure one thing that has an absolute goal."""
    rows = [seconds(action) for _ in range(RUNS)]
    each = "  ".join(f"{row:.3f}" for row in rows)
    print(f"{name}: median {statistics.median(rows):.3f} s (goal {goal}); {each}", flush=True)  # noqa: T201


def sealed_build(bench: Bench) -> None:
    """Debian with its blobs there, against plain distrobuilder with the same definition and the real mirror."""
    pipeline = bench.pipeline
    pipeline.fetch(["debian"])
    prepared, tree = pipeline.prepare("debian"), pipeline.toolchain()
    mirror = pipeline.sources().bases("debian")[0]
    definition = prepared.definition.replace("http://127.0.0.1/debian", mirror)

    def ours() -> None:
        place = bench.place()
        plan = plan_of(prepared, pipeline.images, pipeline.store, MEMORY)
        built_files(prepared, plan, tree, pipeline.store, place, place / "log", Surroundings(), None)
        shutil.rmtree(place)

    def plain() -> None:
        place = bench.place()
        for name in ("stage", "build"):
            (place / name).mkdir()
        (place / "build" / "definition.yaml").write_text(definition)
        folders = ("--cache-dir", "/build/cache", "--sources-dir", "/build/sources")
        argv = ("distrobuilder", "build-incus", "/build/definition.yaml", "/build/out", *folders)
        outcome = run_job(
            Job(
                root=str(tree.root),
                stage=str(place / "stage"),
                log=str(place / "log"),
                sealed=False,
                steps=(Step("distrobuilder", (*argv, "--compression", COMPRESSION)),),
                mounts=(Mount("/build", str(place / "build"), writable=True),),
                files=sandbox_network(),
            )
        )
        assert outcome.ok, (place / "log").read_text()[-2000:]
        shutil.rmtree(place)

    pairs("sealed build of debian / plain distrobuilder from the mirror", "≤ 0.4", ours, plain)


def app_build(bench: Bench) -> None:
    """An app on a base in the store, against mksquashfs of its finished tree alone."""
    pipeline = bench.pipeline
    name = "open-webui"
    pipeline.build([name])
    image, prepared, tree = pipeline.present(name), pipeline.prepare(name), pipeline.toolchain()
    assert image is not None

    def ours() -> None:
        place = bench.place()
        plan = plan_of(prepared, pipeline.images, pipeline.store, MEMORY)
        built_files(prepared, plan, tree, pipeline.store, place, place / "log", Surroundings(), None)
        shutil.rmtree(place)

    def squash(place: Path, steps: tuple[Step, ...], mounts: tuple[Mount, ...]) -> None:
        (place / "stage").mkdir()
        mounts = (Mount("/build", str(place / "build"), writable=True), *mounts)
        job = Job(root=str(tree.root), stage=str(place / "stage"), log=str(place / "log"), steps=steps, mounts=mounts)
        outcome = run_job(job)
        assert outcome.ok, (place / "log").read_text()[-2000:]
        (place / "stage").rmdir()

    unpacked = bench.place()
    (unpacked / "build").mkdir()
    rootfs = Mount("/image.squashfs", str(pipeline.store.blobs.path(image.rootfs.sha256)))
    unpack = Step("unpack", ("unsquashfs", "-q", "-n", "-d", "/build/tree", "/image.squashfs"))
    squash(unpacked, (unpack,), (rootfs,))
    algorithm, level = COMPRESSION.split("-")
    options = ("-noappend", "-b", "1M", "-no-progress", "-quiet", "-comp", algorithm, "-Xcompression-level", level)

    def alone() -> None:
        squash(unpacked, (Step("mksquashfs", ("mksquashfs", "/build/tree", "/build/alone", *options)),), ())
        (unpacked / "build" / "alone").unlink()

    pairs(f"{name} on a cached base / mksquashfs of its tree alone", "≤ 1.5", ours, alone)
    shutil.rmtree(unpacked)


def commands(bench: Bench) -> None:
    """Asking for what is built, and for help."""
    argv = [sys.executable, "-m", "anklume_images", "--store", str(bench.pipeline.store.home)]
    names = [name for name in bench.pipeline.catalog.defaults() if bench.pipeline.build([name])[-1].image]
    asking = [*argv, "build", *names]
    single(f"asking for {', '.join(names)} once built", "≤ 0.5 s", lambda: _run(asking))
    single("--help", "≤ 0.25 s", lambda: _run([*argv, "--help"]))


def fetching(bench: Bench) -> None:
    """The inputs of debian from the real mirror, against wget of the same addresses."""
    pipeline = bench.pipeline
    lock, sources, tree = pipeline.locks.get("debian"), pipeline.sources(), pipeline.toolchain()
    urls = [next(iter(sources.urls(entry))) for entry in lock]

    def ours() -> None:
        place = bench.place()
        fetch(lock, Blobs(place), sources)
        shutil.rmtree(place)

    def wget() -> None:
        place = bench.place()
        for name in ("stage", "build"):
            (place / name).mkdir()
        (place / "build" / "urls").write_text("\n".join(urls))
        argv = ("wget", "--quiet", "--input-file=/build/urls", "--directory-prefix=/build/got")
        outcome = run_job(
            Job(
                root=str(tree.root),
                stage=str(place / "stage"),
                log=str(place / "log"),
                sealed=False,
                steps=(Step("wget", argv),),
                mounts=(Mount("/build", str(place / "build"), writable=True),),
                files=sandbox_network(),
            )
        )
        assert outcome.ok, (place / "log").read_text()[-2000:]
        shutil.rmtree(place)

    ours()  # the mirror's own caches, if it has any, are warm for both
    pairs(f"fetch of {len(urls)} files, every byte hashed / wget of the same", "-", ours, wget)


def importing(bench: Bench) -> None:
    """Publishing into a private Incus, against the incus client's own import of the same files."""
    pipeline = bench.pipeline
    image = pipeline.build(["debian"])[-1].image
    assert image is not None
    files = replace(image_files(image, pipeline.images, pipeline.store), aliases=())
    with PrivateIncus(tree=pipeline.tree("incus-6").root) as incus, incus.client() as client:
        state = Path(f"/proc/{incus.pid}/root/var/lib/incus")
        for source, name in ((files.metadata, "metadata"), (files.rootfs, "rootfs")):
            shutil.copyfile(source, state / name)

        def ours() -> None:
            publish(files, client)
            client.delete_image(files.fingerprint)

        def theirs() -> None:
            inside = ["/var/lib/incus/metadata", "/var/lib/incus/rootfs"]
            incus.run(["incus", "image", "import", *inside]).check_returncode()
            client.delete_image(files.fingerprint)

        pairs("publish, verified / incus image import", "-", ours, theirs)


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)


SECTIONS = {
    "help": commands,
    "fetch": fetching,
    "import": importing,
    "app": app_build,
    "sealed": sealed_build,
}


def main() -> None:
    """Run the sections that are named, or all."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="all when none is named")
    chosen = parser.parse_args().sections or list(SECTIONS)
    home = Path(os.environ.get("ANKLUME_STORE") or Path(platformdirs.user_cache_dir("anklume-tests")) / "store")
    options = Options(host_architecture(), refresh_missing=True)
    pipeline = Pipeline(Store(home), Catalog.load([builtin_specs()]), load_settings(), options, Console(quiet=True))
    print(f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, {RUNS} runs each", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory(dir=_made(home / "bench")) as folder:
        for name in chosen:
            SECTIONS[name](Bench(pipeline, Path(folder)))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
