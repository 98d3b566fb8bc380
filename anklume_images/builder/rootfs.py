"""One sealed run of distrobuilder: locked blobs in, a root file system (squashfs) and raw metadata out."""

from __future__ import annotations

import hashlib
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.builder.recipe import COMPRESSION
from anklume_images.builder.sandbox import ENVIRONMENT, BuildEnvironment, Job, Mount, Step, run_job
from anklume_images.errors import BuildError
from anklume_images.inputs.debian import parse_stanza

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.builder.sandbox import Outcome
    from anklume_images.inputs.from_host import HostPackage
    from anklume_images.inputs.lockfile import Deb, Lock
    from anklume_images.store.blobs import Blobs

__all__ = ["Plan", "Rootfs", "Unpack", "apt_repository", "build_rootfs", "memory_needed", "mirror_entries"]

_SQUASHFS_MAGIC = b"hsqs"
_INSPECTION = ("collect metadata", "list packages", "list files")
# An image without any template has no such folder.
_COLLECT = "cd /build/cache; mkdir -p templates ../out/metadata; cp -r metadata.yaml templates ../out/metadata"
# distrobuilder has rsync copy the base, whole, to where it works. Nobody needs the base after that: it is moved there.
_MOVE = """#!/bin/sh
set -eu
while [ $# -gt 2 ]; do shift; done
exec mv --no-target-directory "$1" "$2"
"""


@dataclass(frozen=True)
class Unpack:
    """A release file that is unpacked over the base before distrobuilder runs."""

    name: str
    sha256: str
    to: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rootfs:
    """What a run left in the scratch folder."""

    squashfs: Path
    metadata: Path  # a folder with metadata.yaml and templates/, as distrobuilder wrote them
    status: Path  # the image's /var/lib/dpkg/status
    listing: Path  # `unsquashfs -lln` of it


@dataclass(frozen=True)
class Plan:
    """Everything one run needs; paths are the host's."""

    name: str
    definition: str
    release: str
    lock: Lock
    epoch: int
    base: Path | None = None
    unpack: tuple[Unpack, ...] = ()
    memory: int = 0  # bytes for a tmpfs to work in; 0 works on the store's disk
    from_host: HostPackage | None = None


def apt_repository(
    debs: tuple[Deb, ...], release: str, architecture: str, epoch: int, blobs: Blobs, from_host: HostPackage | None
) -> dict[str, Any]:
    """The files of an apt repository made from locked stanzas: URL path below the mirror -> content or blob.

    Packages ends with a blank line, or debootstrap loses its last stanza.
    """
    entries: dict[str, Any] = {}
    paragraphs = []
    if from_host:
        path = f"pool/from-host/{from_host.name}_all.deb"
        entries[f"/debian/{path}"] = {"text": from_host.deb(epoch).decode("ascii")}
        paragraphs.append(f"{from_host.stanza(epoch)}\nFilename: {path}")
    for deb in debs:
        path = f"pool/{deb.sha256[:16]}/{deb.package}_{deb.architecture}.deb"
        entries[f"/debian/{path}"] = str(blobs.path(deb.sha256))
        lines = [line for line in deb.stanza.splitlines() if not line.startswith("Filename:")]
        paragraphs.append("\n".join([*lines, f"Filename: {path}"]))
    packages = "".join(f"{paragraph}\n\n" for paragraph in paragraphs)
    stamp = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(epoch))
    indexes = {f"main/binary-{architecture}/Packages": packages}
    sums = "".join(
        f" {hashlib.sha256(text.encode()).hexdigest()} {len(text.encode())} {name}\n" for name, text in indexes.items()
    )
    indexes["Release"] = (
        f"Origin: anklume\nLabel: locked\nSuite: {release}\nCodename: {release}\nDate: {stamp}\n"
        f"Architectures: {architecture}\nComponents: main\nSHA256:\n{sums}"
    )
    for name, text in indexes.items():
        entries[f"/debian/dists/{release}/{name}"] = {"text": text}
    return entries


def mirror_entries(
    lock: Lock, release: str, epoch: int, blobs: Blobs, from_host: HostPackage | None = None
) -> dict[str, Any]:
    """Everything that the loopback mirror serves for a lock: /debian/, /wheels/ and /files/."""
    entries = apt_repository(lock.debs, release, lock.architecture, epoch, blobs, from_host)
    if lock.wheels:
        page = "".join(f'<a href="/wheels/{w.path}#sha256={w.sha256}">{w.path}</a>\n' for w in lock.wheels)
        entries["/wheels/"] = {"text": page, "type": "text/html"}
        entries |= {f"/wheels/{wheel.path}": str(blobs.path(wheel.sha256)) for wheel in lock.wheels}
        pins = "".join(f"{w.package}=={w.version} --hash=sha256:{w.sha256}\n" for w in lock.wheels if not w.tool)
        entries["/wheels/requirements.txt"] = {"text": pins}
    entries |= {f"/files/{file.name}": str(blobs.path(file.sha256)) for file in lock.files}
    return entries


def memory_needed(plan: Plan, base_unpacked: int, blobs: Blobs) -> int:
    """Bytes that a run writes at most: the base, what the packages say they install, files unpacked, and some air."""
    installed = sum(int(parse_stanza(deb.stanza).get("Installed-Size", "0")) << 10 for deb in plan.lock.debs)
    debs = sum(deb.size for deb in plan.lock.debs)
    wheels = 4 * sum(wheel.size for wheel in plan.lock.wheels)
    files = 4 * sum(blobs.path(file.sha256).stat().st_size for file in plan.lock.files)
    return base_unpacked + 2 * installed + debs + wheels + files + (512 << 20)


