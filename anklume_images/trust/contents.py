"""What of a store is signed: the documents of its images and models, its channels, their history, its promotions, its
revocations.

Blobs hang off the documents by their sha256, so they need no entry of their own. A channel's entry has its version in
`custom`, as whoever reads it could otherwise find a later one than was signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuf.api.metadata import TargetFile

from anklume_images.store.promotion_log import HEAD as PROMOTIONS
from anklume_images.trust.revoked import FILE as REVOKED
from anklume_images.trust.revoked import revocations_to_sign

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.images import Images
    from anklume_images.store.store import Store
    from anklume_images.trust.repository import Repository

__all__ = ["DOCUMENTS", "channel_path", "signed_contents", "with_record"]

# Below the store's home; what is beside them concerns nobody else.
DOCUMENTS = (
    "images/*/*/*/*.json",
    "models/*.json",
    "infra/*.json",
    "tool/*.json",
    "deltas/*.json",
    "attestations/*/*/*/*.json",
    "history/channels.head",
    PROMOTIONS,
)


def channel_path(name: str, architecture: str, channel: str) -> str:
    """The path of a channel's entry."""
    return f"channels/{name}/{architecture}/{channel}"


def signed_contents(store: Store, images: Images) -> dict[str, TargetFile]:
    """The entries by their paths below the store's home."""
    entries: dict[str, TargetFile] = {}
    for path in _documents(store.home):
        target = path.relative_to(store.home).as_posix()
        entries[target] = _entry(store, target)
    if (store.home / (revoked := revocations_to_sign(store.home))).exists():
        entries[REVOKED] = _entry(store, REVOKED, revoked)
    for folder in sorted(store.home.glob("channels/*/*")):
        name, architecture = folder.parts[-2:]
        for channel, version in images.channels(name, architecture).items():
            target = channel_path(name, architecture, channel)
            entry = TargetFile.from_data(target, f"{version}\n".encode(), ["sha256"])
            entry.unrecognized_fields["custom"] = {"version": version}
            entries[target] = entry
    return entries


def with_record(repository: Repository, store: Store) -> dict[str, TargetFile]:
    """The entries that are signed already, with the log of promotions as it is now."""
    current = repository.current("targets")
    return {**(current.signed.targets if current else {}), PROMOTIONS: _entry(store, PROMOTIONS)}


def _entry(store: Store, target: str, path: str | None = None) -> TargetFile:
    return TargetFile.from_data(target, (store.home / (path or target)).read_bytes(), ["sha256"])


def _documents(home: Path) -> Iterator[Path]:
    for pattern in DOCUMENTS:
        yield from (path for path in sorted(home.glob(pattern)) if path.name[0] != ".")
