"""Deltas in a bundle for one host: what makes a file of a later version out of the one that the host has.

`deltas/<sha256 of the later file>.json` in the store says which, and is signed, so that nothing is applied that nobody
vouches for. What comes out is checked like any other blob.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anklume_images.bundle.index import BundleError
from anklume_images.files import write_atomic
from anklume_images.inputs.partial import open_partial
from anklume_images.ship.deltas import run_xdelta
from anklume_images.store.deltas import read_delta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anklume_images.bundle.needs import Inventory
    from anklume_images.store.blobs import Blobs
    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["BundledDelta", "apply_delta", "delta_path", "deltas_for", "keep_deltas", "parse_delta"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def delta_path(later: str) -> str:
    """Where the document is in a store."""
    return f"deltas/{later}.json"


@dataclass(frozen=True)
class BundledDelta:
    """A VCDIFF file, `sha256` and `size` its own, that makes the blob `later` out of the blob `earlier`."""

    earlier: str
    later: str
    sha256: str
    size: int

    def to_bytes(self) -> bytes:
        """The document."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1) + "\n").encode()


def parse_delta(data: bytes, later: str, where: str) -> BundledDelta:
    """What such a document says; BundleError when it is none."""
    try:
        delta = BundledDelta(**json.loads(data))
        hashes = (delta.earlier, delta.later, delta.sha256)
        sound = delta.later == later and all(_SHA256.fullmatch(one) for one in hashes) and delta.size >= 0
    except (ValueError, TypeError):
        sound = False
    if not sound:
        raise BundleError(f"{delta_path(later)} describes no delta", where=where, hint="do not use it")
    return delta


def deltas_for(images: Images, chosen: Iterable[Image], inventory: Inventory) -> Iterator[BundledDelta]:
    """The deltas of the store by which a host that has earlier versions needs less."""
    for image in chosen if inventory.deltas else ():
        delta = read_delta(images.folder(image.name, image.version, image.architecture))
        base = images.get(image.name, delta.base, image.architecture) if delta else None
        if delta is None or base is None or image.rootfs.sha256 in inventory.blobs:
            continue
        if inventory.blobs.get(base.rootfs.sha256) == base.rootfs.size and delta.size < image.rootfs.size:
            yield BundledDelta(base.rootfs.sha256, image.rootfs.sha256, delta.sha256, delta.size)


def keep_deltas(store: Store, deltas: Iterable[BundledDelta]) -> None:
    """Write their documents into the store, to be signed; those of deltas that gc has removed go."""
    for path in (store.home / "deltas").glob("*.json"):
        delta = parse_delta(path.read_bytes(), path.stem, str(store.home))
        if not store.blobs.has(delta.sha256):
            path.unlink()
    for delta in deltas:
        write_atomic(store.home / delta_path(delta.later), delta.to_bytes())


def apply_delta(delta: BundledDelta, size: int, blobs: Blobs, xdelta: Sequence[str]) -> None:
    """Make the later blob, of `size` bytes, of the earlier one, which is read against its hash first."""
    if not blobs.verify(delta.earlier):
        raise BundleError(
            "the earlier file that a delta starts from is damaged",
            where=str(blobs.path(delta.earlier)),
            hint="anklume-images verify says what it belongs to; or have a bundle made without --for",
        )
    with open_partial(blobs, delta.later, size, advance=lambda _step: None, wait=time.sleep) as part:
        if blobs.has(delta.later, size):
            return
        part.reset()

        def take(data: bytes) -> None:
            if part.length + len(data) > size:
                raise BundleError(f"the delta to {delta.later} makes too much", where=str(blobs.path(delta.sha256)))
            part.append(data)

        source, file = blobs.path(delta.earlier), blobs.path(delta.sha256)
        run_xdelta([*xdelta, "-d", "-q", "-c", "-s", str(source), str(file)], take)
        if part.hexdigest() != delta.later:
            part.reset()
            raise BundleError(f"the delta to {delta.later} makes another file", where=str(file), hint="do not use it")
        blobs.adopt(part.path, delta.later)
