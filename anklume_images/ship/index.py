"""What others find in a store: `streams/v1` for Incus and `index.html` for people, written when what it offers changes.

One process writes at a time (`index.lock`). It reads images and models after it has the lock, and everybody who
changes them calls `write_index` afterwards, so that what is written last says how it is. `cache/index.json` has what
the documents were made from: nothing is read or written while that is the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from anklume_images import __version__
from anklume_images.canonical import canonical
from anklume_images.errors import AnklumeError
from anklume_images.files import write_atomic
from anklume_images.ship.catalogue import PAGE, Change, changes_between, page, pair_key, predecessors, template_hash
from anklume_images.ship.simplestreams import INDEX, PRODUCTS, Listed, index_document, products_document
from anklume_images.store.deltas import read_delta
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecords
from anklume_images.store.noted import noted
from anklume_images.store.summaries import summaries
from anklume_images.trust.revoked import known_revocations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store
    from anklume_images.trust.revoked import Revocation

__all__ = ["indexed", "listed_images", "listed_models", "write_index"]


def write_index(store: Store) -> bool:
    """Bring `streams/v1` and `index.html` up to date; False where they were, or where nobody may write.

    It does not take `gc.lock`, and may be called with it held.
    """
    if not (store.home / "schema").exists() or not os.access(store.home, os.W_OK):
        return False
    with _alone(store.home):
        images = Images(store)
        listed = listed_images(store, images)
        notes = store.home / "cache" / "index.json"
        before = _read(notes)
        revoked = known_revocations(store.home)
        models = listed_models(store)
        state = _state(listed, models, revoked)
        targets = [store.home / place for place in (PRODUCTS, INDEX, PAGE)]
        if before.get("state") == state and all(target.exists() for target in targets):
            return False
        for target in (*targets, notes):  # what a killed writer left: nobody else writes now
            for left in target.parent.glob(f".{target.name}.*"):
                left.unlink()
        changes = _changes(images, listed, before.get("changes", {}))
        products = products_document(listed)
        documents = [
            _json(products),
            _json(index_document(products["products"])),
            page(listed, changes, revoked, models).encode(),
        ]
        known = {
            key: [[change.name, change.before, change.after] for change in found] for key, found in changes.items()
        }
        with noted(store.home, *targets, notes):
            for target, data in zip(targets, documents, strict=True):
                if not _has(target, data):
                    write_atomic(target, data)
            write_atomic(notes, canonical({"program": _program(), "state": state, "changes": known}))
    return True


@contextlib.contextmanager
def indexed(store: Store) -> Iterator[None]:
    """Bring them up to date after what is done, whether it fails or not."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(AnklumeError, OSError):  # the error that is told is the first one
            write_index(store)
        raise
    write_index(store)


def listed_images(store: Store, images: Images) -> list[Listed]:
    """The images of a store whose files are there and that nobody revoked, with what points at them."""
    found = []
    revoked = known_revocations(store.home)
    channels: dict[tuple[str, str], dict[str, str]] = {}
    for image in summaries(store, images):
        files = (image.metadata, image.rootfs)
        if any(entry.concerns(image) for entry in revoked):
            continue
        if not all(store.blobs.has(file.sha256, file.size) for file in files):
            continue
        place = (image.name, image.architecture)
        if place not in channels:
            channels[place] = images.channels(*place)
        pointing = tuple(channel for channel, version in channels[place].items() if version == image.version)
        delta = read_delta(images.folder(image.name, image.version, image.architecture))
        if delta and not store.blobs.has(delta.sha256, delta.size):
            delta = None
        found.append(Listed(image, pointing, delta))
    return found


def listed_models(store: Store) -> list[ModelRecord]:
    """The models of a store that have a record, whose files are there and that nobody revoked."""
    revoked = {entry.fingerprint for entry in known_revocations(store.home)}
    return [
        record
        for record in ModelRecords(store).readable()
        if record.fingerprint not in revoked
        and all(store.blobs.has(sha256, size) for sha256, size in record.blobs().items())
    ]


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    with (home / "index.lock").open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _state(listed: Sequence[Listed], models: Sequence[ModelRecord], revoked: Sequence[Revocation]) -> str:
    """A hash of all that the documents are made from."""
    images = [
        [one.image.ref, one.image.architecture, one.image.fingerprint, one.image.stored, one.channels, str(one.delta)]
        for one in listed
    ]
    others = [repr(one) for one in (*models, *revoked)]
    return hashlib.sha256(canonical([images, others])).hexdigest()


def _changes(images: Images, listed: Sequence[Listed], known: dict[str, Any]) -> dict[str, tuple[Change, ...]]:
    """What changed between an image and the version before it; manifests are read for what is not noted yet."""
    changes: dict[str, tuple[Change, ...]] = {}
    read: dict[str, dict[tuple[str, str], str] | None] = {}
    for later, earlier in predecessors(listed):
        key = pair_key(earlier, later)
        if key in known:
            changes[key] = tuple(Change(*entry) for entry in known[key])
            continue
        for one in (earlier, later):
            if one.fingerprint not in read:
                read[one.fingerprint] = images.packages(one.name, one.version, one.architecture)
        before, after = read[earlier.fingerprint], read[later.fingerprint]
        if before is not None and after is not None:  # else gc took one meanwhile, and writes the index after this
            changes[key] = changes_between(before, after)
    return changes


def _read(notes: Path) -> dict[str, Any]:
    """What was noted the last time; nothing where it is missing, damaged or of another program."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads(notes.read_bytes())
        if document["program"] == _program():
            return dict(document)
    return {}


def _program() -> str:
    """What else than images the documents depend on."""
    return f"{__version__} {template_hash()}"


def _has(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1).encode() + b"\n"
