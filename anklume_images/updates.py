"""What newer inputs there are: locks resolved anew and held against those that are there. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import LockError
from anklume_images.evidence.changes import Entry, package_changes
from anklume_images.inputs.debian import parse_stanza
from anklume_images.locking import is_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.evidence.changes import PackageChange
    from anklume_images.inputs.lockfile import Lock
    from anklume_images.inputs.releases import Releases, ReleaseState
    from anklume_images.pipeline import Pipeline

__all__ = ["Update", "find_update"]


@dataclass(frozen=True)
class Update:
    """What there is for one image or tree: the lock as it would be, and what that changes.

    `changed` may be without packages: the spec asks something else with the same answer. Release files are locked as
    the spec names them; `releases` says which newer ones it could name.
    """

    lock: Lock
    changed: bool
    packages: tuple[PackageChange, ...]
    releases: tuple[ReleaseState, ...] = ()


def find_update(pipeline: Pipeline, name: str, releases: Releases) -> Update:
    """Resolve an image or tree anew; what is resolved upon it afterwards is so upon the new lock."""
    try:
        old = pipeline.locks.committed(name)
    except LockError:  # edited by hand
        old = None
    lock = pipeline.resolve(name)
    changed = not (old and old.content() == lock.content() and old.request == lock.request)
    packages = package_changes(_entries(old) if old else (), _entries(lock))
    if is_tree(name):
        return Update(lock, changed, packages)
    pipeline.locks.propose(lock)
    chain = pipeline.catalog.chain(name)
    return Update(lock, changed, packages, releases.of(chain, pipeline.options.architecture))


def _entries(lock: Lock) -> Iterator[Entry]:
    """Sizes are what packages say they install, and those of wheels' and release files' own files."""
    for deb in lock.debs:
        size = int(parse_stanza(deb.stanza).get("Installed-Size") or 0) << 10
        yield Entry("deb", deb.package, deb.version, size, deb.sha256)
    for wheel in lock.wheels:
        yield Entry("wheel", wheel.package, wheel.version, wheel.size, wheel.sha256)
    for file in lock.files:
        yield Entry("file", file.name, file.path, file.size, file.sha256)
