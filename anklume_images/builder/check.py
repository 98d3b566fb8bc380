"""`--check`: build an image again in other surroundings and compare every byte."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.builder.builder import built_files, plan_of
from anklume_images.builder.sandbox import BuildEnvironment, Job, Mount, Step, run_job
from anklume_images.errors import BuildError
from anklume_images.store.images import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline

__all__ = ["CheckOutcome", "check_image", "differing_paths"]


# `unsquashfs -lln`: -rw-r--r-- 0/0  1234 2026-01-31 12:00 /etc/x; a link with its target, a device with its numbers.
_LISTED = re.compile(r"\S{10} +\d+/\d+ +\d+(?:, *\d+)? +\S+ +\S+ (/.*?)(?: -> .*)?")
_COMPARED = re.compile(r"(?:Files|File|Symbolic links) /build/old(/.*?) (?:and|is) .*")


@dataclass(frozen=True)
class CheckOutcome:
    """What a second build gave; `paths` are those whose listing or content differs."""

    name: str
    identical: bool
    surroundings: str
    paths: list[str]


def other_surroundings() -> BuildEnvironment:
    """Unlike the usual ones in all that a build must not depend on; one processor where there are several."""
    cpus = sorted(os.sched_getaffinity(0))
    return BuildEnvironment(0o077, "POSIX", "Pacific/Kiritimati", "elsewhere", tuple(cpus[:1]))


def check_image(pipeline: Pipeline, name: str) -> CheckOutcome:
    """Build the image that is in the store once more, in a folder of its own, and compare."""
    around = other_surroundings()
    prepared = pipeline.prepare(name)
    image = pipeline.images.resolve(f"{name}@{prepared.version}", prepared.architecture)
    tree = pipeline.toolchain()
    store = pipeline.store
    with store.lease() as lease, store.scratch(f"check-of-{name}") as scratch:
        lease.add([image.rootfs.sha256, tree.folder.name])
        for link in prepared.lineage():
            lease.add(entry.sha256 for entry in link.lock)
        if image.base:
            base = pipeline.images.resolve(f"{image.base['name']}@{image.base['version']}", prepared.architecture)
            lease.add([base.rootfs.sha256])
        place = scratch / "another" / "folder"
        place.mkdir(parents=True)
        plan = plan_of(prepared, pipeline.images, store, 0)
        built = built_files(prepared, plan, tree, store, place, scratch / "check.log", around, None)
        same = fingerprint(built.metadata, built.rootfs) == image.fingerprint
        old = store.blobs.path(image.rootfs.sha256)
        paths = [] if same else differing_paths(old, built.rootfs, tree, scratch)
        if not same:
            paths += differing_members(store.blobs.path(image.metadata.sha256), built.metadata)
    cpus = f"{len(around.cpus)} of {len(os.sched_getaffinity(0))} CPUs"
    words = f"on disk, umask {around.umask:03o}, LC_ALL={around.locale}, TZ={around.timezone}, host name, {cpus}"
    return CheckOutcome(name, same, words, paths)


def differing_paths(old: Path, new: Path, tree: Tree, scratch: Path) -> list[str]:
    """The paths in which two squashfs images differ, by their listing or their content; none of a folder's own size."""
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
    outcome = run_job(job)
    if outcome.step != "compare":
        raise BuildError(
            f"the two images could not be compared: step {outcome.step!r} failed",
            step=outcome.step,
            tail=(place / "log").read_text(errors="replace", encoding="utf-8").splitlines()[-20:],
        )
    listed = _lines(place / "old.list") ^ _lines(place / "new.list")
    compared = (_COMPARED.fullmatch(line) for line in _lines(place / "diff"))
    paths = {match[1] for line in listed if (match := _LISTED.fullmatch(line))}
    return sorted(paths | {match[1] for match in compared if match})


def _lines(path: Path) -> set[str]:
    return set(path.read_text(errors="surrogateescape", encoding="utf-8").splitlines())


def differing_members(old: Path, new: Path) -> list[str]:
    """The members of two metadata tarballs that differ."""
    import tarfile

    contents: list[dict[str, bytes]] = []
    for path in (old, new):
        with tarfile.open(path) as archive:
            members = {member.name: archive.extractfile(member) for member in archive}
            contents.append({name: stream.read() for name, stream in members.items() if stream})
    before, after = contents
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _listing(side: str, place: Path) -> tuple[Step, Step]:
    squashfs = f"/{side}.squashfs"
    return (
        Step(f"list {side}", ("unsquashfs", "-lln", "-d", "", squashfs), output=str(place / f"{side}.list")),
        Step(f"unpack {side}", ("unsquashfs", "-q", "-n", "-d", f"/build/{side}", squashfs)),
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
