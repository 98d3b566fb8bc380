"""From a locked file to the addresses it may be had from: the host's apt and pip, the settings, the specs' upstreams.

A lock names archives and paths. Which hosts carry an archive is known here only, at run time, and every address is as
good as any other: the hash decides.
"""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from anklume_images.inputs.access import Access, environment_access
from anklume_images.inputs.answers import Attempt, Refusal, Why
from anklume_images.inputs.apt_config import AptConfig, apt_access
from anklume_images.inputs.apt_sources import DEBIAN, SECURITY, debian_mirrors, host_apt_sources
from anklume_images.inputs.lockfile import Wheel
from anklume_images.inputs.mirror_lists import MirrorLists
from anklume_images.inputs.python_index import (
    ACCEPT,
    PAGE_LIMIT,
    Link,
    PythonPlaces,
    host_python_places,
    index_access,
    links_of_folder,
    links_of_page,
    local_path,
)
from anklume_images.inputs.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from anklume_images.inputs.apt_sources import LeftOut
    from anklume_images.inputs.lockfile import Lock, LockedFile
    from anklume_images.settings import Settings

__all__ = ["PYPI", "Sources", "snapshot_timestamps"]

PYPI = "pypi"
_APT, _OTHERS = "apt", "others"
_APT_ARCHIVES = {DEBIAN, SECURITY}
_LISTED = 10  # sources that an error names
# A snapshot is taken about four times a day, and a superseded file stays in its archive for longer than half a day:
# the last snapshot before this moment was made after the index, and still has all that the index names.
_SNAPSHOT_DELAY = timedelta(hours=12)


def snapshot_timestamps(locks: Iterable[Lock]) -> dict[str, str]:
    """For each .deb, by sha256, the moment at which a permanent archive had it: `YYYYMMDDTHHMMSSZ`."""
    timestamps: dict[str, str] = {}
    for lock in locks:
        newest: dict[str, str] = {}
        for index in lock.indexes:
            moment = datetime.fromisoformat(index.date).astimezone(UTC) + _SNAPSHOT_DELAY
            stamp = moment.strftime("%Y%m%dT%H%M%SZ")
            newest[index.archive] = max(newest.get(index.archive, ""), stamp)
        timestamps.update({deb.sha256: newest[deb.archive] for deb in lock.debs if deb.archive in newest})
    return timestamps


