"""Paths below another root folder: links lead where they would for a process whose root that is."""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["followed", "names_in"]

_MOST_LINKS = 40  # MAXSYMLINKS of the kernel


def followed(root: Path, path: str) -> str | None:
    """The path at which one ends, without a link in it, still as seen below `root`; None where nothing is there.

    An absolute link begins at `root`, and no `..` leads out of it.
    """
    parts, done, links = deque(path.split("/")), list[str](), 0
    while parts:
        part = parts.popleft()
        if part in ("", "."):
            continue
        if part == "..":
            del done[-1:]
            continue
        try:
            target = os.readlink(root.joinpath(*done, part))
        except OSError as error:
            if error.errno != errno.EINVAL:
                return None
            done.append(part)  # there, and no link
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            done.clear()
        parts.extendleft(reversed(target.split("/")))
    return "/" + "/".join(done)


def names_in(root: Path, folder: str) -> tuple[str, ...]:
    """The names in a folder that `followed` gave; none where it cannot be read."""
    try:
        return tuple(sorted(os.listdir(root / folder.lstrip("/"))))
    except OSError:
        return ()
