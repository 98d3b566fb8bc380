"""What `build` answered before: asked the same of the same specs, locks and program, it need not read them again.

`cache/answers.json` in the store has, by question, the images that were there with nothing to be done. A question is a
hash of what was asked and of every file that has a say in it, by its path, size, inode and times, as git tells whether
a file changed. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

__all__ = ["Answers"]

_SCHEMA = 1
_MOST = 32
_SETTLED_NS = 2_000_000_000  # a file may change again without its times showing it, as long as a clock's tick
_PROGRAM = Path(__file__).resolve().parent


class Answers:
    """The answers to one question of a store; `asked` is everything that a person said, and the architecture."""

    def __init__(self, store: Store, images: Images, folders: Iterable[Path], asked: Sequence[object]) -> None:
        self._cache = store.home / "cache" / "answers.json"
        self._images = images
        read = list(_files([_PROGRAM, *folders, store.home / "locks", store.home / "channels"]))
        self._settled = all(changed < time.time_ns() - _SETTLED_NS for *_, changed in read)
        self._question = hashlib.sha256(json.dumps([*asked, *read]).encode()).hexdigest()

    def recall(self) -> list[Image] | None:
        """The images, where all are there still."""
        found = [self._images.present(*row) for row in self._known().get(self._question, [])]
        images = [image for image in found if image]
        return images if images and len(images) == len(found) else None

    def keep(self, images: Iterable[Image]) -> None:
        """Remember that these were there, and nothing was to be done."""
        if not self._settled or not os.access(self._cache.parent.parent, os.W_OK):
            return
        others = {question: rows for question, rows in self._known().items() if question != self._question}
        kept = dict(list(others.items())[-_MOST + 1 :])
        kept[self._question] = [(image.name, image.version, image.architecture) for image in images]
        with contextlib.suppress(OSError):  # the disk is full: it is a cache
            write_atomic(self._cache, json.dumps({"schema": _SCHEMA, "answers": kept}).encode())

    def _known(self) -> dict[str, list[tuple[str, str, str]]]:
        """What the cache holds; nothing when it is missing, damaged or of another program."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            document = json.loads(self._cache.read_bytes())
            if document["schema"] == _SCHEMA:
                answers = document["answers"].items()
                return {question: [(name, version, arch) for name, version, arch in rows] for question, rows in answers}
        return {}


def _files(folders: Iterable[Path]) -> Iterator[tuple[str, int, int, int, int]]:
    """Path, size, inode and times of every file below the folders, in order; the last is when it changed at all."""
    for folder in folders:
        for place, names, files in os.walk(folder):
            names[:] = sorted(name for name in names if name != "__pycache__")
            for name in sorted(files):
                path = f"{place}/{name}"
                with contextlib.suppress(FileNotFoundError):
                    status = os.stat(path)
                    yield path, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
