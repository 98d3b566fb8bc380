"""Bundles made of a signed store, and forged ones, and the host that they are for."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from anklume_images.bundle.checked import Opened, check
from anklume_images.bundle.gather import Chosen, gather
from anklume_images.bundle.index import Contents, Member, header
from anklume_images.bundle.infra import InfraLock, keep_lock
from anklume_images.bundle.parts import Sink, Source
from anklume_images.bundle.reader import BundleReader
from anklume_images.bundle.receive import Received, receive
from anklume_images.bundle.tool import Tool
from anklume_images.bundle.writer import write_bundle
from anklume_images.canonical import canonical
from anklume_images.console import Console
from anklume_images.errors import AnklumeError, FetchError, StoreError
from anklume_images.ship.by_delta import SignedDelta, keep_deltas
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecords
from anklume_images.store.noted import write_noted
from anklume_images.trust.attest import add_attestation, attest
from anklume_images.trust.origins import Origins
from anklume_images.trust.revoked import Revocation, write_revocations
from tests.support.blobs import put_blob

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.bundle.needs import Inventory
    from anklume_images.store.store import Store
    from tests.support.publisher import Publisher

FIRST, SECOND = "1.0-00000000000a", "2.0-00000000000b"
MODEL = b"GGUF of a model" * 5000
QUIET = Console(quiet=True)


@dataclass
class Far:
    """The host that a bundle is for."""

    store: Store

    @property
    def images(self) -> Images:
        return Images(self.store)

    def take(self, path: Path | str, fingerprint: str | None = None) -> Received:
        source = Source.at(str(path))
        with contextlib.closing(source), self.store.scratch("test") as scratch:
            opened = Opened(BundleReader(source), scratch / "bundle")
            origins = Origins(self.store)
            if fingerprint:
                origins.accept(opened.place, fingerprint, "me@here")
            checked = check(opened, origins.at(opened.place), self.store.home)
            return receive(opened, checked, self.images, self.store, QUIET)

    def has_nothing(self) -> bool:
        return not [*self.images, *ModelRecords(self.store)] and not list(self.store.home.glob("channels/*"))


def everything(theirs: Publisher, *refs: str) -> Chosen:
    images = tuple(theirs.images.resolve(ref, "amd64") for ref in refs or ("box",))
    return Chosen(images, tuple(ModelRecords(theirs.store)))


def make(theirs: Publisher, path: Path, chosen: Chosen | None = None, inventory: Inventory | None = None) -> Contents:
    with theirs.store.lease() as lease:
        gathered = gather(theirs.store, theirs.repository, chosen or everything(theirs), lease, inventory)
        write_bundle(gathered, Sink(path), QUIET)
    return gathered.contents


def revoke(publisher: Publisher, fingerprint: str) -> None:
    entry = Revocation("box", FIRST, "amd64", fingerprint, "its sshd is open", "2026-01-02T03:04:05Z")
    write_revocations(publisher.store.home, [entry])
    publisher.sign()


def refused(far: Far, path: Path, fingerprint: str | None = None) -> AnklumeError:
    with pytest.raises((StoreError, FetchError)) as caught:
        far.take(path, fingerprint)
    assert far.has_nothing()
    return caught.value


def full(theirs: Publisher, path: Path) -> tuple[Contents, str]:
    """A bundle with files of each kind, and what its delta makes."""
    store, image = theirs.store, theirs.images.resolve("box", "amd64")
    lock = json.dumps({"project": "lab", "machines": {"a": {"image": f"box@{FIRST}", "architecture": "amd64"}}})
    keep_lock(store, InfraLock("lab", (), (), lock.encode()))
    wheel, package = b"PK a wheel", b"a package"
    tool = Tool(
        "1.0-amd64",
        wheels={"tool-1.0-py3-none-any.whl": put_blob(store.blobs, wheel)},
        blobs={put_blob(store.blobs, package): len(package)},
    )
    write_noted(store.home, store.home / tool.path, tool.to_bytes())
    data = b"a delta"
    delta = SignedDelta(image.metadata.sha256, image.rootfs.sha256, put_blob(store.blobs, data), len(data))
    keep_deltas(store, [delta])
    other = Revocation("box", "0.9", "amd64", "0" * 64, "its sshd is open", "2026-01-02T03:04:05Z")
    write_revocations(store.home, [other])
    add_attestation(store.home, image, attest(image, theirs.ring.labelled("builder"), {}), "file")
    theirs.sign()
    chosen = everything(theirs)
    return make(theirs, path, Chosen(chosen.images, chosen.models, ("lab",), tool, (delta,))), image.rootfs.sha256


def members_of(site: Path) -> tuple[Contents, dict[str, bytes]]:
    with contextlib.closing(Source.at(str(site))) as source:
        reader = BundleReader(source)
        return reader.contents, {member.path: reader.data(member) for member in reader}


def forged(contents: Contents, files: dict[str, bytes], path: Path, *, honest: bool = True) -> Path:
    """Write such a bundle; with `honest`, its index is about these files."""
    if honest:
        found = tuple(
            Member(path=name, sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()
        )
        contents = contents.model_copy(update={"members": found})
    index = contents.to_bytes()
    out = io.BytesIO()
    for name, data in {"bundle.json": index, **files}.items():
        out.write(header(name, len(data)) + data + bytes(-len(data) % 512))
    path.write_bytes(out.getvalue() + bytes(1024))
    return path


def signed_index(document: dict[str, object]) -> bytes:
    return canonical({"bundle": document, "digest": hashlib.sha256(canonical(document)).hexdigest()})


def signed(theirs: Publisher, path: Path, documents: dict[str, bytes], **named: tuple[str, ...] | str) -> Path:
    """A bundle of such documents, all of them signed, and of nothing else."""
    for name, data in documents.items():
        (theirs.store.home / name).parent.mkdir(exist_ok=True)
        (theirs.store.home / name).write_bytes(data)
    theirs.sign()
    folder = theirs.store.home / "metadata"
    metadata = {f"metadata/{name}": (folder / name).read_bytes() for name in theirs.repository.files()}
    contents = Contents(store=theirs.repository.identity, members=()).model_copy(update=named)
    return forged(contents, metadata | documents, path)
