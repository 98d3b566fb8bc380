"""What a bundle says of itself first: `bundle.json`, which names every file that follows, in their order.

A bundle is a plain tar file of regular files, with paths as in a store:

    bundle.json          this index, with a digest of its own
    metadata/…           the store's signed metadata
    images/… models/…    documents, each of which is a target of that metadata
    tool/wheels/…        the tool itself
    blobs/sha256/…       what the documents name

All that a tar header can say beside path and size is the same for each file, so the index gives the bytes of every
header. A reader compares them, and has no other to understand.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anklume_images.canonical import canonical
from anklume_images.errors import StoreError

__all__ = ["BLOCK", "END", "FILE", "INDEX_LIMIT", "BundleError", "BundledImage", "Contents", "Member", "header"]

FILE = "bundle.json"
SCHEMA = 1
BLOCK = 512
END = bytes(2 * BLOCK)  # two empty blocks, as POSIX has it
INDEX_LIMIT = 32 << 20  # bytes of the index
_MEMBERS = 100_000
_SMALL = 32 << 20  # bytes of a document
_ALL_SMALL = 1 << 30  # bytes of all documents and metadata, which are read before a signature is

_NAME, _VERSION, _WORD = r"[a-z0-9][a-z0-9-]*", r"[A-Za-z0-9][A-Za-z0-9._-]*", r"[A-Za-z0-9][A-Za-z0-9._~%-]*"
_ORDER = (
    ("metadata", re.compile(r"metadata/(?:timestamp|[1-9][0-9]{0,8}\.(?:root|targets|snapshot))\.json")),
    (
        "document",
        re.compile(
            rf"revoked\.json|images/{_NAME}/{_VERSION}/[a-z0-9]+/[a-z0-9][a-z0-9.-]*\.json"
            rf"|(?:models|infra|tool|deltas)/{_WORD}\.json"
            rf"|attestations/{_NAME}/{_VERSION}/[a-z0-9]+/[0-9a-f-]+\.json"
        ),
    ),
    ("wheel", re.compile(r"tool/wheels/[A-Za-z0-9][A-Za-z0-9._+-]*\.whl")),
    ("blob", re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")),
)

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Line = Annotated[str, Field(max_length=400)]


class BundleError(StoreError):
    """A bundle is damaged, not whole, not one at all, or not for this host."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(_Part):
    """One file in a bundle; `size` is in bytes."""

    path: Annotated[str, Field(max_length=1000)]
    sha256: _Sha256
    size: Annotated[int, Field(ge=0, lt=1 << 53)]

    @property
    def kind(self) -> str | None:
        """metadata, document, wheel or blob; None for a path that no bundle has."""
        return next((kind for kind, pattern in _ORDER if pattern.fullmatch(self.path)), None)

    @property
    def padding(self) -> int:
        """Empty bytes behind it, up to the next block."""
        return -self.size % BLOCK


class BundledImage(_Part):
    """An image that a bundle is for."""

    name: _Line
    version: _Line
    architecture: _Line

    @property
    def ref(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


class Contents(_Part):
    """All of a bundle: `store` is the fingerprint of the store that it comes from.

    `models` and `infra` are names, `tool` is the version of the tool in it. `inventory` is the sha256 of the inventory
    that it leaves out the files of; a bundle that has all has none. `deltas` are the files to be made of earlier ones.
    """

    format: int = SCHEMA
    store: _Sha256
    images: tuple[BundledImage, ...] = ()
    models: tuple[_Line, ...] = ()
    infra: tuple[_Line, ...] = ()
    tool: _Line | None = None
    inventory: _Sha256 | None = None
    deltas: tuple[_Sha256, ...] = ()
    members: Annotated[tuple[Member, ...], Field(max_length=_MEMBERS)]

    def to_bytes(self) -> bytes:
        """The index as it stands in the bundle."""
        document = self.model_dump(mode="json")
        return canonical({"bundle": document, "digest": hashlib.sha256(canonical(document)).hexdigest()})

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Contents:
        """The index that these bytes are; BundleError when they are none, or not in its one spelling."""
        try:
            document = _Document.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(step) for step in first["loc"])
            raise BundleError(
                f"{FILE} is damaged, or not a bundle's: {place}: {first['msg']}", where=where, hint=_AGAIN
            ) from None
        contents = document.bundle
        if contents.format != SCHEMA:
            raise BundleError(
                f"a bundle of format {contents.format}, this program knows {SCHEMA}",
                where=where,
                hint="update anklume-images; a bundle made --with-tool brings it along",
            )
        if contents.to_bytes() != data:
            raise BundleError(f"{FILE} is damaged: its digest is another", where=where, hint=_AGAIN)
        _check(contents.members, where)
        for named in (contents.images, contents.models, contents.infra, contents.deltas):
            if len(set(named)) < len(named):
                raise BundleError(f"{FILE} names something twice", where=where, hint="do not use it")
        return contents

    @property
    def size(self) -> int:
        """The bytes of the whole bundle."""
        index = len(self.to_bytes())
        files = sum(len(header(one.path, one.size)) + one.size + one.padding for one in self.members)
        return len(header(FILE, index)) + index + -index % BLOCK + files + len(END)


class _Document(_Part):
    bundle: Contents
    digest: str


_AGAIN = "copy it again, or have it made again"


def _check(members: tuple[Member, ...], where: str) -> None:
    """BundleError for paths that no bundle has, for two of one path, for another order, and for large documents."""
    rank, seen = 0, set[str]()
    if sum(member.size for member in members if member.kind in ("metadata", "document")) > _ALL_SMALL:
        raise BundleError("its documents are larger than allowed", where=where, hint="do not use it: it may be forged")
    for member in members:
        ranks = [number for number, (kind, _) in enumerate(_ORDER) if kind == member.kind]
        shown = ascii(member.path)[1:-1][:120]
        if not ranks:
            raise BundleError(f"a file called {shown} has no place in a bundle", where=where, hint="do not use it")
        if member.path in seen:
            raise BundleError(f"{shown} is in it twice", where=where, hint="do not use it")
        if ranks[0] < rank:
            raise BundleError(f"{shown} is not in its place", where=where, hint="do not use it")
        if member.kind in ("metadata", "document") and member.size > _SMALL:
            raise BundleError(f"{shown} is larger than allowed", where=where, hint="do not use it: it may be forged")
        if member.kind == "blob" and member.path.rpartition("/")[2] != member.sha256:
            raise BundleError(f"{shown} is said to have another hash", where=where, hint="do not use it")
        rank = ranks[0]
        seen.add(member.path)


def header(path: str, size: int) -> bytes:
    """The bytes before a file's own: one block, or three where path or size are too long for one (POSIX.1-2001)."""
    info = tarfile.TarInfo(path)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT)
