"""A second builder's word: the same inputs gave the same bytes on another host.

An attestation is an in-toto statement (https://in-toto.io/Statement/v1) in a DSSE envelope, signed with a key of the
builder's own.
In a store it is `attestations/<name>/<version>/<arch>/<first 16 hex of the key's ID>.json`; another one by the same key
has the first 16 hex of its own sha256 in its name too, so none is ever overwritten. They travel with their image.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError

from anklume_images.canonical import canonical, parsed, what_is_wrong
from anklume_images.errors import StoreError
from anklume_images.store.noted import write_noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from securesystemslib.signer import Key, Signer

    from anklume_images.store.images import Image

__all__ = [
    "PREDICATE",
    "Attestation",
    "add_attestation",
    "attest",
    "attestation_about",
    "attestations",
    "attestations_path",
    "attested_by",
    "is_attestation",
    "read_attestation",
]

PREDICATE = "https://anklume.invalid/rebuilt/v1"
_STATEMENT = "https://in-toto.io/Statement/v1"
_TYPE = "application/vnd.in-toto+json"
_PATH = re.compile(
    r"attestations/[a-z0-9][a-z0-9-]*/[A-Za-z0-9][A-Za-z0-9._-]*/[a-z0-9]+/[0-9a-f]{16}(?:-[0-9a-f]{16})?\.json",
    re.ASCII,
)
_KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Attestation:
    """What an envelope says; `keyids` are those that it bears signatures of, which are yet to be verified."""

    ref: str
    architecture: str
    fingerprint: str
    keyids: tuple[str, ...]
    envelope: Envelope


def attest(image: Image, signer: Signer, facts: Mapping[str, str]) -> bytes:
    """Sign that this host built the image again and got the same bytes; `facts` say how and when."""
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": f"{image.ref}/{image.architecture}", "digest": {"sha256": image.fingerprint}}],
        "predicateType": PREDICATE,
        "predicate": {"recipe": image.recipe, **facts},
    }
    envelope = Envelope(canonical(statement), _TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), sort_keys=True, indent=1).encode() + b"\n"


def read_attestation(data: bytes, where: str) -> Attestation:
    """What an envelope says, unverified; StoreError when it is none of ours."""
    try:
        envelope = Envelope.from_dict(parsed(data))
        statement: dict[str, Any] = parsed(envelope.payload)
        subjects = statement["subject"]
        if len(subjects) != 1:
            raise ValueError("it must be about one image")  # noqa: TRY301  told as the others are
        subject = subjects[0]
        ref, _, architecture = subject["name"].rpartition("/")
        kind = statement["predicateType"] if envelope.payload_type == _TYPE else envelope.payload_type
        found = Attestation(ref, architecture, subject["digest"]["sha256"], tuple(envelope.signatures), envelope)
        if not found.keyids or not all(_KEY_ID.fullmatch(keyid) for keyid in found.keyids):
            raise ValueError("it has no signature with a valid key ID")  # noqa: TRY301  told as the others are
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"not an attestation: {what_is_wrong(error)}", where=where) from None
    if kind != PREDICATE:
        raise StoreError(f"this attests something else: {kind}", where=where)
    return found


def attestation_about(image: Image, data: bytes, where: str) -> Attestation:
    """What an envelope says of an image, unverified; StoreError when it is none, or about another image."""
    found = read_attestation(data, where)
    if (found.ref, found.architecture, found.fingerprint) != (image.ref, image.architecture, image.fingerprint):
        raise StoreError(
            f"it is about {found.ref} ({found.architecture}, {found.fingerprint[:12]}), not about {image.ref} "
            f"({image.architecture}, {image.fingerprint[:12]})",
            where=where,
            hint="a host that gets other bytes from the same inputs is worth a look: build --check there",
        )
    return found


def add_attestation(home: Path, image: Image, data: bytes, where: str) -> Path:
    """Keep an attestation of an image in a store, beside those that are there; errors are those of the above."""
    key = attestation_about(image, data, where).keyids[0][:16]
    path = home / attestations_path(image) / f"{key}.json"
    if path.exists() and path.read_bytes() != data:
        path = path.with_name(f"{key}-{hashlib.sha256(data).hexdigest()[:16]}.json")
    write_noted(home, path, data)
    return path


def attestations(home: Path, image: Image) -> Iterator[tuple[Path, bytes]]:
    """Those of an image in a store, each with its file."""
    for path in sorted((home / attestations_path(image)).glob("*.json")):
        yield path, path.read_bytes()


def attested_by(home: Path, image: Image, builders: Iterable[Key]) -> list[str]:
    """The IDs of those builders whose valid signature says that the image came out the same."""
    keys = {key.keyid: key for key in builders}
    found = set()
    for path, data in attestations(home, image):
        attestation = read_attestation(data, str(path))
        known = [keys[keyid] for keyid in attestation.keyids if keyid in keys]
        if attestation.fingerprint != image.fingerprint or not known:
            continue
        try:
            found |= set(attestation.envelope.verify(known, 1))
        except VerificationError:
            continue
    return sorted(found)


def is_attestation(place: str) -> bool:
    """Whether a path below the store's folder is that of an attestation."""
    return _PATH.fullmatch(place) is not None


def attestations_path(image: Image) -> str:
    """Where those of an image are below the store's folder."""
    return f"attestations/{image.name}/{image.version}/{image.architecture}"
