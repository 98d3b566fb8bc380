"""Deltas of what is in squashfs files: both are unpacked into a stream, and the later one is packed again.

In a squashfs small files lie together in compressed blocks. One file more moves those that come after it into other
blocks, which come out other than before: a delta of the squashfs as it is has them all. Packed with the same options by
the same program, the same stream makes the same bytes; whoever does it compares them.

The superblock is described in the kernel's Documentation/filesystems/squashfs.rst, its layout in squashfs_fs.h.
"""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from anklume_images.errors import HostError
from anklume_images.linux import die_with_parent
from anklume_images.ship.delta_programs import DECODE
from anklume_images.store.deltas import Packing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anklume_images.ship.delta_programs import Programs

__all__ = ["encode_contents", "packing_of", "repack"]

_SUPERBLOCK = struct.Struct("<4sIIIIHH")  # magic, inodes, time, size of a block, fragments, compressor, its logarithm
_ZSTD = 6
_OPTIONS = struct.Struct("<HI")  # of the compressor: a metadata block's length, the level
_MEMORY = "64M"  # for mksquashfs, whose default is a quarter of the machine's
_QUEUES = ("-da", "16", "-fr", "16")  # MiB that unsquashfs reads ahead
_ENCODE = ("-e", "-1", "-S", "lzma", "-B", str(64 << 20), "-W", str(4 << 20), "-q", "-f")


def packing_of(file: Path) -> Packing | None:
    """How a squashfs was packed, as far as it says; None for another file, or one that is not compressed with zstd."""
    with file.open("rb") as stream:
        head, options = stream.read(96), stream.read(_OPTIONS.size)
    if len(options) < _OPTIONS.size:
        return None
    magic, _, time, block, _, compressor, _ = _SUPERBLOCK.unpack_from(head)
    if magic != b"hsqs" or compressor != _ZSTD:
        return None
    return Packing(block, _OPTIONS.unpack(options)[1], time)


def encode_contents(before: Path, after: Path, scratch: Path, programs: Programs) -> Path:
    """The delta between the contents of two squashfs files, in `scratch`, which needs room for the earlier contents."""
    source, delta = scratch / "earlier", scratch / "contents"
    _unpack(before, source, programs)
    unpacking = [*programs.unsquashfs, "-q", "-n", *_QUEUES, "-pf", "-", str(after)]
    _pipe(unpacking, [*programs.xdelta, *_ENCODE, "-s", str(source), "/dev/stdin", str(delta)])
    source.unlink()
    return delta


def repack(before: Path, delta: Path, packing: Packing, size: int, scratch: Path, programs: Programs) -> Path:
    """The later squashfs, in `scratch`, which needs room for the earlier contents; its hash is yet to be compared.

    `size` is what it has to have, in bytes: a delta that goes on for ever is stopped there.
    """
    source, target = scratch / "earlier", scratch / "later"
    target.unlink(missing_ok=True)
    _unpack(before, source, programs)
    options = ["-noappend", "-no-exports", "-no-progress", "-no-recovery", "-quiet", "-mem", _MEMORY]
    options += ["-b", str(packing.block), "-comp", "zstd", "-Xcompression-level", str(packing.level)]
    _pipe(
        [*programs.xdelta, *DECODE, "-s", str(source), str(delta)],
        [*programs.mksquashfs, "-", str(target), "-pf", "-", *options, "-mkfs-time", str(packing.time)],
        most=size,
    )
    source.unlink()
    return target


def _unpack(file: Path, target: Path, programs: Programs) -> None:
    target.unlink(missing_ok=True)
    _pipe([*programs.unsquashfs, "-q", "-n", *_QUEUES, "-pf", str(target), str(file)])


def _begin(parent: int, most: int) -> None:
    die_with_parent(parent)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _pipe(*programs: Sequence[str], most: int = resource.RLIM_INFINITY) -> None:
    """Run programs, each with the output of the one before as its input; they end with this process.

    The last one writes files of at most so many bytes.
    """
    with tempfile.TemporaryFile("w+b") as said:
        running: list[subprocess.Popen[bytes]] = []
        for argv in programs:
            given = running[-1].stdout if running else subprocess.DEVNULL
            last = len(running) == len(programs) - 1
            limit = most if last else resource.RLIM_INFINITY
            running.append(
                subprocess.Popen(
                    argv,
                    stdin=given,
                    stdout=said if last else subprocess.PIPE,
                    stderr=said,
                    preexec_fn=partial(_begin, os.getpid(), limit),  # noqa: PLW1509 - this command has no threads
                )
            )
            if running[1:]:
                running[-2].stdout.close()  # type: ignore[union-attr]  # so that it ends when its reader has
        codes = [process.wait() for process in running]
        if any(codes):
            said.seek(0)
            text = said.read(1 << 12).decode(errors="replace").strip()
            raise HostError(f"a delta's programs failed with exit codes {codes}: {text or 'they say nothing'}")
