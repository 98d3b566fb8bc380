"""The programs that make deltas and apply them, out of an unpacked tree."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from anklume_images.errors import HostError
from anklume_images.files import CHUNK
from anklume_images.linux import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["DECODE", "HostPrograms", "Programs", "program_of", "programs_of", "run_xdelta"]


# What xdelta3 keeps of the earlier file is 64 MiB unless it is told: 80 MB of memory, with this 30, in the same time.
DECODE = ("-d", "-B", str(16 << 20), "-q", "-c")


@dataclass(frozen=True)
class Programs:
    """How each of the programs is run."""

    xdelta: tuple[str, ...]
    unsquashfs: tuple[str, ...]
    mksquashfs: tuple[str, ...]


class HostPrograms(Protocol):
    """The programs of this host."""

    def there(self) -> bool:
        """Whether they can be had without a network."""

    def programs(self) -> Programs:
        """How they are run; their tree is unpacked where it is not yet."""


def program_of(tree: Path, name: str) -> tuple[str, ...]:
    """How to run a program out of an unpacked tree, by the tree's own loader: it needs neither root nor a namespace."""
    loader = next(tree.glob("usr/lib*/ld-linux-*.so.?"), None) or next(tree.glob("usr/lib/*/ld-linux-*.so.?"), None)
    libraries = next(tree.glob("usr/lib/*-linux-gnu"), None)
    if loader is None or libraries is None or not (tree / "usr/bin" / name).exists():
        raise HostError(f"the tree has no {name}", where=str(tree))
    return (str(loader), "--library-path", str(libraries), str(tree / "usr/bin" / name))


def programs_of(tree: Path) -> Programs:
    """Those of an unpacked tree; HostError where it lacks one."""
    return Programs(*(program_of(tree, name) for name in ("xdelta3", "unsquashfs", "mksquashfs")))


def run_xdelta(argv: Sequence[str], take: Callable[[bytes], object] = bytes) -> None:
    """Run xdelta3, which ends with this process, and hand on what it writes to its output."""
    with tempfile.TemporaryFile("w+b") as errors:
        with subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - this command has no threads
        ) as process:
            assert process.stdout is not None  # noqa: S101  asked for above
            while chunk := process.stdout.read(CHUNK):
                take(chunk)
        if process.returncode:
            errors.seek(0)
            said = errors.read(1 << 12).decode(errors="replace").strip()
            raise HostError(f"xdelta3 failed with exit code {process.returncode}: {said or 'it says nothing'}")
