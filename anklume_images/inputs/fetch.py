"""Brings locked files into the blobs: the only step that touches a network, done before and apart from any build.

Each file goes through its addresses in turn. Hash and size are checked while it streams; a file that broke off is
resumed, in this run or a later one. What could not be had is told per address at the end, all of it at once.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import queue
import shutil
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from anklume_images.inputs.answers import Attempt, Refusal, StoppedError
from anklume_images.inputs.download import Download
from anklume_images.inputs.fetch_error import fetch_error
from anklume_images.inputs.partial import Partial, disk_error, open_partial
from anklume_images.inputs.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from anklume_images.inputs.fetch_error import Addresses
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.blobs import Blobs

__all__ = ["FetchReport", "Progress", "fetch"]

_PATIENCE = 2.0  # seconds that threads get to end when the fetch is called off


class Progress(Protocol):
    """Who is told how it goes; called from many threads, one at a time."""

    def start(self, total_bytes: int, count: int) -> None:
        """So many files are to come."""

    def advance(self, n: int) -> None:
        """So many bytes are there; a negative number takes back bytes that proved wrong."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""

    def finish(self) -> None:
        """It is over, well or not."""


@dataclass(frozen=True)
class FetchReport:
    """Blobs that were there or that another process brought, blobs that this one brought, and bytes received."""

    present: int
    fetched: int
    bytes: int


def fetch(
    files: Iterable[LockedFile],
    blobs: Blobs,
    sources: Addresses,
    *,
    progress: Progress | None = None,
    timestamps: Mapping[str, str] | None = None,
    connections: int = 8,
    attempts: int = 4,
    timeout: tuple[float, float] = (10, 30),
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] | None = None,
) -> FetchReport:
    """Have every file in `blobs`, each once, over at most `connections` at a time.

    `timestamps` say by sha256 when the permanent archive had a file; `timeout` is for connecting and for silence, in
    seconds; `attempts` counts failures in a row at one address. FetchError, when all others are done, names the files
    that could not be had; StoreError ends it at once when the store cannot be written.
    """
    by_sha256 = {file.sha256: file for file in files}
    try:
        absent = [file for file in by_sha256.values() if not blobs.has(file.sha256, file.size)]
    except OSError as error:
        raise disk_error(error, blobs.partial, 0) from error
    # The largest first, so that none of them runs alone at the end; one of unknown size is a whole release.
    absent.sort(key=lambda file: -file.size if file.size is not None else -math.inf)
    transport = Transport(timeout=timeout, attempts=attempts, clock=clock, sleep=sleep)
    run = _Run(absent, blobs, sources, transport, dict(timestamps or {}), progress)
    present = len(by_sha256) - len(absent)
    if absent:
        run.carry_out(min(connections, len(absent)))
    return FetchReport(present + run.present, run.fetched, run.received)


