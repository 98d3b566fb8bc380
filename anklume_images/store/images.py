"""Images in the store: manifests, channels, references.

An image is a folder with its manifest, recipe, lock, SBOM and provenance; its two big files are blobs. It appears by
rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from anklume_images.architectures import host_architecture
from anklume_images.canonical import parsed, what_is_wrong
from anklume_images.errors import StoreError
from anklume_images.files import CHUNK, fsync_directory, write_atomic
from anklume_images.store.channel_log import ChannelLog, Place
from anklume_images.store.sums import write_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator
    from pathlib import Path

    from anklume_images.store.channel_log import Move
    from anklume_images.store.store import Store

__all__ = [
    "BRING",
    "CHANNEL",
    "LATEST",
    "SPEC_KEYS",
    "Image",
    "Images",
    "Package",
    "StoredFile",
    "Summary",
    "fingerprint",
    "image_path",
    "is_document",
    "parse_manifest",
    "parse_packages",
    "parse_summary",
]

LATEST = "latest"
BRING = "or bring it: anklume-images pull, bundle import"  # beside how to build what a store lacks
CHANNEL = re.compile(r"[a-z][a-z0-9-]*")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_Parsed = TypeVar("_Parsed")
_DOCUMENT = re.compile(
    r"images/[a-z0-9][a-z0-9-]*/[A-Za-z0-9][A-Za-z0-9._-]*/[a-z0-9]+/[a-z][a-z0-9.-]*\.json", re.ASCII
)


@dataclass(frozen=True)
class StoredFile:
    """A blob that belongs to an image; `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Package:
    """Something in an image: `kind` is deb, wheel or file; or host, which is not in it, but on its host."""

    kind: str
    name: str
    version: str


@dataclass(frozen=True)
class Summary:
    """An image without its packages and its spec; `stored` is when it came into this store, in ns since 1970."""

    name: str
    version: str
    architecture: str
    recipe: str
    fingerprint: str
    metadata: StoredFile
    rootfs: StoredFile
    unpacked: int
    epoch: int
    description: str
    base: dict[str, str] | None
    stored: int

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others of a store."""
        return self.name, self.version, self.architecture


_SUMMARY_FIELDS = tuple(one.name for one in fields(Summary) if one.name != "stored")


SPEC_KEYS = (
    *("distribution", "release", "variant", "provides", "gpus"),
    *("tags", "variables", "volumes", "healthcheck", "ports"),
)
"""What a manifest has of an image's spec: what counts in instances."""


@dataclass(frozen=True)
class Image:
    """One image: a recipe, built. `fingerprint` is Incus': sha256 of metadata and root file system, in this order.

    `epoch` is in seconds since 1970, `unpacked` in bytes, `base` a version of the base image, `toolchain` a tree's
    digest; `properties` become the image's properties in Incus.
    """

    name: str
    version: str
    architecture: str
    recipe: str
    fingerprint: str
    metadata: StoredFile
    rootfs: StoredFile
    unpacked: int
    epoch: int
    description: str
    toolchain: str
    base: dict[str, str] | None = None
    packages: tuple[Package, ...] = ()
    properties: dict[str, str] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    schema: int = 1

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all others of a store."""
        return self.name, self.version, self.architecture

    def blobs(self) -> dict[str, int]:
        """All that it is made of: sizes by sha256."""
        return {file.sha256: file.size for file in (self.metadata, self.rootfs)}


def fingerprint(metadata: Path, rootfs: Path) -> str:
    """Incus' fingerprint of a split image: the sha256 of both files, one after the other, read in chunks."""
    digest = hashlib.sha256()
    for path in (metadata, rootfs):
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def parse_manifest(data: bytes, where: str) -> Image:
    """The image that a manifest describes; StoreError when it is none."""
    with _reading(where):
        document = _document(data)
        document["packages"] = tuple(Package(**entry) for entry in document["packages"])
        return Image(**document)


def parse_summary(data: bytes, where: str, stored: int) -> Summary:
    """The same in less time, without packages and spec; `stored` is the time of its manifest."""
    with _reading(where):
        document = _document(data)
        return Summary(stored=stored, **{name: document[name] for name in _SUMMARY_FIELDS})


def parse_packages(data: bytes, where: str) -> dict[tuple[str, str], str]:
    """Of the packages only the versions, by name and kind."""
    with _reading(where):
        return {(entry["name"], entry["kind"]): entry["version"] for entry in parsed(data)["packages"]}


def _document(data: bytes) -> dict[str, Any]:
    document: dict[str, Any] = parsed(data)
    return document | {part: StoredFile(**document[part]) for part in ("metadata", "rootfs")}


@contextlib.contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"not the manifest of an image: {what_is_wrong(error)}", where=where) from None


def image_path(name: str, version: str, architecture: str) -> str:
    """Where the documents of an image are below the store's folder."""
    return f"images/{name}/{version}/{architecture}"


def is_document(place: str) -> bool:
    """Whether a path below the store's folder is that of a document of an image."""
    return _DOCUMENT.fullmatch(place) is not None


class Images:
    """The images and channels of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._images = store.home / "images"
        self._channels = store.home / "channels"
        self.log = ChannelLog(store.home)

    @property
    def home(self) -> Path:
        """The store's folder."""
        return self._store.home

    def folder(self, name: str, version: str, architecture: str) -> Path:
        """Where an image's documents are or would be."""
        return self._store.home / image_path(name, version, architecture)

    def get(self, name: str, version: str, architecture: str) -> Image | None:
        """The image of that version, or None."""
        return self._read(name, version, architecture, parse_manifest)

    def summary(self, name: str, version: str, architecture: str, stored: int) -> Summary | None:
        """The same without packages and spec, or None; `stored` is the time of its manifest."""
        return self._read(name, version, architecture, partial(parse_summary, stored=stored))

    def packages(self, name: str, version: str, architecture: str) -> dict[tuple[str, str], str] | None:
        """The versions of its packages, by name and kind, or None."""
        return self._read(name, version, architecture, parse_packages)

    def _read(
        self, name: str, version: str, architecture: str, parse: Callable[[bytes, str], _Parsed]
    ) -> _Parsed | None:
        manifest = self.folder(name, version, architecture) / "manifest.json"
        try:
            return parse(manifest.read_bytes(), str(manifest))
        except FileNotFoundError:
            return None
        except StoreError as error:
            error.hint = f"remove {manifest.parent} and build {name} again, or update anklume-images"
            raise

    def present(self, name: str, version: str, architecture: str) -> Image | None:
        """The image of that version if its two files are there too, by their sizes."""
        image, blobs = self.get(name, version, architecture), self._store.blobs
        files = (image.metadata, image.rootfs) if image else ()
        return image if image and all(blobs.has(file.sha256, file.size) for file in files) else None

    def has_document(self, image: Image, name: str) -> bool:
        """Say whether the image has that document; one built by an earlier program may lack some."""
        return self._document_path(image, name).exists()

    def _document_path(self, image: Image, name: str) -> Path:
        return self.folder(image.name, image.version, image.architecture) / f"{name}.json"

    def document(self, image: Image, name: str) -> Any:
        """One of the image's documents: recipe, lock, sbom.cdx or provenance.slsa."""
        path = self._document_path(image, name)
        try:
            return parsed(path.read_bytes())
        except FileNotFoundError:
            raise StoreError(f"the image {image.ref} has no {name}", where=str(path)) from None
        except ValueError as error:
            raise StoreError(f"not a document: {error}", where=str(path), hint="verify the store") from None

    def documents(self, image: Image) -> dict[str, bytes]:
        """All documents of an image but its manifest, by their files' names, as `add` takes them."""
        folder = self.folder(image.name, image.version, image.architecture)
        return {path.name: path.read_bytes() for path in sorted(folder.glob("*.json")) if path.stem != "manifest"}

    def __iter__(self) -> Iterator[Image]:
        for key in self.listed():
            image = self.get(*key)
            if image is not None:
                yield image

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """Name, version and architecture of each image; none of their manifests is read."""
        for manifest in sorted(self._images.glob("*/*/*/manifest.json")):
            architecture, version, name = manifest.parts[-2], manifest.parts[-3], manifest.parts[-4]
            yield name, version, architecture

    def readable(self) -> Iterator[Image]:
        """The images whose manifests can be read."""
        for key in self.listed():
            with contextlib.suppress(StoreError):
                if image := self.get(*key):
                    yield image

    def newest(self, without: Container[str]) -> Iterator[Image]:
        """One image of each name but these, for this machine: the latest, or the last by its version."""
        architecture = host_architecture()
        for folder in sorted(self._images.glob("*")):
            versions = sorted(path.parent.name for path in folder.glob(f"*/{architecture}/manifest.json"))
            if folder.name in without or not versions:
                continue
            version = self.channels(folder.name, architecture).get(LATEST, versions[-1])
            if image := self.get(folder.name, version, architecture):
                yield image

    def add(self, image: Image, documents: dict[str, bytes]) -> None:
        """Make an image appear whose blobs are there; the same version with the same files is left as it is."""
        target = self.folder(image.name, image.version, image.architecture)
        with self._store.scratch("image") as scratch:
            new = scratch / "new"
            new.mkdir()
            manifest = json.dumps(asdict(image), sort_keys=True, indent=1).encode() + b"\n"
            for name, data in {**documents, "manifest.json": manifest}.items():
                write_atomic(new / name, data)
            write_sums(new)
            with self._store.guarded():  # gc removes folders that are empty, and images
                existing = self.get(image.name, image.version, image.architecture)
                if existing and existing.fingerprint == image.fingerprint:
                    return
                if target.is_dir():  # what a removal left that was killed, or a version whose files are lost
                    target.rename(scratch / "old")
                target.parent.mkdir(parents=True, exist_ok=True)
                new.rename(target)
                fsync_directory(target.parent)

    def remove(self, image: Image) -> None:
        """Delete an image's documents (its blobs are gc's to remove)."""
        folder = self.folder(image.name, image.version, image.architecture)
        (folder / "manifest.json").unlink()
        shutil.rmtree(folder)
        for parent in (folder.parent, folder.parent.parent):
            if not any(parent.iterdir()):
                parent.rmdir()

    def channels(self, name: str, architecture: str) -> dict[str, str]:
        """The channels of an image: name -> version."""
        folder = self._channels / name / architecture
        if not folder.is_dir():
            return {}
        return {
            path.name: path.read_text(encoding="utf-8", errors="replace").strip()
            for path in sorted(folder.iterdir())
            if path.name[0] != "."
        }

    def set_channel(
        self, name: str, architecture: str, channel: str, version: str, *, command: str = "", why: str = ""
    ) -> Move | None:
        """Point a channel at a version that is there, and log it; None when it names that version already.

        `command` is what moved it, in the words of the command line.
        """
        place = self.place(name, architecture, channel)
        with self._store.guarded():
            if self.get(name, version, architecture) is None:
                raise StoreError(f"the store has no {name}@{version} any more", hint="build it again")
            return self.log.move(place, version, command=command, why=why)

    def remove_channel(
        self, name: str, architecture: str, channel: str, *, command: str = "", why: str = ""
    ) -> Move | None:
        """Remove a channel, and log it; None when there is none. The versions that it named stay until gc."""
        with self._store.guarded():
            return self.log.move(Place(name, architecture, channel), None, command=command, why=why)

    def place(self, name: str, architecture: str, channel: str) -> Place:
        """That channel; StoreError for a name that no channel may have."""
        if not CHANNEL.fullmatch(channel):
            raise StoreError(
                f"not the name of a channel: {channel!r}",
                hint="small letters, digits and -, a letter first: dev, staging, prod",
            )
        if not _NAME.fullmatch(name):
            raise StoreError(
                f"not the name of an image: {name!r}", hint="write the name alone, without @ and a version"
            )
        return Place(name, architecture, channel)

    def settle(self) -> None:
        """Finish the move of a channel that a killed command began; nothing where this user may not write."""
        if self.log.unsettled():
            with self._store.guarded():
                self.log.settle()

    def resolve(self, ref: str, architecture: str | None = None) -> Image:
        """The image that `name`, `name@channel` or `name@version` means; StoreError says what there is instead."""
        architecture = architecture or host_architecture()
        match = re.fullmatch(r"([a-z0-9][a-z0-9-]*)(?:@([A-Za-z0-9][A-Za-z0-9._-]*))?", ref)
        if match is None:
            raise StoreError(f"not a reference: {ref!r}", hint="write name, name@channel or name@version")
        name, selector = match.group(1), match.group(2) or LATEST
        channels = self.channels(name, architecture)
        image = self.get(name, channels.get(selector, selector), architecture)
        if image is None:
            raise StoreError(
                f"the store has no {ref} for {architecture}", hint=self._hint(name, architecture, channels)
            )
        return image

    def _hint(self, name: str, architecture: str, channels: dict[str, str]) -> str:
        versions = sorted(path.parent.name for path in self._images.glob(f"{name}/*/{architecture}"))
        if not versions:
            from anklume_images.nearest import nearest

            close = nearest(name, sorted({path.name for path in self._images.glob("*")}))
            build = f"if it has a spec, build it: anklume-images build {name}; {BRING}"
            return f"did you mean '{close}'? {build[0].upper()}{build[1:]}" if close else build
        return f"there are: {', '.join([*channels, *versions])}"