def build_rootfs(
    plan: Plan, tree: Path, blobs: Blobs, scratch: Path, log: Path, around: BuildEnvironment, keep: Path | None
) -> Rootfs:
    """Run distrobuilder once; BuildError shows the failing step and its last lines."""
    for name in ("stage", "in", "out", "work"):
        (scratch / name).mkdir()
    (scratch / "in" / "definition.yaml").write_text(plan.definition, encoding="utf-8")
    work = Mount("/build", None, plan.memory) if plan.memory else Mount("/build", str(scratch / "work"), writable=True)
    mounts = [work, Mount("/build/in", str(scratch / "in")), Mount("/build/out", str(scratch / "out"), writable=True)]
    if plan.base:
        mounts.append(Mount("/build/base.squashfs", str(plan.base)))
    mounts += [Mount(f"/build/files/{entry.name}", str(blobs.path(entry.sha256))) for entry in plan.unpack]
    out = scratch / "out"
    job = Job(
        root=str(tree),
        stage=str(scratch / "stage"),
        log=str(log),
        steps=(*_steps(plan), *_inspection(out)),
        mounts=tuple(mounts),
        files={"/etc/resolv.conf": "", "/etc/hostname": "localhost\n", "/usr/bin/rsync": _MOVE},
        env=ENVIRONMENT | {"SOURCE_DATE_EPOCH": str(plan.epoch)},
        mirror=mirror_entries(plan.lock, plan.release, plan.epoch, blobs, plan.from_host),
        keep={"from": "/build", "to": str(keep)} if keep else None,
        around=around,
    )
    outcome = run_job(job)
    result = Rootfs(out / "rootfs.squashfs", out / "metadata", out / "status", out / "listing")
    if outcome.ok or (outcome.step in _INSPECTION and not outcome.refused):
        _verify_squashfs(result.squashfs, plan.name, log)
    if not outcome.ok:
        raise _failure(plan.name, outcome, log, keep)
    return result


def _steps(plan: Plan) -> list[Step]:
    common = ("--cache-dir", "/build/cache", "--cleanup=false", "--compression", COMPRESSION)
    definition = "/build/in/definition.yaml"
    if plan.base is None:
        return [Step("distrobuilder", ("distrobuilder", "build-incus", definition, "/build/out", *common))]
    steps = [Step("unpack the base", ("unsquashfs", "-q", "-n", "-d", "/build/base", "/build/base.squashfs"))]
    for entry in plan.unpack:
        excludes = tuple(f"--exclude={pattern}" for pattern in entry.exclude)
        target = f"/build/base{entry.to}"
        # The base's own folders stay as they are: owner, mode, and links such as /bin.
        keep = ("--no-same-owner", "--no-overwrite-dir", "--keep-directory-symlink")
        argv_tar = ("tar", "--extract", *keep, *excludes, f"--directory={target}")
        steps.append(Step(f"unpack {entry.name}", (*argv_tar, f"--file=/build/files/{entry.name}")))
    # Over a base all work is in its overlay, which would be gone when it fails, and with it what `enter` is to show.
    argv = ("distrobuilder", "pack-incus", definition, "/build/base", "/build/out", *common, "--disable-overlay")
    return [*steps, Step("distrobuilder", argv)]


def _inspection(out: Path) -> list[Step]:
    squashfs = "/build/out/rootfs.squashfs"
    return [
        Step(_INSPECTION[0], ("sh", "-ec", _COLLECT)),
        Step(_INSPECTION[1], ("unsquashfs", "-cat", squashfs, "var/lib/dpkg/status"), output=str(out / "status")),
        Step(_INSPECTION[2], ("unsquashfs", "-lln", "-d", "", squashfs), output=str(out / "listing")),
    ]


def _verify_squashfs(path: Path, name: str, log: Path) -> None:
    """Look for the truncated squashfs that a killed distrobuilder leaves with exit code 0 (its superblock tells)."""
    block = b""
    if path.exists():
        with path.open("rb") as stream:
            block = stream.read(96)
    used = struct.unpack_from("<Q", block, 40)[0] if len(block) == 96 else 0
    if block[:4] != _SQUASHFS_MAGIC or not 96 < used <= path.stat().st_size:
        raise BuildError(
            f"{name}: distrobuilder said it was done, but its squashfs is cut short",
            step="distrobuilder",
            tail=_tail(log),
            log=str(log),
            hint="its worker was probably killed for want of memory: build with fewer --jobs",
        )


def _tail(log: Path, lines: int = 20) -> list[str]:
    with log.open("rb") as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 8192))
        return stream.read().decode(errors="replace").splitlines()[-lines:]


def _failure(name: str, outcome: Outcome, log: Path, keep: Path | None) -> BuildError:
    hint = None
    if outcome.refused:
        message = f"{name}: the build asked for what is not locked: {', '.join(outcome.refused[:5])}"
        hint = "declare it in the spec's inputs and lock again"
    elif outcome.error:
        message = f"{name}: the sandbox ended in step {outcome.step!r}: {outcome.error}"
    elif outcome.rc < 0:
        message = f"{name}: step {outcome.step!r} was ended by signal {-outcome.rc}"
        hint = "if it was for want of memory, build with fewer --jobs"
    else:
        message = f"{name}: step {outcome.step!r} failed with exit code {outcome.rc}"
    tail = _tail(log)
    if any("signal: killed" in line for line in tail):
        hint = "if it was for want of memory, build with fewer --jobs"
    if any("No space left on device" in line for line in tail):
        hint = "free some space on the store's disk (anklume-images gc), or build with fewer --jobs"
    enter = f"anklume-images enter {name}" if keep and any(keep.iterdir()) else None
    return BuildError(message, step=outcome.step, tail=tail, log=str(log), enter=enter, hint=hint)
