"""A bundle as far as its signatures hold: its small files are read, and what it may bring is known before the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from anklume_images.bundle.index import BundleError
from anklume_images.bundle.infra import infra_path
from anklume_images.bundle.tool import parse_tool
from anklume_images.errors import FetchError
from anklume_images.ship.by_delta import SignedDelta, delta_path, parse_delta
from anklume_images.store.infra_locks import images_of_lock
from anklume_images.trust.place import LargerError, Place
from anklume_images.trust.revoked import known_revocations, refuse_revoked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.bundle.index import Contents, Member
    from anklume_images.bundle.reader import BundleReader
    from anklume_images.bundle.tool import Tool
    from anklume_images.store.blobs import Blobs
    from anklume_images.store.images import Image
    from anklume_images.store.models import ModelRecord
    from anklume_images.trust.origin import Origin
    from anklume_images.trust.revoked import Revocable

__all__ = ["BundlePlace", "Checked", "Opened", "check"]


class BundlePlace(Place):
    """The small files of a bundle, in a folder, as a place to check signatures at; called as the bundle is."""

    def __init__(self, folder: Path, url: str, name: str) -> None:
        super().__init__(url)
        self._folder = folder
        self._name = name

    def __str__(self) -> str:
        return self._name

    def read(self, path: str, limit: int) -> bytes | None:
        """One of them, of `limit` bytes at most; None where there is none."""
        try:
            with (self._folder / path).open("rb") as stream:
                data = stream.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FetchError(f"{error.strerror or error}", where=f"{self}/{path}") from None
        if len(data) > limit:
            raise LargerError(f"larger than {limit} bytes", where=f"{self}/{path}")
        return data


class Opened:
    """A bundle whose small files lie in `folder`; `rest` are the others, which are yet to be read."""

    def __init__(self, reader: BundleReader, folder: Path) -> None:
        self.reader = reader
        self.folder = folder
        self.place = BundlePlace(folder, reader.source.url, reader.source.name)
        self._members = iter(reader)
        self._next: Member | None = None
        for member in self._members:
            if member.kind not in ("metadata", "document"):
                self._next = member
                break
            path = folder / member.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(reader.data(member))

    @property
    def contents(self) -> Contents:
        """What it says of itself."""
        return self.reader.contents

    def rest(self) -> Iterator[Member]:
        """The other files, to be read one after the other."""
        if self._next is not None:
            yield self._next
            yield from self._members


@dataclass(frozen=True)
class Checked:
    """What a bundle brings, by signed documents; `blobs` are sizes by sha256, `absent` those that it leaves out.

    `deltas` are by the files that they make.
    """

    origin: Origin
    images: tuple[tuple[Image, dict[str, bytes]], ...] = ()
    attestations: tuple[tuple[Image, bytes], ...] = ()
    models: tuple[ModelRecord, ...] = ()
    infra: tuple[tuple[str, bytes], ...] = ()
    tool: Tool | None = None
    blobs: dict[str, int] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    deltas: dict[str, SignedDelta] = field(default_factory=dict)

    def lacking(self, blobs: Blobs) -> list[str]:
        """What is left out, is not among the blobs, and cannot be made of what is."""
        return [
            sha256
            for sha256, size in self.absent.items()
            if not blobs.has(sha256, size) and not (sha256 in self.deltas and blobs.has(self.deltas[sha256].earlier))
        ]


def check(opened: Opened, origin: Origin, home: Path) -> Checked:
    """Hold the index against what was signed; `home` is the store that knows of further revocations.

    UntrustedError for a document that was not signed, BundleError for files that no document names, RevokedError.
    """
    contents, where = opened.contents, str(origin.place)
    if contents.store != origin.identity:
        raise BundleError(f"it says that it comes from {contents.store}, and does not", where=where)
    images = [origin.image(one.name, one.version, one.architecture) for one in contents.images]
    models = tuple(origin.model(name) for name in contents.models)
    revoked = (*origin.revocations, *known_revocations(home))
    called: list[tuple[Revocable, str]] = [(image, image.ref) for image in images]
    called += [(model, model.name) for model in models]
    for what, ref in called:
        refuse_revoked(what, ref, revoked, where=where, hint="have a bundle made with another version of it")
    infra = tuple((name, _infra(origin, name)) for name in contents.infra)
    tool = None
    if contents.tool is not None:
        path = f"tool/{quote(contents.tool, safe='')}.json"
        tool = parse_tool(origin.document(path), path, where)
    blobs: dict[str, int] = {}
    for image in images:
        blobs |= image.blobs()
    for model in models:
        blobs |= model.blobs()
    blobs |= tool.blobs if tool else {}
    deltas = {later: parse_delta(origin.document(delta_path(later)), later, where) for later in contents.deltas}
    if strange := [later for later in deltas if later not in blobs]:
        raise BundleError(f"a delta to {strange[0]}, which no document names", where=where, hint="do not use it")
    blobs |= {delta.sha256: delta.size for delta in deltas.values()}
    wheels = {f"tool/wheels/{name}": sha256 for name, sha256 in (tool.wheels if tool else {}).items()}
    here = set()
    for member in contents.members:
        named = {"blob": blobs.get(member.sha256) == member.size, "wheel": wheels.get(member.path) == member.sha256}
        if not named.get(member.kind or "", True):
            raise BundleError(f"{member.path}: no signed document names it", where=where, hint="do not use it")
        here.add(member.sha256)
    absent = {sha256: size for sha256, size in blobs.items() if sha256 not in here}
    documents = tuple((image, origin.documents(image)) for image in images)
    attestations = tuple((image, data) for image in images for data in origin.attestations(image))
    return Checked(origin, documents, attestations, models, infra, tool, blobs, absent, deltas)


def _infra(origin: Origin, name: str) -> bytes:
    path = infra_path(name)
    data = origin.document(path)
    images_of_lock(data, f"{origin.place}/{path}")  # which gc reads from now on
    return data
