"""`--check`: build an image again in other surroundings and compare every byte."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.build.builder import built_files, plan_of
from anklume_images.build.pack import fingerprint
from anklume_images.build.sandbox import Job, Mount, Step, Surroundings, run_job

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.build.trees import Tree
    from anklume_images.pipeline import Pipeline

__all__ = ["CheckOutcome", "check_image", "differing_paths"]


@dataclass(frozen=True)
class CheckOutcome:
    """What a second build gave; `paths` are those whose listing or content differs."""

    name: str
    identical: bool
    surroundings: str
    paths: list[str]


def other_surroundings() -> Surroundings:
    """Unlike the usual ones in all that a build must not depend on; one processor where there are several."""
    cpus = sorted(os.sched_getaffinity(0))
    return Surroundings(0o077, "POSIX", "Pacific/Kiritimati", "elsewhere", tuple(cpus[:1]))


def check_image(pipeline: Pipeline, name: str) -> CheckOutcome:
    """Build the image that is in the store once more, in a folder of its own, and compare."""
    around = other_surroundings()
    prepared = pipeline.prepare(name)
    image = pipeline.images.resolve(f"{name}@{prepared.version}", prepared.architecture)
    tree = pipeline.toolchain()
    store = pipeline.store
    with store.lease() as lease, store.scratch(f"check-of-{name}") as scratch:
        lease.add([image.rootfs.sha256, *(entry.sha256 for link in prepared.lineage() for entry in link.lock)])
        place = scratch / "another" / "folder"
        place.mkdir(parents=True)
        plan = plan_of(prepared, pipeline.images, store, 0)
        built = built_files(prepared, plan, tree, store, place, scratch / "check.log", around, None)
        same = fingerprint(built.metadata, built.rootfs) == image.fingerprint
        old = store.blobs.path(image.rootfs.sha256)
        paths = [] if same else differing_paths(old, built.rootfs, tree, scratch)
    cpus = f"{len(around.cpus)} of {len(os.sched_getaffinity(0))} CPUs"
    words = f"on disk, umask {around.umask:03o}, LC_ALL={around.locale}, TZ={around.timezone}, host name, {cpus}"
    return CheckOutcome(name, same, words, paths)


def differing_paths(old: Path, new: Path, tree: Tree, scratch: Path) -> list[str]:
    """The paths by which two squashfs images differ: by their listing, then by the content of what looks the same."""
    place = scratch / "compare"
    (place / "stage").mkdir(parents=True)
    job = Job(
        root=str(tree.root),
        stage=str(place / "stage"),
        log=str(place / "log"),
        steps=(
            *_listing("old", place),
            *_listing("new", place),
            Step("compare", ("diff", "-rq", "--no-dereference", "/build/old", "/build/new"), output=f"{place}/diff"),
        ),
        mounts=(
            Mount("/build", str(_made(place / "work")), writable=True),
            Mount("/old.squashfs", str(old)),
            Mount("/new.squashfs", str(new)),
        ),
    )
    run_job(job)
    listed = set((place / "old.list").read_text().splitlines()) ^ set((place / "new.list").read_text().splitlines())
    compared = (place / "diff").read_text().splitlines() if (place / "diff").exists() else []
    return sorted(listed) + [line.replace("/build/old", "").replace("/build/new", "") for line in compared]


def _listing(side: str, place: Path) -> tuple[Step, Step]:
    squashfs = f"/{side}.squashfs"
    return (
        Step(f"list {side}", ("unsquashfs", "-lln", "-d", "", squashfs), output=str(place / f"{side}.list")),
        Step(f"unpack {side}", ("unsquashfs", "-q", "-n", "-d", f"/build/{side}", squashfs)),
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
