"""Files to fetch, and a fetch whose clock does not wait."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from typing import TYPE_CHECKING

from anklume_images.inputs.fetch import FetchReport, fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.mirrors import Sources

if TYPE_CHECKING:
    from anklume_images.store.blobs import Blobs
    from tests.support.faulty_mirror import FaultyMirror

DATA = random.Random(7).randbytes(3_000_000)  # noqa: S311 - the same bytes each time, no secret
SMALL = b"a small file of a mirror"


class Clock:
    """A stand-in for time: sleeping only moves its hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Log:
    """Records what a fetch told; calls `on_advance` with the bytes that are there."""

    def __init__(self, on_advance=None) -> None:
        self.total = self.count = self.done = 0
        self.notes: list[str] = []
        self.finished = 0
        self.noted = threading.Event()
        self._on_advance = on_advance

    def start(self, total_bytes: int, count: int) -> None:
        self.total, self.count = total_bytes, count

    def advance(self, n: int) -> None:
        self.done += n
        if self._on_advance:
            self._on_advance(self.done)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.noted.set()

    def finish(self) -> None:
        self.finished += 1


def locked(path: str, data: bytes, archive: str = "debian") -> LockedFile:
    return LockedFile(archive, path, hashlib.sha256(data).hexdigest(), len(data))


FILE = locked("pool/a.deb", DATA)
PATH = "/pool/a.deb"
TINY = locked("tiny.deb", SMALL)


def sources(*mirrors: FaultyMirror | str) -> Sources:
    return Sources({"debian": tuple(m if isinstance(m, str) else m.url for m in mirrors)})


def get(
    file: LockedFile, blobs: Blobs, *mirrors: FaultyMirror | str, clock: Clock | None = None, **more
) -> FetchReport:
    clock = clock or Clock()
    more = {"timeout": (5, 5), "clock": clock, "sleep": clock.sleep, **more}
    return fetch([file], blobs, sources(*mirrors), **more)


def closed_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def leftovers(blobs: Blobs) -> list[str]:
    return sorted(path.name for path in blobs.partial.iterdir()) if blobs.partial.is_dir() else []


def leave(blobs: Blobs, content: bytes) -> None:
    """The beginning of FILE, as an earlier run leaves it."""
    blobs.partial.mkdir(parents=True)
    (blobs.partial / f"{FILE.sha256}.part").write_bytes(content)
