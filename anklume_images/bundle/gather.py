"""What goes into a bundle: decided and read from the store, so that its first byte already says all of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuf.api.exceptions import LengthOrHashMismatchError

from anklume_images.bundle.index import BundledImage, BundleError, Contents, Member
from anklume_images.bundle.infra import infra_path
from anklume_images.errors import PolicyError, StoreError
from anklume_images.ship.by_delta import SignedDelta, delta_path
from anklume_images.store.models import model_path
from anklume_images.trust.attest import attestations_path
from anklume_images.trust.repository import FOLDER
from anklume_images.trust.revoked import FILE as REVOKED
from anklume_images.trust.revoked import known_revocations, signed_revocations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tuf.api.metadata import TargetFile

    from anklume_images.bundle.needs import Inventory
    from anklume_images.bundle.tool import Tool
    from anklume_images.store.images import Image
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Lease, Store
    from anklume_images.trust.repository import Repository
    from anklume_images.trust.revoked import Revocable

__all__ = ["Chosen", "Gathered", "gather"]


@dataclass(frozen=True)
class Chosen:
    """What was asked for; `infra` are the names of locks in the store's folder `infra`."""

    images: tuple[Image, ...] = ()
    models: tuple[ModelRecord, ...] = ()
    infra: tuple[str, ...] = ()
    tool: Tool | None = None
    deltas: tuple[SignedDelta, ...] = ()


@dataclass(frozen=True)
class Gathered:
    """A bundle that is yet to be written: its index, and where each file is, small ones themselves.

    `left_out` are the bytes that the target has.
    """

    contents: Contents
    sources: Mapping[str, bytes | Path]
    left_out: int


def gather(
    store: Store, repository: Repository, chosen: Chosen, lease: Lease, inventory: Inventory | None = None
) -> Gathered:
    """Decide on all of it; StoreError where a file is missing, or is not what was signed.

    `lease` keeps the blobs until they are written.
    """
    revocations = known_revocations(store.home)
    wanted: tuple[Revocable, ...] = (*chosen.images, *chosen.models)
    for what in wanted:
        if found := next((entry for entry in revocations if entry.concerns(what)), None):
            raise PolicyError(f"{found.ref} was revoked: {found.why}", hint="name another version of it")
    sources: dict[str, bytes | Path] = {
        f"{FOLDER}/{name}": (repository.folder / name).read_bytes() for name in repository.files()
    }
    if not sources:
        raise StoreError(
            "this store is not signed", where=str(store.home), hint="its owners sign it: anklume-images trust sign"
        )
    if inventory:
        _check_seen(repository, inventory)
    sources |= _documents(store, repository, chosen)
    if chosen.tool:
        sources |= {f"tool/wheels/{name}": store.blobs.path(sha256) for name, sha256 in chosen.tool.wheels.items()}
    made = {delta.later for delta in chosen.deltas}
    blobs = _blobs(chosen)
    lease.add([*blobs, *(chosen.tool.wheels.values() if chosen.tool else ())])
    members = [_member(path, source) for path, source in sources.items()]
    left_out = 0
    for sha256, size in blobs.items():
        path = store.blobs.path(sha256)
        if sha256 in made or (inventory and inventory.blobs.get(sha256) == size):
            left_out += size
        elif not store.blobs.has(sha256, size):
            raise StoreError(
                "the store lacks a file", where=str(path), hint="anklume-images verify says what it belongs to"
            )
        else:
            name = path.relative_to(store.home).as_posix()
            sources[name] = path
            members.append(Member(path=name, sha256=sha256, size=size))
    contents = Contents(
        store=repository.identity,
        images=tuple(
            BundledImage(name=image.name, version=image.version, architecture=image.architecture)
            for image in chosen.images
        ),
        models=tuple(record.name for record in chosen.models),
        infra=chosen.infra,
        tool=chosen.tool.name if chosen.tool else None,
        inventory=inventory.digest if inventory else None,
        deltas=tuple(delta.later for delta in chosen.deltas),
        members=tuple(members),
    )
    return Gathered(Contents.from_bytes(contents.to_bytes(), str(store.home)), sources, left_out)


def _blobs(chosen: Chosen) -> dict[str, int]:
    """Sizes by sha256, in the order that makes whole images early."""
    blobs: dict[str, int] = {}
    for image in chosen.images:
        blobs |= image.blobs()
    blobs |= {delta.sha256: delta.size for delta in chosen.deltas}
    for record in chosen.models:
        blobs |= record.blobs()
    return blobs | (dict(chosen.tool.blobs) if chosen.tool else {})


def _documents(store: Store, repository: Repository, chosen: Chosen) -> dict[str, bytes | Path]:
    targets = repository.current("targets")
    if targets is None:
        raise StoreError("the store is not signed", where=str(store.home), hint="anklume-images trust sign")
    entries: dict[str, TargetFile] = targets.signed.targets
    wanted = [REVOKED] if REVOKED in entries else []
    for image in chosen.images:
        folder = f"images/{image.name}/{image.version}/{image.architecture}/"
        wanted += [path for path in sorted(entries) if path.startswith(folder)]
        if f"{folder}manifest.json" not in wanted:
            raise _unsigned(f"{folder}manifest.json", store)
        wanted += [path for path in sorted(entries) if path.rpartition("/")[0] == attestations_path(image)]
    wanted += [model_path(record.name) for record in chosen.models]
    wanted += [infra_path(name) for name in chosen.infra]
    wanted += [chosen.tool.path] if chosen.tool else []
    wanted += [delta_path(delta.later) for delta in chosen.deltas]
    documents: dict[str, bytes | Path] = {}
    for path in wanted:
        if path not in entries:
            raise _unsigned(path, store)
        data = _document(store, path, entries[path])
        try:
            entries[path].verify_length_and_hashes(data)
        except LengthOrHashMismatchError:
            raise _unsigned(path, store) from None
        documents[path] = data
    return documents


def _document(store: Store, path: str, entry: TargetFile) -> bytes:
    found = signed_revocations(store.home, entry.hashes["sha256"]) if path == REVOKED else None
    return (store.home / path).read_bytes() if found is None else found


def _unsigned(path: str, store: Store) -> StoreError:
    return StoreError(f"{path} is not signed", where=str(store.home), hint="sign it: anklume-images trust sign")


def _member(path: str, source: bytes | Path) -> Member:
    if isinstance(source, bytes):
        return Member(path=path, sha256=hashlib.sha256(source).hexdigest(), size=len(source))
    return Member(path=path, sha256=source.name, size=source.stat().st_size)


def _check_seen(repository: Repository, inventory: Inventory) -> None:
    timestamp = repository.current("timestamp")
    seen = inventory.seen.get(repository.identity, 0)
    if timestamp is not None and seen > timestamp.signed.version:
        raise BundleError(
            f"the target has seen a newer state of this store ({seen}) than this one ({timestamp.signed.version})",
            where=str(repository.folder),
            hint="make the bundle where the newest state is, or sign this one again: anklume-images trust sign --renew",
        )
