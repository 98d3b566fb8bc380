"""The hashes of an image's documents, in its folder: `SHA256SUMS`, which `sha256sum -c` reads too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anklume_images.files import write_atomic
from anklume_images.store.blobs import hash_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SUMS", "damaged_documents", "write_sums"]

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")


def write_sums(folder: Path) -> None:
    """Hash every document that is in an image's folder."""
    lines = [f"{hash_file(path)}  {path.name}\n" for path in sorted(folder.glob("*.json"))]
    write_atomic(folder / SUMS, "".join(lines).encode())


def damaged_documents(folder: Path) -> list[str]:
    """One line for each document of an image that is not what it was; documents that came later are not in the list."""
    try:
        text = (folder / SUMS).read_bytes().decode("ascii", errors="replace")
    except FileNotFoundError:
        return [f"{SUMS} is missing"]
    problems = []
    listed: set[str] = set()
    for line in text.removesuffix("\n").split("\n"):
        match = _LINE.fullmatch(line)
        if match is None:
            problems.append(f"{SUMS} has a line that is none: {line!r}")
            continue
        listed.add(match[2])
        try:
            sound = hash_file(folder / match[2]) == match[1]
        except FileNotFoundError:
            problems.append(f"{match[2]} is missing")
            continue
        if not sound:
            problems.append(f"{match[2]} or its hash in {SUMS} was changed")
    if "manifest.json" not in listed or not text.endswith("\n"):
        problems.append(f"{SUMS} was changed or cut")
    return problems
