"""spec → lock → fetch → recipe → build → store, for many images at once."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anklume_images import linux
from anklume_images.architectures import host_architecture
from anklume_images.builder.builder import build_image, prepare
from anklume_images.builder.trees import ensure_tree, stored_tree, tree_digest
from anklume_images.errors import AnklumeError, FetchError, HostError, LockError
from anklume_images.inputs.fetch import FetchReport, fetch
from anklume_images.inputs.mirrors import Sources, snapshot_timestamps
from anklume_images.locking import TOOLCHAIN, Locks, is_tree
from anklume_images.results import Result
from anklume_images.ship.index import write_index
from anklume_images.store.images import LATEST, Images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from anklume_images.builder.builder import Prepared
    from anklume_images.builder.trees import Tree
    from anklume_images.console import Console
    from anklume_images.inputs.lockfile import Lock
    from anklume_images.settings import Settings
    from anklume_images.specs.catalog import Catalog
    from anklume_images.store.images import Image
    from anklume_images.store.store import Lease, Store

__all__ = ["Options", "Pipeline"]


@dataclass(frozen=True)
class Options:
    """How to go about it: `jobs` builds at once; `offline` touches no network."""

    architecture: str
    jobs: int = 2
    offline: bool = False
    refresh_missing: bool = False
    allow_expired: bool = False


class Pipeline:
    """Everything between a name and an image in the store."""

    def __init__(self, store: Store, catalog: Catalog, settings: Settings, options: Options, console: Console) -> None:
        self.store = store
        self.images = Images(store)
        self.catalog = catalog
        self.options = options
        self._settings = settings
        self._console = console
        self.locks = Locks(store, catalog, options.architecture, allow_expired=options.allow_expired)
        self._prepared: dict[str, Prepared] = {}
        self._foreign = options.architecture != host_architecture()
        self._lease: Lease | None = None
        self._stopping = threading.Event()

    @contextlib.contextmanager
    def leased(self) -> Iterator[Lease]:
        """The lease of the step that is under way; the outermost one ends it."""
        if self._lease is not None:
            yield self._lease
            return
        with self.store.lease() as lease:
            self._lease = lease
            try:
                yield lease
            finally:
                self._lease = None

    # -- sources and locks

    def sources(self, names: Iterable[str] = ()) -> Sources:
        """Where archives are found, those that the named specs declare included."""
        declared: dict[str, str] = {}
        for name in names:
            if not is_tree(name):
                for link in self.catalog.chain(name):
                    declared |= link.archives
        return Sources.of_host(self._settings, declared)

    def lineage(self, names: Iterable[str]) -> list[str]:
        """The names and their bases, each once, bases first."""
        links: dict[str, None] = {}
        for name in names:
            for link in [name] if is_tree(name) else [spec.name for spec in self.catalog.chain(name)]:
                links[link] = None
        return list(links)

    def wanted(self, names: Iterable[str]) -> dict[str, Result]:
        """What each of the names is now, bases first: a base only where something made from it is missing.

        An image that is there needs nothing else, neither its base nor the toolchain.
        """
        results: dict[str, Result] = {}

        def look(name: str) -> None:
            if name in results:
                return
            result = self._look(name)
            base = self.catalog.get(name).base
            if base and result.status != "present":
                look(base)
            results[name] = result

        for name in names:
            look(name)
        return results

    def lock(self, name: str) -> bool:
        """Resolve anew and commit the lock; False when what is there would make the same image."""
        lock = self.resolve(name)
        self._prepared.clear()
        return self.locks.save(lock)

    def resolve(self, name: str) -> Lock:
        """A lock of what the archives have now; nothing is written."""
        relocking = name == TOOLCHAIN and not self._foreign
        toolchain = self._old_toolchain() if relocking else self.toolchain().root
        self.store.sweep()
        with self.store.scratch(f"lock-{name}") as scratch:
            return self.locks.resolve(name, self.sources([name]), scratch, toolchain)

    def _old_toolchain(self) -> Path | None:
        """The toolchain as it was locked before; None, for the host's apt, when there is none to be had."""
        try:
            old = self.locks.committed(TOOLCHAIN)
            if old is None:
                return None
            with self.leased() as lease:
                lease.add([stored_tree(old, self.store.home).folder.name])
                self._fetch_lock(TOOLCHAIN, old)
                return ensure_tree(old, self.store.blobs, self.store.home).root
        except (FetchError, LockError):
            return None

    # -- fetching

    def fetch(self, names: Sequence[str], *, rebuild: bool = False) -> FetchReport:
        """Have what building the named images takes in the store, and the named trees.

        That is their inputs, those of their bases and the toolchain; nothing for an image that is there, unless it is
        to be built again (`rebuild`).
        """
        trees = [name for name in names if is_tree(name)]
        images = self.lineage(name for name in names if not is_tree(name))
        if not rebuild:
            results = self.wanted(name for name in names if not is_tree(name))
            images = [name for name, result in results.items() if result.status != "present"]
        if images and TOOLCHAIN not in trees and not self.unpacked(TOOLCHAIN):
            trees.insert(0, TOOLCHAIN)
        reports = [self._fetch_one(name) for name in [*trees, *images]]
        return FetchReport(
            sum(report.present for report in reports),
            sum(report.fetched for report in reports),
            sum(report.bytes for report in reports),
        )

    def _fetch_one(self, name: str) -> FetchReport:
        lock = self._lock_or_refresh(name)
        try:
            return self._fetch_lock(name, lock)
        except FetchError as error:
            if not (self.options.refresh_missing and error.missing) or error.unreachable:
                raise
            gone = ", ".join(path.rsplit("/", 1)[-1] for path in error.missing[:5])
            self._console.warn(
                f"{name}: no mirror has {len(error.missing)} of the locked inputs any more ({gone}); locking newer ones"
            )
        fresh = self._refresh(name)
        return self._fetch_lock(name, fresh)

    def _lock_or_refresh(self, name: str) -> Lock:
        try:
            lock = self.locks.get(name)
        except LockError:
            base = None if is_tree(name) else self.catalog.get(name).base
            if not (self.options.refresh_missing and base and self.locks.refreshed(base)):
                raise
            self._console.warn(f"{name}: its base {base} was resolved anew, so it is too")
            return self._refresh(name)
        if self.locks.refreshed(name):
            self._console.warn(f"{name}: using {self.locks.refreshed_path(name)} in place of the committed lock")
        return lock

    def _refresh(self, name: str) -> Lock:
        lock = self.resolve(name)
        path = self.locks.keep(lock)
        self._prepared.clear()
        self._console.warn(
            f"{name}: locked anew in {path}; the committed lock is unchanged (lock and commit to keep it)"
        )
        return lock

    def _fetch_lock(self, name: str, lock: Lock) -> FetchReport:
        blobs = self.store.blobs
        if self._lease is not None:  # before the look: what is there then, stays
            self._lease.add(entry.sha256 for entry in lock)
        if self.options.offline or all(blobs.has(entry.sha256, entry.size) for entry in lock):
            absent = tuple(entry for entry in lock if not blobs.has(entry.sha256, entry.size))
            if absent:
                paths = ", ".join(entry.path for entry in absent[:5])
                raise FetchError(
                    f"{name}: {len(absent)} locked inputs are not in the store: {paths}",
                    hint=f"without --offline: anklume-images fetch {name}",
                )
            return FetchReport(len(list(lock)), 0, 0)
        with self.leased() as lease:
            lease.add(entry.sha256 for entry in lock)
            return fetch(
                lock,
                blobs,
                self.sources([name]),
                progress=self._console,
                timestamps=snapshot_timestamps([lock]),
                connections=self._settings.connections,
            )

    # -- trees

    def tree(self, name: str) -> Tree:
        """An unpacked tree; its inputs are fetched where it is yet to be unpacked."""
        tree = stored_tree(self.locks.get(name), self.store.home)
        if self._lease is not None:
            self._lease.add([tree.folder.name])
        if tree.folder.is_dir():
            return tree
        with self.leased() as lease:
            self._fetch_one(name)
            lock = self.locks.get(name)
            lease.add([stored_tree(lock, self.store.home).folder.name])
            self._console.note(f"{name}: unpacking {len(lock.debs)} packages")
            return ensure_tree(lock, self.store.blobs, self.store.home)

    def unpacked(self, name: str) -> bool:
        """Say whether a tree is there, unpacked: then nobody needs its packages."""
        return stored_tree(self.locks.get(name), self.store.home).folder.is_dir()

    def toolchain(self) -> Tree:
        """The tree in which builds and locks run: this machine's, whatever architecture they are for."""
        if not self._foreign:
            return self.tree(TOOLCHAIN)
        options = replace(self.options, architecture=host_architecture())
        return Pipeline(self.store, self.catalog, self._settings, options, self._console).toolchain()

    # -- building

    def prepare(self, name: str) -> Prepared:
        """Decide everything about an image and its bases."""
        if name not in self._prepared:
            chain = self.catalog.chain(name)
            base = self.prepare(chain[-1].base) if chain[-1].base else None
            toolchain = tree_digest(self.locks.get(TOOLCHAIN))
            self._prepared[name] = prepare(chain, self.locks.get(name), base, toolchain, self.catalog.partials)
        return self._prepared[name]

    def present(self, name: str) -> Image | None:
        """The image that the spec and lock as they are make, if it is in the store."""
        prepared = self.prepare(name)
        return self.images.present(name, prepared.version, prepared.architecture)

    def build(self, names: Sequence[str]) -> list[Result]:
        """Build what is missing, bases first, several at once; a failed image stops only those made from it."""
        self.store.sweep()
        results = self.wanted(names)
        todo = [name for name, result in results.items() if result.status != "present"]
        others = (self._look(name) for name in self.lineage(names) if name not in results)
        # Bases that are there though nothing needs them: they become the latest with what is made from them.
        results |= {result.name: result for result in others if result.status == "present"}
        if any(results[name].status == "missing" for name in todo):
            from anklume_images.builder.sandbox import require_root

            require_root("building an image")
            self._require_machine()
            with self.leased():
                self._build_missing(todo, results)
                self._set_latest(results)
        else:
            self._set_latest(results)
        write_index(self.store)
        return [result for name, result in results.items() if name in names or result.status != "present"]

    def _require_machine(self) -> None:
        if self._foreign:
            raise HostError(
                f"this is {host_architecture()}: images for {self.options.architecture} are built on such a machine",
                hint="lock, fetch and render work here for every architecture",
            )

    def _set_latest(self, results: dict[str, Result]) -> None:
        for name, result in results.items():
            image = result.image
            if image and self.images.channels(name, image.architecture).get(LATEST) != image.version:
                self.images.set_channel(name, image.architecture, LATEST, image.version, command="build")

    def _look(self, name: str) -> Result:
        try:
            image = self.present(name)
        except LockError as error:
            # A lock that a refreshed base made stale is resolved anew when its turn comes.
            return Result(name, "missing" if self.options.refresh_missing else "failed", error=error)
        except AnklumeError as error:
            return Result(name, "failed", error=error)
        return Result(name, "present" if image else "missing", image=image)

    def _build_missing(self, todo: list[str], results: dict[str, Result]) -> None:
        tree = self.toolchain()
        for result in results.values():
            if result.image:
                self._keep(result.image)
        for name in todo:
            if results[name].status == "missing":
                results[name] = self._fetched(name)
        self._in_threads([name for name in todo if results[name].status == "missing"], results, tree)

    def _in_threads(self, todo: list[str], results: dict[str, Result], tree: Tree) -> None:
        from anklume_images.builder.sandbox import end_all

        memory = linux.available_memory() * 7 // 10 // max(1, min(self.options.jobs, len(todo)))
        done = {name: threading.Event() for name in todo}
        begun: list[str] = []
        gate = threading.Lock()

        def build(name: str) -> None:
            try:
                with gate:
                    if self._stopping.is_set():
                        return
                    begun.append(name)
                results[name] = self._build_one(name, results, done, tree, memory)
            finally:
                done[name].set()

        # `todo` has bases first, so a thread never waits for an image that no thread has begun.
        with ThreadPoolExecutor(max_workers=max(1, self.options.jobs)) as pool:
            try:
                for future in [pool.submit(build, name) for name in todo]:
                    future.result()
            except BaseException:  # an interrupt above all: the sandboxes end, then the threads that wait for them
                with gate:  # what has begun is known here: the interrupt may come before the pool knows its thread
                    self._stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for name in begun:
                    while not done[name].wait(0.1):
                        end_all()  # again and again: the thread may be about to begin one
                raise

    def _keep(self, image: Image) -> None:
        """Have gc leave an image alone while this step lasts."""
        with self.leased() as lease:
            lease.add(image.blobs())

    def _patience(self, name: str) -> Callable[[], None]:
        """What to do while another process builds the image: say so once, and end when this process is to end."""
        told = threading.Event()

        def wait() -> None:
            if not told.is_set():
                self._console.note(f"{name}: another process is building it, waiting")
                told.set()
            if self._stopping.wait(0.2):
                raise AnklumeError(f"{name}: interrupted")

        return wait

    def _fetched(self, name: str) -> Result:
        try:
            self._fetch_one(name)
        except AnklumeError as error:
            return Result(name, "failed", error=error)
        return Result(name, "missing")

    def _build_one(
        self, name: str, results: dict[str, Result], done: dict[str, threading.Event], tree: Tree, memory: int
    ) -> Result:
        base = self.catalog.get(name).base
        if base in done:
            done[base].wait()
        if base and results[base].status not in ("present", "built"):
            return Result(name, "failed", error=AnklumeError(f"{name}: its base {base} was not built"))
        begun = time.monotonic()
        try:
            prepared = self.prepare(name)
            self._console.note(f"{name}: building {prepared.version}")
            with self.leased() as lease:
                image = build_image(prepared, self.images, self.store, tree, memory, lease, self._patience(name))
        except AnklumeError as error:
            return Result(name, "failed", time.monotonic() - begun, error=error)
        seconds = time.monotonic() - begun
        self._console.note(f"{name}: built in {seconds:.1f} s")
        return Result(name, "built", seconds, image)
