"""The hashes of files that have no name by their content: `SHA256SUMS` beside them, which `sha256sum -c` reads too.

An image's folder has one for its documents, an unpacked tree one for all its files. A file that came later is in
neither and is not looked at.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.files import write_atomic
from anklume_images.store.blobs import hash_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["SUMS", "damaged_files", "replace_document", "write_sums", "write_tree_sums"]

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([^\n/][^\n]*)", re.DOTALL)


def write_sums(folder: Path) -> None:
    """Hash every document in an image's folder."""
    _write(folder, sorted(path.name for path in folder.glob("*.json")))


def replace_document(folder: Path, name: str, data: bytes) -> None:
    """Write a document that comes after the others; what the list says of those stays as it is.

    The list does without it while it changes, so that a kill leaves nothing that looks damaged.
    """
    path = folder / SUMS
    end = f"  {name}\n".encode()
    others = [line for line in path.read_bytes().splitlines(keepends=True) if not line.endswith(end)]
    write_atomic(path, b"".join(others))
    write_atomic(folder / name, data)
    write_atomic(path, b"".join([*others, hashlib.sha256(data).hexdigest().encode() + end]))


def write_tree_sums(folder: Path) -> None:
    """Hash every file in an unpacked tree, links left out."""
    _write(folder, sorted(_files(folder)))


def damaged_files(folder: Path) -> list[str]:
    """One line for each file of the list that is not what it was, and for what is wrong with the list."""
    try:
        data = (folder / SUMS).read_bytes()
    except FileNotFoundError:
        return [f"{SUMS} is missing"]
    problems = []
    *lines, rest = data.decode("utf-8", errors="surrogateescape").split("\n")
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        problem = _problem(folder / match[2], match[1]) if match else None
        if match is None:
            problems.append(f"{SUMS}:{number} is not as it was written")
        elif problem:
            problems.append(f"{_shown(match[2])} {problem}")
    return problems + ([f"{SUMS} was changed or cut"] if rest or not lines else [])


def _problem(path: Path, sha256: str) -> str | None:
    try:
        return None if hash_file(path) == sha256 else f"or its hash in {SUMS} was changed"
    except OSError as error:
        return "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    except ValueError:  # a NUL in its name
        return f"is no name in {SUMS}"


def _shown(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write(folder: Path, names: Iterable[str]) -> None:
    lines = [f"{hash_file(folder / name)}  {name}\n" for name in names]
    write_atomic(folder / SUMS, "".join(lines).encode("utf-8", "surrogateescape"))


def _files(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            relative = str(path.relative_to(folder))
            if path.is_file() and not path.is_symlink() and "\n" not in relative and relative != SUMS:
                yield relative
