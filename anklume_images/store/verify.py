"""Read what the store holds and compare it with the hashes that name it, over all CPUs.

Blobs have their names, an image's documents its `SHA256SUMS`, channels their log, the log its chain, locks their own
digests, trees the list that was made when they were unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.files import CHUNK
from anklume_images.inputs.lockfile import load_locks
from anklume_images.store.models import ModelRecords
from anklume_images.store.noted import noted_problems
from anklume_images.store.override_log import OverrideLog
from anklume_images.store.promotion_log import PromotionLog
from anklume_images.store.summaries import damaged_summaries
from anklume_images.store.sums import SUMS, damaged_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from anklume_images.store.channel_log import Place
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["Damage", "Progress", "Sample", "VerifyReport", "verify_store"]


class Progress(Protocol):
    """Who is told how it goes; called from many threads."""

    def start(self, total_bytes: int, count: int, what: str) -> None:
        """So many files are to be read."""

    def advance(self, n: int) -> None:
        """So many bytes were read."""

    def finish(self) -> None:
        """All are read."""


@dataclass(frozen=True)
class Sample:
    """Some of the blobs, chosen anew each time: so many, or such a part of them (0 to 1)."""

    count: int | None = None
    part: float = 1.0

    def choose(self, names: list[str]) -> list[str]:
        """That many of the names."""
        count = max(1, round(len(names) * self.part)) if self.count is None else self.count
        return sorted(random.SystemRandom().sample(names, min(count, len(names))))


@dataclass(frozen=True)
class Damage:
    """One thing that is not what it should be, in one line, and what it is of, for its repair."""

    text: str
    blob: str | None = None
    documents: tuple[str, str, str] | None = None
    channel: Place | None = None
    tree: Path | None = None
    derived: Path | None = None
    log: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """Blobs read, their bytes, and what is damaged, of documents, channels and trees too."""

    checked: int
    bytes: int
    damage: tuple[Damage, ...] = ()

    @property
    def damaged(self) -> tuple[str, ...]:
        """One line for each."""
        return tuple(damage.text for damage in self.damage)


@dataclass
class _Run:
    """What is read in one run; `owners` are the images by their blobs."""

    store: Store
    images: Images
    progress: Progress | None
    owners: dict[str, list[Image]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)

    def blob(self, sha256: str) -> tuple[int, Damage | None]:
        """Bytes read, and what is wrong with a blob; -1 bytes for one that gc took meanwhile."""
        digest = hashlib.sha256()
        try:
            size = _read(self.store.blobs.path(sha256), digest.update, self._advance)
        except FileNotFoundError:
            owner = self._owner(sha256)
            return -1, Damage(f"{owner.ref}: blob {sha256} is missing", sha256) if owner else None
        except OSError as error:  # what a failing disk says of a file
            return 0, Damage(f"{self._of(sha256)}blob {sha256} cannot be read: {error.strerror}", sha256)
        if digest.hexdigest() == sha256:
            return size, None
        owner = self._owner(sha256)
        text = f"{owner.ref}: blob {sha256} has other bytes" if owner else f"blob {sha256}"
        return size, Damage(text, sha256)

    def fingerprint(self, image: Image) -> Damage | None:
        """Whether the two files together have the fingerprint; that each has its hash is the blobs' check."""
        digest = hashlib.sha256()
        try:
            for file in (image.metadata, image.rootfs):
                _read(self.store.blobs.path(file.sha256), digest.update, self._advance)
        except OSError:
            return None
        if digest.hexdigest() == image.fingerprint:
            return None
        return Damage(f"{image.ref}: its files are not those of its fingerprint", documents=image.key)

    def documents(self, image: Image) -> list[Damage]:
        """What is wrong with an image's documents; nothing in a store that is older than their hashes."""
        folder = self.images.folder(image.name, image.version, image.architecture)
        problems = damaged_files(folder) if self.store.schema > 1 else []
        if problems and not (folder / "manifest.json").exists():
            return []  # gc took it meanwhile
        return [Damage(f"{image.ref}: {problem}", documents=image.key) for problem in problems]

    def _owner(self, sha256: str) -> Image | None:
        for image in self.owners.get(sha256, ()):
            if self.images.get(image.name, image.version, image.architecture):
                return image
        return None

    def _of(self, sha256: str) -> str:
        owner = self._owner(sha256)
        return f"{owner.ref}: " if owner else ""

    def _advance(self, n: int) -> None:
        if self.stopping.is_set():
            raise KeyboardInterrupt
        if self.progress:
            self.progress.advance(n)


