"""What a host has already: a small file that it sends, so that a bundle for it leaves that out."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

from anklume_images.bundle.index import BundleError
from anklume_images.canonical import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.store.store import Store

__all__ = ["Inventory", "read_inventory", "take_inventory"]

SCHEMA = 1
STANDARD_INPUT = Path("-")
_LIMIT = 64 << 20


@dataclass(frozen=True)
class Inventory:
    """Blobs (sizes by sha256), how new a state was seen of stores (by fingerprint), and what applies deltas there.

    `tree` is the digest of the tree with these programs, empty where it is not there.
    """

    blobs: Mapping[str, int]
    seen: Mapping[str, int]
    tree: str = ""

    def _document(self) -> dict[str, Any]:
        return {"blobs": dict(self.blobs), "seen": dict(self.seen), "tree": self.tree}

    def to_bytes(self) -> bytes:
        """The file."""
        document = {"schema": SCHEMA} | self._document()
        return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()

    @property
    def digest(self) -> str:
        """What a bundle knows it by: the sha256 of what it says."""
        return hashlib.sha256(canonical(self._document())).hexdigest()


def take_inventory(store: Store, *, tree: str = "") -> Inventory:
    """What a store has; its files are not read. `tree` is what this host applies deltas with."""
    blobs = {sha256: store.blobs.path(sha256).stat().st_size for sha256 in store.blobs}
    seen = {}
    for folder in sorted((store.home / "trust").glob("*/")):
        try:
            identity = json.loads((folder / "origin.json").read_bytes())["identity"]
            seen[identity] = Metadata[Any].from_bytes((folder / "timestamp.json").read_bytes()).signed.version
        except (OSError, ValueError, KeyError, RepositoryError):  # nothing was seen of it yet
            continue
    return Inventory(blobs, seen, tree)


def read_inventory(path: Path) -> Inventory:
    """The inventory in a file, or that comes on standard input (`-`); BundleError when there is none in it."""
    try:
        with path.open("rb") if path != STANDARD_INPUT else contextlib.nullcontext(sys.stdin.buffer) as stream:
            document = json.loads(stream.read(_LIMIT))
        if document["schema"] != SCHEMA:
            raise BundleError(
                f"an inventory of schema {document['schema']}, this program knows {SCHEMA}",
                where=str(path),
                hint="update anklume-images",
            )
        blobs, seen = document["blobs"], document["seen"]
        return Inventory(
            {key: int(blobs[key]) for key in blobs}, {key: int(seen[key]) for key in seen}, str(document["tree"])
        )
    except OSError as error:
        raise BundleError(f"it cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BundleError(
            "this is no inventory", where=str(path), hint="the target makes it: anklume-images bundle needs"
        ) from None
