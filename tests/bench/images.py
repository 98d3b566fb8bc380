"""Figures of building, fetching and publishing images."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from anklume_images.builder.apt import sandbox_network
from anklume_images.builder.builder import built_files, plan_of
from anklume_images.builder.recipe import COMPRESSION
from anklume_images.builder.sandbox import BuildEnvironment, Job, Mount, Step, run_job
from anklume_images.inputs.fetch import fetch
from anklume_images.ship.publish import image_files, publish
from anklume_images.store.blobs import Blobs
from launcher.private_incus.daemon import PrivateIncus
from tests.bench.measure import Bench, pairs, single
from tests.support.instances import delete_image

MEMORY = 8 << 30


def sealed_build(bench: Bench) -> None:
    """Debian with its blobs there, against plain distrobuilder with the same definition and the real mirror."""
    pipeline = bench.pipeline
    pipeline.fetch(["debian"], rebuild=True)
    prepared, tree = pipeline.prepare("debian"), pipeline.toolchain()
    mirror = pipeline.sources().bases("debian")[0]
    definition = prepared.definition.replace("http://127.0.0.1/debian", mirror)

    def ours() -> None:
        place = bench.place()
        plan = plan_of(prepared, pipeline.images, pipeline.store, MEMORY)
        built_files(prepared, plan, tree, pipeline.store, place, place / "log", BuildEnvironment(), None)
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

    pairs("sealed build of debian / plain distrobuilder from the mirror", "≤ 0.3", ours, plain)


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
        built_files(prepared, plan, tree, pipeline.store, place, place / "log", BuildEnvironment(), None)
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
    _run(asking)
    single(f"asking for {', '.join(names)} once built", "≤ 0.4 s", lambda: _run(asking))
    least = [sys.executable, "-c", "import click, yaml"]
    pairs("the same / python importing click and yaml", "≤ 3", lambda: _run(asking), lambda: _run(least))
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
            delete_image(client, files.fingerprint)

        def theirs() -> None:
            inside = ["/var/lib/incus/metadata", "/var/lib/incus/rootfs"]
            incus.run(["incus", "image", "import", *inside]).check_returncode()
            delete_image(client, files.fingerprint)

        pairs("publish, verified / incus image import", "-", ours, theirs)


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True)
