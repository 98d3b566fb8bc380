"""A bundle taken into a store: blobs as they stream by, and only after all of it was checked what makes them count."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.bundle.index import BundleError
from anklume_images.bundle.infra import infra_path
from anklume_images.errors import StoreError
from anklume_images.inputs.partial import disk_error, open_partial
from anklume_images.ship.by_delta import apply_delta
from anklume_images.ship.moving import channel_moved, freed, model_named, reserve
from anklume_images.ship.wanted import drop_damaged
from anklume_images.store.models import ModelRecords
from anklume_images.store.noted import write_noted
from anklume_images.trust.attest import add_attestation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anklume_images.bundle.checked import Checked, Opened
    from anklume_images.bundle.index import Member
    from anklume_images.bundle.reader import Progress
    from anklume_images.inputs.partial import Partial
    from anklume_images.ship.delta_programs import Programs
    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store

__all__ = ["Moves", "Received", "ReceivedImage", "ReceivedModel", "receive"]

_MARGIN = 64 << 20  # bytes of the disk that are left to others


@dataclass(frozen=True)
class ReceivedImage:
    """What became of an image: `channels` are those that were moved, each with the version before, if any."""

    image: Image
    new: bool
    channels: dict[str, str | None]


@dataclass(frozen=True)
class ReceivedModel:
    """What became of a model: new, changed (another file under its name), or here."""

    record: ModelRecord
    state: str


@dataclass(frozen=True)
class Received:
    """What an import did; `bytes` are those that were new here."""

    images: tuple[ReceivedImage, ...]
    models: tuple[ReceivedModel, ...]
    infra: tuple[str, ...]
    bytes: int


@dataclass(frozen=True)
class Moves:
    """Which channel an import moves, in place of those that the bundle has, or that it moves `none`; and why."""

    channel: str | None = None
    why: str = ""
    none: bool = False


def receive(
    opened: Opened,
    checked: Checked,
    images: Images,
    store: Store,
    progress: Progress,
    moves: Moves | None = None,
    programs: Callable[[], Programs] | None = None,
    sign: Callable[[], object] | None = None,
) -> Received:
    """Take all of it; BundleError where it is damaged, or leaves out what is not here. Nothing appears then.

    `programs` are asked for where a delta is to be applied. `sign` is called when all has appeared; where it fails,
    channels and the names of models mean again what they meant.

    Blobs that have arrived are kept, so after any end the next run goes on from there.
    """
    blobs = store.blobs
    with store.lease() as lease:
        lease.add(checked.blobs)  # before the look: what is there then, stays
        _check_here(checked.blobs, store, progress)
        new = {sha256: size for sha256, size in checked.blobs.items() if not blobs.has(sha256, size)}
        lease.add(delta.earlier for delta in checked.deltas.values())
        _check_complete(checked, store)
        _check_space(store, new)
        taker = _Taker(opened, store, progress)
        members = opened.contents.members
        progress.start(sum(member.size for member in members), len(members), "importing")
        try:
            for member in opened.rest():
                taker.take(member)
        finally:
            progress.finish()
        for later, delta in checked.deltas.items():
            if programs is not None and not blobs.has(later, checked.blobs[later]):
                apply_delta(delta, checked.blobs[later], store, programs())
        with contextlib.ExitStack() as stack:
            reserved = stack.enter_context(reserve(store)) if sign else None
            received = _appear(checked, images, store, sum(new.values()), moves or Moves(), stack)
            if sign and reserved:
                with freed(reserved):
                    sign()
        return received


def _check_here(blobs: Mapping[str, int], store: Store, progress: Progress) -> None:
    """Read what is here already, and remove what has other bytes than its name says."""
    here = {sha256: size for sha256, size in blobs.items() if store.blobs.has(sha256, size)}
    if here:
        progress.start(sum(here.values()), len(here), "checking what is here")
        try:
            for sha256, size in here.items():
                drop_damaged({sha256: size}, store)
                progress.advance(size)
        finally:
            progress.finish()


def _check_complete(checked: Checked, store: Store) -> None:
    missing = checked.lacking(store.blobs)
    if missing:
        files = "a file" if len(missing) == 1 else f"{len(missing)} files"
        raise BundleError(
            f"it leaves out {files} that this host lacks: it was made for another one, or for an earlier state of this",
            where=str(checked.origin.place),
            hint="anklume-images bundle needs says what is here; have a bundle made --for that",
        )


def _check_space(store: Store, new: dict[str, int]) -> None:
    arrived = sum(path.stat().st_size for sha256 in new if (path := store.blobs.partial / f"{sha256}.part").exists())
    needed, free = sum(new.values()) - arrived, shutil.disk_usage(store.home).free
    if needed + _MARGIN > free:
        raise StoreError(
            f"the disk is too full: {needed >> 20} MiB are needed, {free >> 20} MiB are free",
            where=str(store.home),
            hint="free some space: anklume-images gc, or name a store on a larger disk with --store",
        )


class _Taker:
    def __init__(self, opened: Opened, store: Store, progress: Progress) -> None:
        self._reader = opened.reader
        self._blobs = store.blobs
        self._home = store.home
        self._progress = progress

    def take(self, member: Member) -> None:
        """Take a blob, or read past what is here or is no blob."""
        if member.kind != "blob" or self._blobs.has(member.sha256, member.size):
            self._past(member)
            return
        try:
            with open_partial(
                self._blobs, member.sha256, member.size, advance=lambda _step: None, wait=time.sleep
            ) as part:
                if self._blobs.has(member.sha256, member.size):  # another process had it meanwhile
                    self._past(member)
                    return
                self._fill(member, part)
        except OSError as error:
            raise disk_error(error, self._home, member.size) from error

    def _past(self, member: Member) -> None:
        self._reader.pour(member, lambda data: self._progress.advance(len(data)))

    def _fill(self, member: Member, part: Partial) -> None:
        """What an earlier run has left is not written again; its bytes here are only checked."""
        part.read_back(lambda: None)
        digest = hashlib.sha256() if part.length else None
        passed, source = 0, self._reader.source
        for data in source.chunks(member.size, member.path):
            if digest:
                digest.update(data)
            if passed + len(data) > part.length:
                part.append(data[max(0, part.length - passed) :])
            passed += len(data)
            self._progress.advance(len(data))
        sound = part.hexdigest() == member.sha256
        if not sound:
            part.reset()
        if not sound or (digest and digest.hexdigest() != member.sha256):
            raise BundleError(
                f"{member.path} is damaged",
                where=source.part,
                hint="copy it again; what was read before it is kept, so run this again then",
            )
        self._reader.end(member)
        self._blobs.adopt(part.path, member.sha256)


def _appear(
    checked: Checked, images: Images, store: Store, size: int, moves: Moves, stack: contextlib.ExitStack
) -> Received:
    """Images and models, then channels: each names only what is whole. The stack takes back what names mean."""
    before = [images.present(image.name, image.version, image.architecture) for image, _ in checked.images]
    for image, documents in checked.images:
        images.add(image, documents)
    for image, data in checked.attestations:
        add_attestation(store.home, image, data, str(checked.origin.place))
    models = tuple(_add_model(record, store, stack) for record in checked.models)
    for name, data in checked.infra:
        write_noted(store.home, store.home / infra_path(name), data)
    if checked.tool:  # which keeps its packages from gc
        write_noted(store.home, store.home / checked.tool.path, checked.tool.to_bytes())
    done = []
    for (image, _), existing in zip(checked.images, before, strict=True):
        here = images.channels(image.name, image.architecture)
        theirs = checked.origin.channels(image.name, image.architecture)
        wanted = {} if moves.none else theirs if moves.channel is None else {moves.channel: image.version}
        moved = {
            channel: here.get(channel)
            for channel, version in sorted(wanted.items())
            if version == image.version != here.get(channel)
        }
        for channel in moved:
            stack.enter_context(channel_moved(images, image, channel, command="bundle import", why=moves.why))
        done.append(ReceivedImage(image, existing is None, moved))
    return Received(tuple(done), models, tuple(name for name, _ in checked.infra), size)


def _add_model(record: ModelRecord, store: Store, stack: contextlib.ExitStack) -> ReceivedModel:
    existing = stack.enter_context(model_named(record, ModelRecords(store)))
    return ReceivedModel(record, "new" if existing is None else "here" if existing == record else "changed")
