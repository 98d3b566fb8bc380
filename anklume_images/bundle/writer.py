"""A bundle written: every file is checked against its hash as it goes in."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.bundle.index import BLOCK, END, FILE, header
from anklume_images.errors import AnklumeError, StoreError
from anklume_images.files import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.bundle.gather import Gathered
    from anklume_images.bundle.index import Member
    from anklume_images.bundle.parts import PartsSink, Sink
    from anklume_images.bundle.reader import Progress

__all__ = ["write_bundle"]


def write_bundle(gathered: Gathered, sink: Sink | PartsSink, progress: Progress) -> None:
    """Write it; StoreError where a file of the store is damaged, and then nothing is left."""
    contents = gathered.contents

    def write(data: bytes) -> None:
        try:
            sink.write(data)
        except OSError as error:
            raise _medium_error(error, sink) from error
        progress.advance(len(data))

    progress.start(contents.size, len(contents.members), "writing")
    try:
        index = contents.to_bytes()
        write(header(FILE, len(index)) + index + bytes(-len(index) % BLOCK))
        for member in contents.members:
            write(header(member.path, member.size))
            source = gathered.sources[member.path]
            if isinstance(source, Path):
                _pour(member, source, write)
            else:
                write(source)
            write(bytes(member.padding))
        write(END)
        sink.finish()
    except BaseException:
        sink.abandon()
        raise
    finally:
        progress.finish()


def _medium_error(error: OSError, sink: Sink | PartsSink) -> AnklumeError:
    """What to tell when no more can be written there."""
    hints = {
        errno.EFBIG: "its file system takes no file of that size: add --split 4GiB",
        errno.ENOSPC: "free some space there, name another --output, or leave out what the target has (--for)",
    }
    if isinstance(error, BrokenPipeError):
        raise error
    return AnklumeError(
        f"it cannot be written: {error.strerror or error}", where=str(sink), hint=hints.get(error.errno or 0)
    )


def _pour(member: Member, path: Path, write: Callable[[bytes], None]) -> None:
    digest, length = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            length += len(data)
            if length > member.size:
                break
            write(data)
    if length != member.size or digest.hexdigest() != member.sha256:
        raise StoreError(
            "a file of the store is damaged", where=str(path), hint="anklume-images verify says what it belongs to"
        )
