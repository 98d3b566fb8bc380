"""Images and models that are not to be used any more: `revoked.json`, a target of a store's signed metadata.

revoked.json                      what is signed now
metadata/<sha256>.revoked.json    each list that metadata names, so that readers of older metadata find theirs
metadata/staged/revoked.json      what is yet to be signed; counts in the store itself at once
revoked.lock                      held while one of them changes
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import re
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Protocol

from anklume_images.canonical import parsed, what_is_wrong
from anklume_images.errors import PolicyError, StoreError
from anklume_images.files import write_atomic
from anklume_images.store.noted import write_noted
from anklume_images.trust.roles import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = [
    "FILE",
    "Revocable",
    "Revocation",
    "RevokedError",
    "change_revocations",
    "copy_path",
    "forget_copies",
    "keep_copy",
    "known_revocations",
    "parse_revocations",
    "read_revocations",
    "refusal",
    "refuse_known",
    "refuse_revoked",
    "revocations_of_store",
    "revocations_to_sign",
    "revocations_unchanged",
    "settle_revocations",
    "signed_revocations",
    "write_revocations",
]

FILE = "revoked.json"
STAGED = f"{FOLDER}/staged/{FILE}"
SCHEMA = 1
_COPY = re.compile(rf"([0-9a-f]{{64}})\.{re.escape(FILE)}")


class RevokedError(PolicyError):
    """What was revoked would come into use."""


class Revocable(Protocol):
    """An image or a model; an image has a `key`, too: name, version and architecture."""

    @property
    def fingerprint(self) -> str:
        """What it is known by, whatever it is called: a sha256."""


@dataclass(frozen=True, order=True)
class Revocation:
    """One image or model that was revoked: `why` in a line, `since` as RFC 3339 in UTC.

    That of a model has its name and no version and architecture, so programs from before models were revoked read it.
    One without a fingerprint is of an image of which no more was known, one without a name of what nobody here had.
    """

    name: str
    version: str
    architecture: str
    fingerprint: str
    why: str
    since: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells an image from all others of a store."""
        return self.name, self.version, self.architecture

    def concerns(self, what: Revocable) -> bool:
        """Whether it is this image or model, by its bytes; by its name and version where its bytes are not known."""
        if self.fingerprint:
            return self.fingerprint == what.fingerprint
        return self.key == getattr(what, "key", None)

    def is_about(self, other: Revocation) -> bool:
        """Whether both are of the same image or model."""
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint
        return self.key == other.key

    @property
    def ref(self) -> str:
        """`name@version`, the name of a model, or the beginning of the fingerprint of what has no name here."""
        return f"{self.name}@{self.version}" if self.version else self.name or self.fingerprint[:12]

    def __str__(self) -> str:
        if self.version:
            return f"{self.ref} ({self.architecture})"
        return f"model {self.name}" if self.name else f"fingerprint {self.fingerprint[:12]}"


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
    return _of(folder / FILE)


def _of(path: Path) -> tuple[Revocation, ...]:
    data = _bytes(path)
    return () if data is None else parse_revocations(data, str(path))


def write_revocations(home: Path, revocations: Iterable[Revocation], *, signed: bool = False) -> None:
    """Write or replace those of the store at `home`; those of a `signed` one wait for its signature."""
    document = {"schema": SCHEMA, "revoked": [asdict(entry) for entry in sorted(revocations)]}
    data = (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()
    write_noted(home, home / (STAGED if signed else FILE), data)


def known_revocations(home: Path) -> tuple[Revocation, ...]:
    """What the store at `home` has revoked, signed or not, and what others that it believed had at the last contact."""
    folders = [home, *sorted((home / "trust").glob("*/"))]
    found = {entry for folder in folders for entry in read_revocations(folder)}
    return tuple(sorted(found.union(_of(home / STAGED))))


def refuse_revoked(
    what: Revocable, ref: str, revocations: Iterable[Revocation], *, hint: str, where: str | None = None
) -> None:
    """RevokedError when one of them concerns an image or a model, which is called `ref`."""
    for entry in revocations:
        if entry.concerns(what):
            raise refusal(entry, ref, hint=hint, where=where)


def refusal(entry: Revocation, ref: str, *, hint: str, where: str | None = None) -> RevokedError:
    """The error of what one of them concerns, which is called `ref`."""
    return RevokedError(f"{ref} was revoked on {entry.since[:10]}: {entry.why}", where=where, hint=hint)


def refuse_known(what: Revocable, ref: str, home: Path) -> None:
    """RevokedError when the store at `home` knows that an image or a model, which is called `ref`, was revoked."""
    refuse_revoked(what, ref, known_revocations(home), hint="name another version")


def change_revocations(
    home: Path, change: Callable[[tuple[Revocation, ...]], Iterable[Revocation]], *, signed: bool
) -> None:
    """Change those of the store at `home`, as they will be when all is signed; of two at once none is lost."""
    with revocations_unchanged(home):
        write_revocations(home, change(revocations_of_store(home)), signed=signed)


@contextlib.contextmanager
def revocations_unchanged(home: Path) -> Iterator[None]:
    """Keep others from changing those of the store at `home`."""
    with (home / "revoked.lock").open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def revocations_of_store(home: Path) -> tuple[Revocation, ...]:
    """What the store at `home` itself has revoked, as it will be when all is signed."""
    return _of(home / revocations_to_sign(home))


def revocations_to_sign(home: Path) -> str:
    """Where below a store's home the list is that its next signature is for, if there is one."""
    return STAGED if (home / STAGED).exists() else FILE


def copy_path(sha256: str) -> str:
    """Where below a store's home the list with this hash is, while metadata names it."""
    return f"{FOLDER}/{sha256}.{FILE}"


def signed_revocations(home: Path, sha256: str) -> bytes | None:
    """The list with this hash; None where it is no more."""
    found = (_bytes(home / path) for path in (copy_path(sha256), STAGED, FILE))
    return next((data for data in found if data is not None and _digest(data) == sha256), None)


def keep_copy(home: Path, sha256: str) -> None:
    """Let those who read metadata that names this list have it, whatever becomes of the others."""
    data = signed_revocations(home, sha256)
    if data is not None and _bytes(home / copy_path(sha256)) != data:
        write_atomic(home / copy_path(sha256), data)


def settle_revocations(home: Path, sha256: str) -> None:
    """Let the list with this hash, which is signed by now, be that of the store, unless that was never signed."""
    with revocations_unchanged(home):
        data, before = _bytes(home / copy_path(sha256)), _bytes(home / FILE)
        if data is None:
            return
        if before is None or (before != data and _bytes(home / copy_path(_digest(before))) == before):
            write_noted(home, home / FILE, data)
        if _bytes(home / STAGED) == _bytes(home / FILE) == data:
            (home / STAGED).unlink()


def forget_copies(home: Path, named: Callable[[str], bool]) -> None:
    """Remove the lists that no metadata names any more."""
    for path in (home / FOLDER).iterdir():
        if (match := _COPY.fullmatch(path.name)) and not named(match[1]):
            path.unlink(missing_ok=True)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
