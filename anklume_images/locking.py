"""Locks of images and trees: which one counts, and making a new one.

The committed lock beside the spec counts while it answers what the spec asks. Where mirrors have dropped what it
names, `--refresh-missing` resolves anew and keeps that lock in the store, for as long as the committed one stays as
it is:  locks/<name>/<first 16 hex of the committed lock's digest>.json
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from anklume_images.builder.trees import load_tree_spec, tree_names
from anklume_images.errors import LockError
from anklume_images.inputs.debian import DebianRequest, HostApt, resolve
from anklume_images.inputs.from_host import host_package
from anklume_images.inputs.lockfile import Lock, load_locks, save_lock
from anklume_images.inputs.mirrors import PYPI
from anklume_images.inputs.transport import Transport

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.inputs.answers import Attempt
    from anklume_images.inputs.debian import AptRunner, Resolution
    from anklume_images.inputs.lockfile import Deb
    from anklume_images.inputs.mirrors import Sources
    from anklume_images.specs.catalog import Catalog
    from anklume_images.specs.model import Spec
    from anklume_images.store.store import Store

__all__ = ["TOOLCHAIN", "Locks", "is_tree"]

TOOLCHAIN = "toolchain"


def is_tree(name: str) -> bool:
    """Say whether a name is a tree's rather than an image's."""
    return name in tree_names()


class Locks:
    """The locks of one architecture; `catalog` says what is asked, `store` keeps what was refreshed."""

    def __init__(self, store: Store, catalog: Catalog, architecture: str, *, allow_expired: bool = False) -> None:
        self.store = store
        self.catalog = catalog
        self.architecture = architecture
        self._allow_expired = allow_expired
        self._files: dict[Path, tuple[tuple[int, ...], dict[str, Lock]]] = {}
        self._proposed: dict[str, Lock] = {}

    def path(self, name: str) -> Path:
        """Where the lock is committed."""
        return load_tree_spec(name).lock_path if is_tree(name) else self.catalog.get(name).lock_file

    def request(self, name: str) -> str:
        """The hash of what is asked now."""
        if is_tree(name):
            return load_tree_spec(name).request(self.architecture)
        return self.catalog.request(name, self.architecture)

    def committed(self, name: str) -> Lock | None:
        """The lock beside the spec, whatever it answers."""
        return self._read(self.path(name)).get(self.architecture)

    def _read(self, path: Path) -> dict[str, Lock]:
        """The locks of a file, which is parsed again only when another one stands there."""
        try:
            status = path.stat()
        except FileNotFoundError:
            return {}
        signature = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._files.get(path)
        if known is None or known[0] != signature:
            known = self._files[path] = (signature, load_locks(path))
        return known[1]

    def refreshed_path(self, name: str) -> Path:
        """Where the store keeps a lock that stands in for the committed one."""
        committed = self.committed(name)
        digest = committed.digest()[:16] if committed else "none"
        return self.store.home / "locks" / name / f"{digest}.json"

    def refreshed(self, name: str) -> Lock | None:
        """The lock that stands in for the committed one, if it still answers what is asked."""
        lock = self._read(self.refreshed_path(name)).get(self.architecture)
        return lock if lock and self._answers(name, lock) else None

    def propose(self, lock: Lock) -> None:
        """Have a lock count as if it were there, for what is resolved upon it; it is not written."""
        self._proposed[lock.name] = lock

    def get(self, name: str) -> Lock:
        """The lock that counts; LockError names the command to run when there is none."""
        if name in self._proposed:
            return self._proposed[name]
        refreshed = self.refreshed(name)
        if refreshed:
            return refreshed
        committed, where = self.committed(name), str(self.path(name))
        hint = f"run: anklume-images lock {name}"
        if committed is None:
            raise LockError(f"{name} is not locked for {self.architecture}", where=where, hint=hint)
        if committed.name != name:
            raise LockError(f"this is the lock of {committed.name}, not of {name}", where=where, hint=hint)
        if committed.request != self.request(name):
            raise LockError(f"the spec of {name} changed since it was locked", where=where, hint=hint)
        if not self._answers(name, committed):
            raise LockError(f"the base of {name} was locked anew since", where=where, hint=hint)
        return committed

    def _answers(self, name: str, lock: Lock) -> bool:
        return lock.name == name and lock.request == self.request(name) and lock.base == self._base_content(name)

    def _base_content(self, name: str) -> str | None:
        base = None if is_tree(name) else self.catalog.get(name).base
        return self.get(base).content() if base else None

    def save(self, lock: Lock) -> bool:
        """Commit a lock beside its spec, unless the one there would make the same image; says whether it did."""
        try:
            old = self.committed(lock.name)
        except LockError:  # edited by hand, or no lock at all: this is how to mend it
            old = None
        if old and old.content() == lock.content() and old.request == lock.request:
            return False
        save_lock(self.path(lock.name), lock)
        return True

    def keep(self, lock: Lock) -> Path:
        """Keep a refreshed lock in the store."""
        path = self.refreshed_path(lock.name)
        save_lock(path, lock)
        return path

    def resolve(self, name: str, sources: Sources, scratch: Path, toolchain: Path | None) -> Lock:
        """Make a lock from what the archives have now; apt runs in the unpacked `toolchain`, or on the host without."""
        if toolchain is None:
            runner: AptRunner = HostApt(scratch)
        else:
            from anklume_images.builder.apt import TreeApt

            runner = TreeApt(toolchain, scratch)
        return self._resolve_tree(name, sources, runner) if is_tree(name) else self._resolve(name, sources, runner)

    def _resolve_tree(self, name: str, sources: Sources, runner: AptRunner) -> Lock:
        spec = load_tree_spec(name)
        resolution = self._debs(spec.debian(self.architecture), sources, runner)
        return Lock(
            name, self.architecture, self.request(name), resolution.epoch, "tree", resolution.indexes, resolution.debs
        )

    def _resolve(self, name: str, sources: Sources, runner: AptRunner) -> Lock:
        chain = self.catalog.chain(name)
        spec = chain[-1]
        lock = Lock(name, self.architecture, self.request(name), 0, "", base=self._base_content(name))
        installed = self._installed(spec)
        if spec.debian:
            suites = dict.fromkeys(suite for link in chain if link.debian for suite in link.debian.suites)
            provided = tuple(package.control for link in chain if (package := host_package(link)))
            request = DebianRequest(tuple(suites), spec.packages, self.architecture, installed, provided)
            resolution = self._debs(request, sources, runner)
            lock = replace(lock, debs=resolution.debs, indexes=resolution.indexes, epoch=resolution.epoch)
        if spec.python:
            from anklume_images.inputs.python import lock_wheels

            wheels = lock_wheels(
                spec,
                self.architecture,
                places=sources.python(),
                transport=Transport(sources.access(PYPI)),
                cache=runner.scratch / "uv",
            )
            lock = replace(lock, wheels=wheels)
        if spec.release_files:
            from anklume_images.inputs.release import HttpReader, lock_files

            lock = replace(lock, files=lock_files(spec, self.architecture, HttpReader(sources.bases, Transport())))
        return replace(lock, upstream=_upstream(spec, lock, installed))

    def _debs(self, request: DebianRequest, sources: Sources, runner: AptRunner) -> Resolution:
        for archive in dict.fromkeys(suite.archive for suite in request.suites):
            failures: list[Attempt] = []
            if not sources.bases(archive, failures=failures):
                lines = [f"no mirror of the archive {archive} is known", *map(str, failures)]
                raise LockError("\n".join([*lines, *sources.passed_over(archive)]), hint=sources.hint(archive))
        return resolve(request, sources.bases, runner, access=sources.access, allow_expired=self._allow_expired)

    def _installed(self, spec: Spec) -> tuple[Deb, ...]:
        """What the bases of an image have installed, the nearest base's version of each package."""
        debs: dict[str, Deb] = {}
        base = spec.base
        lineage = []
        while base:
            lineage.append(base)
            base = self.catalog.get(base).base
        for name in reversed(lineage):
            debs |= {deb.package: deb for deb in self.get(name).debs}
        return tuple(debs.values())


def _upstream(spec: Spec, lock: Lock, installed: tuple[Deb, ...]) -> str:
    rule = spec.version
    if rule.literal:
        return rule.literal
    if rule.python:
        from packaging.utils import canonicalize_name

        package = canonicalize_name(rule.python)
        versions = [wheel.version for wheel in lock.wheels if canonicalize_name(wheel.package) == package]
    else:
        # Without the epoch, the Debian revision and updates: 1:2.3-4 and 2.3+deb13u1 are version 2.3 of their upstream.
        versions = [
            re.sub(r"^\d+:|\+deb\d+u\d+$", "", deb.version.rsplit("-", 1)[0])
            for deb in (*lock.debs, *installed)
            if deb.package == rule.package
        ]
    if not versions:
        raise LockError(
            f"the version of {spec.name} is to be that of {rule.python or rule.package}, which is not in its lock",
            where=str(spec.spec_file),
            hint="name one of its packages under `version`",
        )
    return versions[0]