@dataclass
class _Run:
    """One call of fetch, shared by its threads."""

    absent: list[LockedFile]
    blobs: Blobs
    sources: Addresses
    transport: Transport
    timestamps: dict[str, str]
    progress: Progress | None
    present: int = 0
    fetched: int = 0
    received: int = 0
    _failed: dict[str, list[Attempt]] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)
    _sizes: dict[str, int] = field(default_factory=dict)
    _fatal: BaseException | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(self, connections: int) -> None:
        todo: queue.SimpleQueue[LockedFile] = queue.SimpleQueue()
        for file in self.absent:
            todo.put(file)
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Not a ThreadPoolExecutor: at the end of the program that waits for threads which wait for a silent host.
        threads = [
            threading.Thread(target=self._work, args=(todo, ended), name=f"fetch-{number}", daemon=True)
            for number in range(connections)
        ]
        self._check_space()
        if self.progress:
            self.progress.start(sum(file.size or 0 for file in self.absent), len(self.absent))
        try:
            for thread in threads:
                thread.start()
            for _ in threads:
                ended.get()
        finally:
            # On Ctrl-C too: threads let go of their files before the caller goes on.
            self.transport.stop()
            until = time.monotonic() + _PATIENCE
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, until - time.monotonic()))
            if self.progress:
                self.progress.finish()
        if self._fatal:
            raise self._fatal
        if self._failed:
            raise fetch_error([file for file in self.absent if file.sha256 in self._failed], self._failed, self.sources)

    def _work(self, todo: queue.SimpleQueue[LockedFile], ended: queue.SimpleQueue[None]) -> None:
        try:
            while True:
                self.transport.check()
                self._have(todo.get_nowait())
        except (queue.Empty, StoppedError):
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that called fetch
            with self._lock:
                self._fatal = self._fatal or error
            self.transport.stop()
        finally:
            self.transport.close()
            ended.put(None)

    def _have(self, file: LockedFile) -> None:
        """One file: found, fetched, or noted as failed."""
        with contextlib.ExitStack() as stack:
            with self._store_errors():
                part = stack.enter_context(self._open(file))
                if self.blobs.has(file.sha256, file.size):
                    self._advance(file.size or 0)
                    self._count(file, present=1)
                    return
                part.read_back(self.transport.check)
                whole = part.hexdigest() == file.sha256
                if part.length == file.size and not whole:
                    part.reset()
            if not whole and not self._ask(file, part):
                return
            with self._store_errors():
                self.blobs.adopt(part.path, file.sha256)
            self._count(file, fetched=1)

    def _open(self, file: LockedFile) -> contextlib.AbstractContextManager[Partial]:
        return open_partial(
            self.blobs,
            file.sha256,
            file.size,
            advance=self._advance,
            wait=self._wait,
            waiting=lambda: self._note(f"{file.path}: another process is fetching it, waiting"),
        )

    def _ask(self, file: LockedFile, part: Partial) -> bool:
        """Try each address until one gives the file; False when none does, with what each said kept."""
        failures: list[Attempt] = []
        stamp = self.timestamps.get(file.sha256)
        for url in self.sources.urls(file, stamp, transport=self.transport, failures=failures):
            try:
                Download(self, url, file, part).carry_out()
            except Refusal as refusal:
                failures.append(refusal.of(url))
                self._note(str(failures[-1]))
            else:
                return True
        with self._lock:
            self._failed[file.sha256] = failures
        return False

    def receive(self, part: Partial, piece: bytes) -> None:
        """Write bytes that arrived."""
        self.transport.check()
        with self._store_errors():
            part.append(piece)
        with self._lock:
            self.received += len(piece)

    @contextlib.contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.blobs.partial, self._needed()) from error

    def _check_space(self) -> None:
        """Find out before the first byte, not after gigabytes, that there is no room."""
        with self._store_errors():
            self.blobs.partial.mkdir(parents=True, exist_ok=True)
            if self._needed() > shutil.disk_usage(self.blobs.partial).free:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def learned(self, file: LockedFile, size: int) -> None:
        """An address said how large a file is of which the lock does not say it."""
        self._sizes[file.sha256] = size
        self._note(f"{file.path}: {size / (1 << 20):.1f} MiB")
        self._check_space()

    def _needed(self) -> int:
        """Bytes still to come, as far as is known."""
        needed = 0
        for file in self.absent:
            if file.sha256 not in self._done:
                left = self._sizes.get(file.sha256, file.size or 0)
                with contextlib.suppress(OSError):
                    left -= os.stat(self.blobs.partial / f"{file.sha256}.part").st_size
                needed += max(left, 0)
        return needed

    def _count(self, file: LockedFile, *, present: int = 0, fetched: int = 0) -> None:
        with self._lock:
            self.present += present
            self.fetched += fetched
            self._done.add(file.sha256)

    def _advance(self, step: int) -> None:
        if self.progress and step:
            with self._lock:
                self.progress.advance(step)

    def _note(self, text: str) -> None:
        if self.progress:
            with self._lock:
                self.progress.note(text)

    def _wait(self, seconds: float) -> None:
        self.transport.check()
        time.sleep(seconds)
