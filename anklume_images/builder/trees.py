"""Trees: locked sets of .debs unpacked into the store, named by the hash of what is in them.

    trees/<first 32 hex>/root/      the files, never written to after the rename
    trees/<first 32 hex>/tree.json  name, full hash, packages with versions
    trees/<first 32 hex>/SHA256SUMS  the hashes of all its files

Nothing is configured in a tree (no maintainer script runs); what its programs miss for that is put right in `_finish`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anklume_images.canonical import canonical
from anklume_images.errors import LockError, StoreError
from anklume_images.inputs.debian import DebianRequest
from anklume_images.store.store import tree_path
from anklume_images.store.sums import write_tree_sums

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator

    from anklume_images.inputs.lockfile import Lock
    from anklume_images.specs.keys import Suite
    from anklume_images.store.blobs import Blobs

__all__ = ["Tree", "TreeSpec", "ensure_tree", "load_tree_spec", "stored_tree", "tree_digest", "tree_names"]

SPECS = Path(__file__).resolve().parent.parent / "trees"
UNPACKER = 1  # part of a tree's name: raise it when what `_finish` does changes


@dataclass(frozen=True)
class TreeSpec:
    """What a tree is asked to hold: `trees/<name>/tree.yml`."""

    name: str
    suites: tuple[Suite, ...]
    packages: tuple[str, ...]
    folder: Path

    def request(self, architecture: str) -> str:
        """The hash of the question that the tree's lock answers."""
        suites = [[s.archive, s.suite, list(s.components), s.pin] for s in self.suites]
        document = {"architecture": architecture, "suites": suites, "packages": list(self.packages)}
        return hashlib.sha256(canonical(document)).hexdigest()

    def debian(self, architecture: str) -> DebianRequest:
        """The question in the resolver's words."""
        return DebianRequest(self.suites, self.packages, architecture)

    @property
    def lock_path(self) -> Path:
        """Where its lock is committed."""
        return self.folder / "lock.json"


@dataclass(frozen=True)
class Tree:
    """An unpacked tree; `root` may be read by many at once and is never written to."""

    name: str
    digest: str
    root: Path

    @property
    def folder(self) -> Path:
        """Its folder in the store, by whose name leases keep it."""
        return self.root.parent


def tree_names() -> list[str]:
    """The trees that come with the program."""
    return sorted(folder.name for folder in SPECS.iterdir() if (folder / "tree.yml").exists())


def load_tree_spec(name: str) -> TreeSpec:
    """Read `trees/<name>/tree.yml`, whose keys are those of `TreeDocument`."""
    from anklume_images.specs.loader import load_tree_document

    folder = SPECS / name
    if not (folder / "tree.yml").is_file():
        raise LockError(f"no tree is called {name}", hint=f"there are: {', '.join(tree_names())}")
    document = load_tree_document(folder / "tree.yml")
    return TreeSpec(document.name, document.suites, document.packages, folder)


def tree_digest(lock: Lock) -> str:
    """The name of the tree that a lock makes: the hash of its packages and of the way they are unpacked."""
    content = {"unpacker": UNPACKER, "architecture": lock.architecture, "debs": sorted(deb.sha256 for deb in lock.debs)}
    return hashlib.sha256(canonical(content)).hexdigest()


def stored_tree(lock: Lock, home: Path) -> Tree:
    """The tree of a lock as it is in the store at `home`, unpacked or yet to be."""
    digest = tree_digest(lock)
    return Tree(lock.name, digest, tree_path(home, digest) / "root")


def ensure_tree(lock: Lock, blobs: Blobs, home: Path) -> Tree:
    """Unpack the tree of a lock whose blobs are in the store, unless it is there already.

    Each .deb is read against its locked hash first. One process unpacks, others wait for it.
    """
    tree = stored_tree(lock, home)
    place = tree.folder
    if place.is_dir():
        return tree
    with _lock(place.parent, f".{place.name}.lock"):
        if place.is_dir():
            return tree
        building = place.with_name(f".{place.name}.new")
        shutil.rmtree(building, ignore_errors=True)
        (building / "root").mkdir(parents=True)
        _unpack(lock, blobs, building / "root")
        _finish(building / "root")
        packages = {deb.package: deb.version for deb in lock.debs}
        document = {"name": lock.name, "digest": tree.digest, "packages": packages}
        (building / "tree.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        write_tree_sums(building)
        os.sync()  # thousands of small files: one sync of the file system, then the rename that makes them count
        building.rename(place)
    return tree


@contextlib.contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _unpack(lock: Lock, blobs: Blobs, root: Path) -> None:
    from debian.debfile import DebFile

    # base-files first: it makes /bin, /lib and /sbin links before anything lands in them.
    for deb in sorted(lock.debs, key=lambda deb: (deb.package != "base-files", deb.package)):
        if not blobs.verify(deb.sha256):
            raise StoreError(
                f"the blob of {deb.package} {deb.version} is missing or damaged",
                where=str(blobs.path(deb.sha256)),
                hint="run `anklume-images verify --repair`",
            )
        with blobs.path(deb.sha256).open("rb") as stream:
            archive: tarfile.TarFile = DebFile(fileobj=stream).data.tgz()
            with archive:
                _extract(archive, root)


def _extract(archive: tarfile.TarFile, root: Path) -> None:
    # Known only since Python 3.11.4; without it the same members come out, unfiltered, from verified packages.
    archive.extraction_filter = staticmethod(_member)
    archive.extractall(root, numeric_owner=True)  # noqa: S202  the members pass _member


def _member(member: tarfile.TarInfo, _path: str) -> tarfile.TarInfo:
    """Everything a package holds, but no set-user-id bit: a tree is only used by root."""
    if Path(member.name).is_absolute() or ".." in Path(member.name).parts:
        raise StoreError(f"a package has a file outside its root: {member.name}")
    return member.replace(mode=(member.mode or 0o644) & 0o1777, deep=False)


def _finish(root: Path) -> None:
    """Put right what maintainer scripts would have done and the tree's programs need."""
    alternatives: dict[str, Any] = {"usr/bin/awk": "mawk"}
    for link, target in alternatives.items():
        if not (root / link).exists() and (root / link).parent.joinpath(target).exists():
            (root / link).symlink_to(target)
    for name in ("passwd", "group"):
        master = root / "usr/share/base-passwd" / f"{name}.master"
        if master.exists():
            shutil.copyfile(master, root / "etc" / name)
    (root / "etc/resolv.conf").write_text("", encoding="utf-8")
    (root / "etc/hostname").write_text("localhost\n", encoding="utf-8")
    for name in ("proc", "sys", "dev", "run", "tmp", "build", "scratch"):
        (root / name).mkdir(exist_ok=True)
