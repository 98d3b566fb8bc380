"""Images and models that are not to be used any more: `revoked.json`, a target of a store's signed metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Protocol

from anklume_images.canonical import parsed, what_is_wrong
from anklume_images.errors import PolicyError, StoreError
from anklume_images.store.noted import write_noted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "FILE",
    "Revocable",
    "Revocation",
    "RevokedError",
    "known_revocations",
    "parse_revocations",
    "read_revocations",
    "refuse_revoked",
    "write_revocations",
]

FILE = "revoked.json"
SCHEMA = 1


class RevokedError(PolicyError):
    """What was revoked would come into use."""


class Revocable(Protocol):
    """An image or a model."""

    @property
    def fingerprint(self) -> str:
        """What it is known by, whatever it is called: a sha256."""


@dataclass(frozen=True, order=True)
class Revocation:
    """One image or model that was revoked: `why` in a line, `since` as RFC 3339 in UTC.

    That of a model has its name and no version and architecture, so programs from before models were revoked read it.
    """

    name: str
    version: str
    architecture: str
    fingerprint: str
    why: str
    since: str

    def concerns(self, what: Revocable) -> bool:
        """Whether it is this image or model, by its bytes."""
        return self.fingerprint == what.fingerprint

    @property
    def ref(self) -> str:
        """`name@version`, or the name of a model."""
        return f"{self.name}@{self.version}" if self.version else self.name

    def __str__(self) -> str:
        return f"{self.ref} ({self.architecture})" if self.version else f"model {self.name}"


def parse_revocations(data: bytes, where: str) -> tuple[Revocation, ...]:
    """What such a file says; StoreError when it is none."""
    try:
        document = parsed(data)
        if document["schema"] != SCHEMA:
            raise StoreError(
                f"revocations of schema {document['schema']}, this program knows {SCHEMA}",
                where=where,
                hint="update anklume-images",
            )
        entries = [Revocation(**entry) for entry in document["revoked"]]
        if not all(isinstance(word, str) for entry in entries for word in astuple(entry)):
            raise ValueError("an entry has something other than text")  # noqa: TRY301  told as the others are
        return tuple(sorted(entries))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"not a list of revocations: {what_is_wrong(error)}", where=where) from None


def read_revocations(folder: Path) -> tuple[Revocation, ...]:
    """Those in a folder; none where the file is not there."""
    try:
        return parse_revocations((folder / FILE).read_bytes(), str(folder / FILE))
    except FileNotFoundError:
        return ()


def write_revocations(home: Path, revocations: Iterable[Revocation]) -> None:
    """Write or replace those of the store at `home`."""
    document = {"schema": SCHEMA, "revoked": [asdict(entry) for entry in sorted(revocations)]}
    write_noted(home, home / FILE, (json.dumps(document, sort_keys=True, indent=1) + "\n").encode())


def known_revocations(home: Path) -> tuple[Revocation, ...]:
    """What the store at `home` has revoked, and what stores that it ever believed had at the last contact."""
    folders = [home, *sorted((home / "trust").glob("*/"))]
    return tuple(sorted({entry for folder in folders for entry in read_revocations(folder)}))


def refuse_revoked(
    what: Revocable, ref: str, revocations: Iterable[Revocation], *, hint: str, where: str | None = None
) -> None:
    """RevokedError when one of them concerns an image or a model, which is called `ref`."""
    for entry in revocations:
        if entry.concerns(what):
            raise RevokedError(f"{ref} was revoked on {entry.since[:10]}: {entry.why}", where=where, hint=hint)
