"""Root file systems made out of those of earlier versions: what a store says of its deltas, and how one is applied.

`deltas/<sha256 of the later file>.json` in the store says which there is, and is signed, so that nothing is applied
that nobody vouches for. What comes out is checked like any other blob.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from anklume_images.canonical import parsed
from anklume_images.errors import FetchError, HostError, StoreError
from anklume_images.inputs.partial import disk_error, open_partial
from anklume_images.ship.delta_programs import DECODE, run_xdelta
from anklume_images.ship.repack import repack
from anklume_images.store.blobs import hash_file
from anklume_images.store.deltas import Packing, read_delta
from anklume_images.store.noted import write_noted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anklume_images.inputs.partial import Partial
    from anklume_images.ship.delta_programs import Programs
    from anklume_images.store.blobs import Blobs
    from anklume_images.store.deltas import Delta
    from anklume_images.store.images import Image, Images, StoredFile
    from anklume_images.store.store import Store
    from anklume_images.trust.origin import Origin

__all__ = [
    "DeltaError",
    "SignedDelta",
    "apply_delta",
    "delta_of",
    "delta_path",
    "keep_deltas",
    "offered",
    "parse_delta",
    "signed_delta",
]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class DeltaError(StoreError):
    """A delta, or what it starts from, is not what it should be."""


@dataclass(frozen=True)
class SignedDelta:
    """A VCDIFF file, `sha256` and `size` its own, that makes the blob `later` out of the blob `earlier`.

    With a `packing` it is of what is in these two squashfs files, and what comes out is packed like that.
    """

    earlier: str
    later: str
    sha256: str
    size: int
    packing: Packing | None = None

    def to_bytes(self) -> bytes:
        """The document."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1) + "\n").encode()


def delta_path(later: str) -> str:
    """Where the document is in a store."""
    return f"deltas/{later}.json"


def parse_delta(data: bytes, later: str, where: str) -> SignedDelta:
    """What such a document says; DeltaError when it is none."""
    try:
        document = parsed(data)
        packing = Packing(**found) if (found := document.pop("packing", None)) else None
        delta = SignedDelta(**document, packing=packing)
        hashes = (delta.earlier, delta.later, delta.sha256)
        numbers = (delta.size, *(asdict(packing).values() if packing else ()))
        sound = delta.later == later and all(_SHA256.fullmatch(one) for one in hashes)
        sound &= all(type(number) is int and number >= 0 for number in numbers)
    except (ValueError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DeltaError(f"{delta_path(later)} describes no delta", where=where, hint="do not use it")
    return delta


def delta_of(
    images: Images, image: Image, has: Callable[[StoredFile], bool], *, contents: bool = True
) -> SignedDelta | None:
    """The delta that this store has of an image for one that `has` the file that it starts from.

    One between contents is of use to one that packs like this host only: `contents` says whether it does.
    """
    delta = read_delta(images.folder(image.name, image.version, image.architecture))
    base = images.get(image.name, delta.base, image.architecture) if delta else None
    if delta is None or base is None or not has(base.rootfs):
        return None
    return signed_delta(base.rootfs.sha256, image.rootfs.sha256, delta if contents else replace(delta, contents=None))


def signed_delta(earlier: str, later: str, delta: Delta) -> SignedDelta:
    """What is told to others of a delta that this store has: the one between contents, where there is one."""
    if delta.contents:
        return SignedDelta(earlier, later, delta.contents.sha256, delta.contents.size, delta.contents.packing)
    return SignedDelta(earlier, later, delta.sha256, delta.size)


def offered(origin: Origin, image: Image) -> SignedDelta | None:
    """The delta that another store has of an image, as it was signed there, if it has one."""
    path = delta_path(image.rootfs.sha256)
    if not origin.has(path):
        return None
    try:
        return parse_delta(origin.document(path), image.rootfs.sha256, str(origin.place))
    except (StoreError, FetchError):  # made anew and yet to be signed, or gone: the image itself is another matter
        return None


def keep_deltas(store: Store, deltas: Iterable[SignedDelta]) -> None:
    """Write their documents into the store, to be signed; those of deltas that gc has removed go."""
    for path in (store.home / "deltas").glob("*.json"):
        delta = parse_delta(path.read_bytes(), path.stem, str(store.home))
        if not store.blobs.has(delta.sha256):
            path.unlink(missing_ok=True)
    for delta in deltas:
        write_noted(store.home, store.home / delta_path(delta.later), delta.to_bytes())


def apply_delta(delta: SignedDelta, size: int, store: Store, programs: Programs) -> None:
    """Make the later blob, of `size` bytes, of the earlier one, which is read against its hash first.

    DeltaError where what it starts from is damaged or another file comes out; HostError where a program fails;
    StoreError where the store cannot be written.
    """
    blobs = store.blobs
    try:
        if not blobs.verify(delta.earlier):
            raise DeltaError(
                "the earlier file that a delta starts from is damaged",
                where=str(blobs.path(delta.earlier)),
                hint="anklume-images verify says what it belongs to; or have a bundle made without --for",
            )
        if delta.packing:
            _repack(delta, delta.packing, size, store, programs)
        else:
            _decode(delta, size, blobs, programs)
    except OSError as error:
        raise disk_error(error, store.home, size) from error


def _repack(delta: SignedDelta, packing: Packing, size: int, store: Store, programs: Programs) -> None:
    earlier, file = store.blobs.path(delta.earlier), store.blobs.path(delta.sha256)
    with store.scratch("repack") as scratch:
        made = repack(earlier, file, packing, size, scratch, programs)
        if hash_file(made) != delta.later:
            raise _another(delta, store.blobs)
        store.blobs.adopt(made, delta.later)


def _decode(delta: SignedDelta, size: int, blobs: Blobs, programs: Programs) -> None:
    with open_partial(blobs, delta.later, size, advance=lambda _step: None, wait=time.sleep) as part:
        if blobs.has(delta.later, size):
            return
        part.reset()
        try:
            _append(delta, size, blobs, programs, part)
        except (DeltaError, HostError, OSError):
            part.reset()  # it is no beginning of the file that a fetch could go on from
            raise
        blobs.adopt(part.path, delta.later)


def _append(delta: SignedDelta, size: int, blobs: Blobs, programs: Programs, part: Partial) -> None:
    source, file = blobs.path(delta.earlier), blobs.path(delta.sha256)

    def take(data: bytes) -> None:
        if part.length + len(data) > size:
            raise _another(delta, blobs)
        part.append(data)

    run_xdelta([*programs.xdelta, *DECODE, "-s", str(source), str(file)], take)
    if part.hexdigest() != delta.later:
        raise _another(delta, blobs)


def _another(delta: SignedDelta, blobs: Blobs) -> DeltaError:
    where = str(blobs.path(delta.sha256))
    return DeltaError(f"the delta to {delta.later} makes another file", where=where, hint="do not use it")