def verify_store(
    store: Store,
    images: Images,
    refs: Iterable[str],
    architecture: str,
    *,
    sample: Sample | None = None,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> VerifyReport:
    """Verify the named images with their fingerprints, or everything.

    Of everything, a `sample` reads only some of the blobs; documents, channels, the log and locks are always read. An
    image's fingerprint follows from its blobs and its manifest, and so is not computed again for all of them.
    """
    with contextlib.suppress(StoreError):  # a damaged log is told below
        images.settle()
    chosen = [images.resolve(ref, architecture) for ref in refs]
    unreadable: list[Damage] = []
    listed = chosen or list(_readable(images, unreadable))
    run = _Run(store, images, progress)
    for image in listed:
        for file in (image.metadata, image.rootfs):
            run.owners.setdefault(file.sha256, []).append(image)
    names = sorted(run.owners) if chosen else sorted({*store.blobs, *run.owners})
    if sample and not chosen:
        names = sample.choose(names)
    sizes = {name: _size(store.blobs.path(name)) for name in names}
    total = sum(sizes.values()) + sum(image.metadata.size + image.rootfs.size for image in chosen)
    if progress:
        progress.start(total, len(names), "verifying")
    try:
        with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:  # hashing lets other threads go on
            trees = [] if chosen or sample else [pool.submit(_tree, tree) for tree in _listed_trees(store)]
            # The largest first, so that none of them is read alone at the end.
            blobs = [pool.submit(run.blob, name) for name in sorted(names, key=lambda name: -sizes[name])]
            prints = [pool.submit(run.fingerprint, image) for image in chosen]
            documents = [pool.submit(run.documents, image) for image in listed]
            others = [pool.submit(check, store, images) for check in (() if chosen else _OTHERS)]
            try:
                read = [one.result() for one in blobs]
                found = [damage for _, damage in read if damage]
                if not found:
                    found += [damage for damage in (one.result() for one in prints) if damage]
                found += unreadable
                found += [damage for one in (*documents, *others, *trees) for damage in one.result()]
            except BaseException:  # an interrupt above all: what is being read now is the last
                run.stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if progress:
            progress.finish()
    sound = [size for size, damage in read if size >= 0 or damage]
    found.sort(key=lambda damage: damage.text)
    return VerifyReport(len(sound), sum(size for size in sound if size > 0), tuple(found))


def _readable(images: Images, unreadable: list[Damage]) -> Iterator[Image]:
    """The images whose manifest can be read; the others are damage."""
    for name, version, architecture in images.listed():
        try:
            image = images.get(name, version, architecture)
        except StoreError as error:
            unreadable.append(Damage(f"{name}@{version}: {error}", documents=(name, version, architecture)))
            continue
        if image and image.key != (name, version, architecture):
            text = f"{name}@{version}: manifest.json is that of {image.ref} ({image.architecture})"
            unreadable.append(Damage(text, documents=(name, version, architecture)))
        elif image:
            yield image


def _channels(store: Store, images: Images) -> list[Damage]:
    """Channels against the log, and the log against its chain."""
    if store.schema < 2:
        return []
    log = images.log
    with log.still():
        history, places = log.read(), list(log.places())
        data = {place: log.file(place).read_bytes() for place in places}
    name = log.path.relative_to(store.home)
    damage = [Damage(f"{name}: line {one.line} {one.problem}", log=str(name)) for one in history.breaks]
    last = history.last()
    for place in places:
        told = last[place].after if place in last else None
        if told is None or data[place] != f"{told}\n".encode():
            text = data[place].decode("ascii", errors="backslashreplace").strip()
            damage.append(Damage(f"channel {place}: it names {text!r}, its last move {told!r}", channel=place))
        elif not (images.folder(place.image, told, place.architecture) / "manifest.json").exists():
            missing = (place.image, told, place.architecture)
            damage.append(Damage(f"channel {place}: the store has no {place.image}@{told}", documents=missing))
    gone = [place for place, move in last.items() if move.after is not None and place not in data]
    return damage + [Damage(f"channel {place} is missing", channel=place) for place in gone]


def _logs(store: Store, _images: Images) -> list[Damage]:
    """The logs of promotions, and of expired metadata that was accepted, against their chains."""
    damage = []
    for log in (PromotionLog(store), OverrideLog(store)):
        with log.chain.still():
            _, breaks = log.read()
        name = log.chain.path.relative_to(store.home)
        damage += [Damage(f"{name}: line {one.line} {one.problem}", log=str(name)) for one in breaks]
    return damage


def _locks(store: Store, _images: Images) -> list[Damage]:
    """Locks that were made anew; each has a digest of its own."""
    damage = []
    for path in sorted(store.home.glob("locks/*/*.json")):
        try:
            load_locks(path)
        except AnklumeError as error:
            damage.append(Damage(str(error)))
    return damage


def _models(store: Store, _images: Images) -> list[Damage]:
    """Records of models, each with its own digest, and whether the files are there that they name."""
    records = ModelRecords(store)
    damage = [Damage(f"{path.relative_to(store.home)}: {problem}") for path, problem in records.problems()]
    if damage:
        return damage
    missing = [(one.name, sha256) for one in records for sha256 in one.blobs() if not store.blobs.has(sha256)]
    return [Damage(f"model {name}: blob {sha256} is missing", sha256) for name, sha256 in missing]


def _noted(store: Store, _images: Images) -> list[Damage]:
    """What has no hash of its own but in the store's list; lists and pages for others are made anew by a repair."""
    home = store.home
    found = noted_problems(home)
    found += [(path, f"{path.relative_to(home)} was changed") for path in damaged_summaries(home)]
    made = {home / "cache", home / "streams/v1", home}  # with the page, which is the only HTML
    return [
        Damage(text, derived=path if path.parent in made and path.name not in (SUMS, "revoked.json") else None)
        for path, text in found
    ]


_OTHERS = (_channels, _logs, _locks, _models, _noted)


def _listed_trees(store: Store) -> list[Path]:
    """Unpacked trees that have a list of their files; those of earlier programs have none."""
    return sorted(path.parent for path in store.home.glob(f"trees/*/{SUMS}"))


def _tree(folder: Path) -> list[Damage]:
    problems = damaged_files(folder)
    return [Damage(f"tree {folder.name}: {problem}", tree=folder) for problem in problems if folder.is_dir()]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path, update: Callable[[memoryview], None], advance: Callable[[int], None]) -> int:
    """Read a file into a hash, in chunks."""
    total = 0
    with path.open("rb", buffering=0) as stream:
        buffer = memoryview(bytearray(min(CHUNK, max(1, os.fstat(stream.fileno()).st_size))))
        while count := stream.readinto(buffer):
            update(buffer[:count])
            advance(count)
            total += count
    return total
