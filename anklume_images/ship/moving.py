"""What names mean in a store, moved to what is new, and back to what they meant where what is done then fails."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from anklume_images.store.generations import TAKEN_BACK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord, ModelRecords
    from anklume_images.store.store import Store

__all__ = ["channel_moved", "freed", "model_named", "reserve"]

_RESERVE = 1 << 18  # bytes; a line of the channels' log and a few small files


@contextlib.contextmanager
def reserve(store: Store) -> Iterator[Path]:
    """A file that takes a little of the disk, to be `freed` where names have to go back because the disk is full."""
    with store.scratch("promote") as scratch:
        file = scratch / "reserve"
        with file.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, _RESERVE)
        yield file


@contextlib.contextmanager
def freed(reserved: Path) -> Iterator[None]:
    """Remove that file where what is done fails: within all whose way back wants it."""
    try:
        yield
    except BaseException:
        reserved.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def channel_moved(images: Images, image: Image, channel: str, *, command: str, why: str) -> Iterator[str | None]:
    """Point a channel at an image, and back where what is done then fails; says where it pointed before."""
    before = images.channels(image.name, image.architecture).get(channel)
    place = (image.name, image.architecture, channel)
    images.set_channel(*place, image.version, command=command, why=why)
    try:
        yield before
    except BaseException as error:
        failed = (str(error).splitlines() or [""])[0] or type(error).__name__
        if images.channels(image.name, image.architecture).get(channel) == image.version:  # and nobody moved it since
            if before is None:
                images.remove_channel(*place, command=TAKEN_BACK, why=failed)
            else:
                images.set_channel(*place, before, command=TAKEN_BACK, why=failed)
        raise


@contextlib.contextmanager
def model_named(record: ModelRecord, records: ModelRecords) -> Iterator[ModelRecord | None]:
    """Let a model's name mean this one, and what it meant before where what is done then fails; says what that was."""
    before = records.get(record.name)
    if before != record:
        records.add(record)
    try:
        yield before
    except BaseException:
        if before is None:
            records.remove(record.name)
        elif before != record:
            records.add(before)
        raise
