"""The store: one folder that many processes share.

    schema                          the layout's number; a newer one is refused
    blobs/sha256/<aa>/<hex>         inputs and images' files, by content
    partial/                        downloads that can be resumed
    trees/<hash>/                   unpacked .debs (build/trees.py)
    images/<name>/<version>/<arch>/ manifest.json and other documents, and SHA256SUMS of them
    channels/<name>/<arch>/<channel>  one line: a version
    history/                        the log of channels' moves (channel_log.py)
    streams/v1/, index.html         the images as Incus and people find them (ship/index.py)
    cache/                          what was read of images before, to be quick
    SHA256SUMS                      the hashes of what has no other (noted.py)
    models/<name>.json              a model that was imported or pulled
    locks/<name>.json               a lock made because a mirror dropped what the committed one names
    logs/<name>/<time>.log          builds
    failed/<name>/                  the sandbox of the last failed build, for `enter`
    leases/<id>                     what running commands need: gc keeps it
    scratch/<id>/                   work of running commands, swept when its owner is gone

Locks: every command that adds or reads for long holds a lease (an flock'ed file); `gc.lock` is taken shared for the
short moment of registering or committing, and exclusively while gc marks and sweeps, or while an older store becomes
one of this schema. Whoever names things in a lease before looking whether they are there can count on them until the
lease ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.files import write_atomic
from anklume_images.store.blobs import Blobs
from anklume_images.store.migrate import SCHEMA, migrate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Lease", "Store", "tree_path", "unless_held"]

_OTHER = "name another with --store"


def tree_path(home: Path, digest: str) -> Path:
    """Where the tree of that digest is in a store, unpacked or yet to be; leases keep it by the folder's name."""
    return home / "trees" / digest[:32]


class Lease:
    """What a running command needs: blobs' and trees' names and kept sandboxes, one a line in its file."""

    def __init__(self, store: Store, stream: IO[str]) -> None:
        self._store = store
        self._stream = stream
        self._lock = threading.Lock()

    def add(self, names: Iterable[str]) -> None:
        """Name more things to keep; a gc that is under way ends first, and may still have removed them."""
        text = "".join(f"{name}\n" for name in names)
        with self._lock, self._store.guarded():
            self._stream.write(text)
            self._stream.flush()


class Store:
    """The store at `home`; nothing is made until something is written."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.blobs = Blobs(home)
        self.schema = self._schema()

    def _schema(self) -> int:
        """The layout's number; that of a new store where there is none yet."""
        try:
            data = (self.home / "schema").read_bytes()
            schema = int(data) if data.strip().isdigit() else 0
            if schema < 1 or data != f"{schema}\n".encode():
                raise ValueError(f"its schema is {data[:80].decode(errors='replace')!a}")  # noqa: TRY301  told as others
        except FileNotFoundError:
            return SCHEMA
        except (ValueError, OSError) as error:
            why = getattr(error, "strerror", None) or error
            raise StoreError(f"this is not a store: {why}", where=str(self.home), hint=_OTHER) from None
        if schema > SCHEMA:
            raise StoreError(
                f"the store is of schema {schema}, this program knows up to {SCHEMA}",
                where=str(self.home),
                hint=f"update anklume-images, or {_OTHER}",
            )
        return schema

    def create(self) -> None:
        """Make the store's folder, unless it is there; never in a folder that holds something else.

        A store of an older schema becomes one of this.
        """
        if (self.home / "schema").exists():
            if self.schema < SCHEMA:
                self._migrate()
            return
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            # A first command that was killed leaves a hidden file at most; an empty disk has lost+found.
            foreign = [path.name for path in self.home.iterdir() if path.name[0] != "." and path.name != "lost+found"]
            if foreign and not (self.home / "schema").exists():
                raise StoreError(
                    f"this is not a store: it holds {foreign[0]} and no schema",
                    where=str(self.home),
                    hint="name an empty folder, or one that is yet to be made, with --store",
                )
            write_atomic(self.home / "schema", f"{SCHEMA}\n".encode())
        except OSError as error:
            raise StoreError(f"the store cannot be made: {error.strerror}", where=str(self.home), hint=_OTHER) from None

    def _migrate(self) -> None:
        with (self.home / "gc.lock").open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            schema = self._schema()  # another process may have done it
            if schema < SCHEMA:
                migrate(self.home, schema)
            self.schema = SCHEMA

    @contextlib.contextmanager
    def guarded(self, *, exclusively: bool = False, as_it_is: bool = False) -> Iterator[None]:
        """Hold `gc.lock`: shared to add or register, exclusively to sweep.

        With `as_it_is` a store that is there stays of the schema that it has: for who looks, or removes leftovers.
        """
        if not as_it_is:
            self.create()
        with (self.home / "gc.lock").open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX if exclusively else fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def lease(self) -> Iterator[Lease]:
        """Register a running command; the kernel gives the lock back however it ends."""
        self.create()
        folder = self.home / "leases"
        folder.mkdir(exist_ok=True)
        with self.guarded():
            stream = tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8")  # noqa: SIM115  closed below
            fcntl.flock(stream, fcntl.LOCK_EX)
        with stream:
            try:
                yield Lease(self, stream)
            finally:
                Path(stream.name).unlink(missing_ok=True)

    def leased(self) -> set[str]:
        """Everything that living leases name; files of dead ones are removed. Call it with gc.lock held."""
        names: set[str] = set()
        for path in _entries(self.home / "leases"):
            with (
                contextlib.suppress(FileNotFoundError),
                path.open("r+", encoding="utf-8") as stream,
            ):  # it may end meanwhile
                if _try_lock(stream):
                    path.unlink(missing_ok=True)
                else:
                    names.update(stream.read().splitlines())
        return names

    @contextlib.contextmanager
    def scratch(self, prefix: str) -> Iterator[Path]:
        """A folder of one's own on the store's file system, gone at the end or, after a kill, at the next sweep."""
        self.create()
        folder = self.home / "scratch"
        folder.mkdir(exist_ok=True)
        with self.guarded():
            place = Path(tempfile.mkdtemp(dir=folder, prefix=f"{prefix}-"))
            stream = (place / ".owner").open("w", encoding="utf-8")
            fcntl.flock(stream, fcntl.LOCK_EX)
        with stream:
            try:
                yield place
            finally:
                shutil.rmtree(place, ignore_errors=True)

    def sweep(self) -> int:
        """Remove the scratch and the leases of processes that are gone; returns how many scratch folders."""
        count = 0
        left = [*_entries(self.home / "scratch"), *_entries(self.home / "leases")]
        if not left or not os.access(self.home, os.W_OK):
            return 0
        with self.guarded(exclusively=True, as_it_is=True):
            self.leased()
            for place in _entries(self.home / "scratch"):
                try:
                    with (place / ".owner").open("r+", encoding="utf-8") as stream:
                        dead = _try_lock(stream)
                except FileNotFoundError:
                    dead = True
                if dead:
                    shutil.rmtree(place, ignore_errors=True)
                    count += 1
        return count


@contextlib.contextmanager
def unless_held(path: Path) -> Iterator[bool]:
    """Hold the lock on a file, and yield True, unless another process holds it or the file is gone."""
    try:
        stream = path.open("r+", encoding="utf-8")
    except FileNotFoundError:
        yield False
        return
    with stream:
        yield _try_lock(stream)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _try_lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