class Sources:
    """The addresses of archives by name, and of wheels by way of the Python indexes; safe to share among threads."""

    def __init__(
        self,
        archives: Mapping[str, tuple[str, ...]],
        *,
        snapshot: str | None = None,
        python: PythonPlaces | Callable[[], PythonPlaces] | None = None,
        settings_path: Path = Path("/etc/anklume/images.yml"),
        left_out: Iterable[LeftOut] = (),
        apt: Callable[[], Access] = environment_access,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._archives = {
            name: tuple(dict.fromkeys(base.rstrip("/") for base in bases)) for name, bases in archives.items()
        }
        self._snapshot = snapshot.rstrip("/") if snapshot else None
        self._python = PythonPlaces() if python is None else python
        self._lock = threading.Lock()
        self._page_locks: dict[str, threading.Lock] = {}
        self._pages: dict[str, dict[str, Link] | Attempt] = {}
        self._lists = MirrorLists()
        self.left_out = tuple(left_out)
        self._find_access: dict[str, Callable[[], Access]] = {
            _APT: apt,
            PYPI: lambda: index_access(self.python(), environ),
            _OTHERS: lambda: environment_access(environ),
        }
        self._access: dict[str, Access] = {}
        self.settings_path = settings_path

    @classmethod
    def of_host(
        cls,
        settings: Settings,
        declared: Mapping[str, str] | None = None,
        *,
        root: Path = Path("/"),
        environ: Mapping[str, str] = os.environ,
    ) -> Sources:
        """The host's own configuration, then the settings, then what the specs declare (archive -> base URL).

        Sources of apt's that may be mirrors of Debian or not come after these. The Python indexes are looked up when
        the first wheel is asked for.
        """
        archives: dict[str, tuple[str, ...]] = {}
        apt_sources, left_out = host_apt_sources(root)
        debian = debian_mirrors(apt_sources)
        for layer in (
            debian.first,
            settings.mirrors,
            {name: (base,) for name, base in (declared or {}).items()},
            debian.last,
        ):
            for name, bases in layer.items():
                archives[name] = (*archives.get(name, ()), *bases)
        return cls(
            archives,
            snapshot=settings.snapshot,
            python=lambda: host_python_places(environ, root, settings.python_indexes),
            settings_path=settings.path,
            left_out=(*left_out, *debian.left_out),
            apt=lambda: apt_access(AptConfig.of_host(environ, root)),
            environ=environ,
        )

    def bases(
        self, archive: str, *, transport: Transport | None = None, failures: list[Attempt] | None = None
    ) -> tuple[str, ...]:
        """The base URLs of an archive in the order in which they are asked; for `pypi` its indexes.

        Lists of mirrors are read over `transport`; one that cannot be read is added to `failures`.
        """
        known = self._archives.get(archive, ())
        failed = [] if failures is None else failures
        reached = self.access(archive)
        configured = tuple(dict.fromkeys(self._lists.expand(known, transport or Transport(), reached, failed)))
        return tuple(dict.fromkeys((*configured, *self.python().indexes))) if archive == PYPI else configured

    def access(self, archive: str) -> Access:
        """How the servers of an archive are reached: as apt does, as pip does, or by the environment alone."""
        kind = _APT if archive in _APT_ARCHIVES else archive if archive == PYPI else _OTHERS
        if kind not in self._access:
            self._access.setdefault(kind, self._find_access[kind]())
        return self._access[kind]

    def access_of(self, file: LockedFile) -> Access:
        """How the servers of a file are reached; a wheel comes by way of an index, whatever its archive."""
        return self.access(PYPI if isinstance(file, Wheel) else file.archive)

    def python(self) -> PythonPlaces:
        """The Python indexes and folders of wheels."""
        with self._lock:
            if not isinstance(self._python, PythonPlaces):
                self._python = self._python()
            return self._python

    def urls(
        self,
        file: LockedFile,
        timestamp: str | None = None,
        *,
        transport: Transport | None = None,
        failures: list[Attempt] | None = None,
    ) -> Iterator[str]:
        """Every address of the file, the nearest first; the permanent archive last, when a timestamp is given.

        A wheel's address comes from its index's page, asked for over `transport`; an index that did not help is
        added to `failures`.
        """
        if isinstance(file, Wheel):
            yield from self._wheel_urls(file, transport or Transport(), failures if failures is not None else [])
            return
        path = quote(file.path, safe="/~")
        for base in self.bases(file.archive, transport=transport, failures=failures):
            yield f"{base}/{path}"
        if self._snapshot and timestamp:
            yield f"{self._snapshot}/{file.archive}/{timestamp}/{path}"

    def passed_over(self, archive: str) -> list[str]:
        """Lines that name the sources of apt's that are not asked, with the reason; none for an archive not apt's."""
        if archive not in _APT_ARCHIVES or not self.left_out:
            return []
        lines = [f"  {entry}" for entry in self.left_out[:_LISTED]]
        more = len(self.left_out) - _LISTED
        return ["of apt's sources, these are not asked:", *lines, *([f"  and {more} more"] if more > 0 else [])]

    def hint(self, archive: str) -> str:
        """What to write where so that the archive is found."""
        entry = "python_indexes: [URL]" if archive == PYPI else f"mirrors: {{{archive}: [URL]}}"
        return f"name a mirror in {self.settings_path}: {entry}"

    def _wheel_urls(self, wheel: Wheel, transport: Transport, failures: list[Attempt]) -> Iterator[str]:
        from packaging.utils import canonicalize_name

        project = canonicalize_name(wheel.package)
        indexes = dict.fromkeys((*self._archives.get(wheel.archive, ()), *self.python().indexes))
        pages = [*self.python().find_links, *(f"{index.rstrip('/')}/{project}/" for index in indexes)]
        # What lies on this host first: it costs nothing, and the hash decides.
        for page in sorted(pages, key=lambda page: local_path(page) is None):
            links = self._page(page, transport)
            if isinstance(links, Attempt):
                failures.append(links)
            elif link := links.get(wheel.path):
                if link.sha256 in {None, wheel.sha256}:
                    yield link.url
                else:
                    failures.append(
                        Attempt(page, f"offers {wheel.path} with another sha256", gone=True, why=Why.CHANGED)
                    )
            elif local_path(page) is None:
                failures.append(Attempt(page, f"does not list {wheel.path}", gone=True))

    def _page(self, page: str, transport: Transport) -> dict[str, Link] | Attempt:
        with self._lock:
            asking = self._page_locks.setdefault(page, threading.Lock())
        with asking:
            if page not in self._pages:
                self._pages[page] = _read_page(page, transport, self.access(PYPI))
            return self._pages[page]


def _read_page(page: str, transport: Transport, access: Access) -> dict[str, Link] | Attempt:
    path = local_path(page)
    if path is not None:
        listing = path / "index.html" if path.is_dir() else path
        if not listing.is_file():
            return links_of_folder(path)
        return links_of_page(listing.read_bytes(), "text/html", listing.absolute().as_uri())

    try:
        headers = {"Accept": ACCEPT, "Accept-Encoding": "gzip"}
        return links_of_page(*transport.read(page, PAGE_LIMIT, headers, access=access))
    except Refusal as refusal:
        return refusal.of(page)
    except ValueError:
        return Attempt(page, "not a page of a Python index")
