"""The list of a store's own documents that nothing else vouches for: `SHA256SUMS` in its folder, by their paths.

It has the signed metadata, revocations, attestations, what is believed of other stores, locks of infra.yml files,
the tool, deltas, and the index for Incus and people. What is not in it was written by an earlier program; a file of it
that was removed by hand is no damage. Whoever writes such files excludes others who would write the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from typing import TYPE_CHECKING

from anklume_images.files import write_atomic
from anklume_images.store.blobs import hash_file
from anklume_images.store.sums import SUMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["noted", "noted_problems", "write_noted"]

_FILES = (
    *("revoked.json", "index.html", "cache/index.json", "streams/v1/*.json", "metadata/**/*.json", "infra/*.json"),
    *("tool/*.json", "deltas/*.json", "attestations/**/*.json", "trust/*/**/*.json", "trust/*/*.pem"),
)
_LINE = re.compile(rb"([0-9a-f]{64})  ([^\n/][^\n]*)\n", re.DOTALL)


@contextlib.contextmanager
def noted(home: Path, *places: Path) -> Iterator[None]:
    """Write these files, or files in these folders, and have their hashes in the list of the store at `home`.

    The list does without them meanwhile, so that a kill leaves nothing that looks damaged. A file that stays as it is
    keeps the hash that it had.
    """
    before: dict[str, tuple[bytes, object]] = {}

    def taken_out(lines: list[bytes]) -> list[bytes]:
        for line in lines:
            if path := _named(home, line, places):
                before[str(path)] = line, _stamp(path)
        return [line for line in lines if not _named(home, line, places)]

    def put_in(lines: list[bytes]) -> list[bytes]:
        new = []
        for path in sorted(_listable(home)):
            if _is_of(path, places):
                line, stamp = before.get(str(path), (b"", None))
                name = path.relative_to(home).as_posix()
                same = line and stamp == _stamp(path)
                new.append(line if same else f"{hash_file(path)}  {name}\n".encode("utf-8", "surrogateescape"))
        others = [line for line in lines if not _named(home, line, places)]
        return sorted([*others, *new], key=lambda line: line[66:])

    _edit(home, taken_out)
    try:
        yield
    finally:
        _edit(home, put_in)


def write_noted(home: Path, path: Path, data: bytes) -> None:
    """Write or replace one such file, by atomic rename."""
    with noted(home, path):
        write_atomic(path, data)


def noted_problems(home: Path) -> list[tuple[Path, str]]:
    """Each file of the list that is not what it was, with what is wrong; the list itself where that is wrong."""
    lines = _lines(home)
    problems = [(line, *problem) for number, line in enumerate(lines, 1) if (problem := _problem(home, line, number))]
    still = set(_lines(home)) if problems else set()  # without what was written anew meanwhile
    return [(path, text) for line, path, text in problems if line in still]


def _problem(home: Path, line: bytes, number: int) -> tuple[Path, str] | None:
    wrong = home / SUMS, f"{SUMS}:{number} is not as it was written"
    match = _LINE.fullmatch(line)
    if match is None or b"\0" in line:
        return wrong
    sha256, path = match[1].decode(), _path(home, match[2])
    try:
        if hash_file(path) == sha256:
            return None
    except FileNotFoundError:  # removed, unless a file of these bytes is there by another name
        named = {_path(home, other[2]) for one in _lines(home) if (other := _LINE.fullmatch(one)) and b"\0" not in one}
        lost = any(hash_file(other) == sha256 for other in _listable(home) if other not in named)
        return wrong if lost else None
    except OSError as error:
        return path, f"{path.relative_to(home)} cannot be read: {error.strerror}"
    return path, f"{path.relative_to(home)} or its hash in {SUMS} was changed"


def _listable(home: Path) -> Iterator[Path]:
    for pattern in _FILES:
        yield from (path for path in home.glob(pattern) if path.name[0] != "." and path.is_file())


def _named(home: Path, line: bytes, places: tuple[Path, ...]) -> Path | None:
    """The file that a line is about, if it is one of these or in these."""
    match = _LINE.fullmatch(line)
    path = _path(home, match[2]) if match else None
    return path if path and _is_of(path, places) else None


def _is_of(path: Path, places: tuple[Path, ...]) -> bool:
    return any(path == place or place in path.parents for place in places)


def _path(home: Path, name: bytes) -> Path:
    return home / name.decode("utf-8", "surrogateescape")


def _stamp(path: Path) -> object:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _lines(home: Path) -> list[bytes]:
    try:
        return (home / SUMS).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []


def _edit(home: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    with (home / "sums.lock").open("a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        for left in home.glob(f".{SUMS}.*"):  # of a writer that was killed
            left.unlink(missing_ok=True)
        before = _lines(home)
        after = change(before)
        if after != before:
            write_atomic(home / SUMS, b"".join(after))
