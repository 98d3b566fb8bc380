"""What may be revoked: also what is gone from the store, as others may have it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.store.images import Images, image_path
from anklume_images.store.models import ModelRecords, spellings
from anklume_images.store.promotion_log import PromotionLog
from anklume_images.trust.revoked import Revocation, revocations_of_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.store.store import Store
    from anklume_images.trust.repository import Repository

__all__ = ["gone_model", "revocable_image"]

_FINGERPRINT = re.compile(r"[0-9a-f]{12,64}")
_WHOLE = 64


def revocable_image(ref: str, architecture: str, store: Store, repository: Repository) -> Revocation:
    """The image of a reference or a fingerprint, yet without a reason; StoreError where nothing here knows of it.

    It has no fingerprint where only its name and version are known any more.
    """
    images = Images(store)
    try:
        image = images.resolve(ref, architecture)
    except StoreError as error:
        gone = error
    else:
        return _entry(*image.key, image.fingerprint)
    if _FINGERPRINT.fullmatch(ref):
        return _by_fingerprint(ref, store)
    name, _, version = ref.partition("@")
    key = (name, version, architecture)
    found = {one.fingerprint for one in _known(store) if one.key == key}
    if found or _was_here(key, images, repository):
        return _entry(*key, found.pop() if len(found) == 1 else "")
    raise gone


def gone_model(name: str, store: Store) -> Revocation | None:
    """A model of which there is no record any more, by the name that it was revoked by, or by the hash of its file."""
    if _FINGERPRINT.fullmatch(name):
        return _by_fingerprint(name, store)
    names = spellings(name)
    return next((one for one in _known(store) if not one.version and one.name in names), None)


def _by_fingerprint(begin: str, store: Store) -> Revocation:
    found = {one.fingerprint: one for one in _known(store) if one.fingerprint.startswith(begin)}
    if len(found) > 1:
        raise StoreError(
            f"several things here have a fingerprint that begins with {begin}",
            hint=", ".join(f"{one}: {fingerprint}" for fingerprint, one in sorted(found.items())),
        )
    if found:
        return next(iter(found.values()))
    if len(begin) < _WHOLE:
        raise StoreError(
            f"nothing is known here whose fingerprint begins with {begin}", hint=f"give all of its {_WHOLE} digits"
        )
    return _entry("", "", "", begin)


def _known(store: Store) -> Iterator[Revocation]:
    """All that has a fingerprint here: what is there, what was revoked, and what was promoted."""
    for image in Images(store).readable():
        yield _entry(*image.key, image.fingerprint)
    for record in ModelRecords(store).readable():
        yield _entry(record.name, "", "", record.fingerprint)
    for entry in revocations_of_store(store.home):
        if entry.fingerprint:
            yield _entry(*entry.key, entry.fingerprint)
    for promotion in PromotionLog(store).read()[0]:
        if promotion.fingerprint and promotion.architecture:  # one of Incus to Incus may name a channel there
            name, _, version = promotion.ref.partition("@")
            yield _entry(name, version, promotion.architecture, promotion.fingerprint)


def _was_here(key: tuple[str, str, str], images: Images, repository: Repository) -> bool:
    """Whether a channel has named that version, or it was signed, or revoked."""
    name, version, architecture = key
    for move in images.log.read().moves:
        if (move.place.image, move.place.architecture) == (name, architecture) and version in (move.before, move.after):
            return True
    current = repository.current("targets") if repository.exists else None
    if current is not None and f"{image_path(*key)}/manifest.json" in current.signed.targets:
        return True
    return any(entry.key == key for entry in revocations_of_store(images.home))


def _entry(name: str, version: str, architecture: str, fingerprint: str) -> Revocation:
    return Revocation(name, version, architecture, fingerprint, "", "")
