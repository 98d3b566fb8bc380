"""A log whose lines are chained: each has the sha256 of the line before, and a head says how many of them count.

    <name>.jsonl  one canonical JSON line for each record
    <name>.head   how many lines count, their bytes, and the sha256 of the last
    <name>.lock   held while something is added

A line is appended first, and counts when the head does that has it. One behind the head is of a killed command, and is
cut off by the next.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from anklume_images.canonical import canonical
from anklume_images.errors import StoreError
from anklume_images.files import fsync_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["Break", "Chain", "Head", "caller", "now"]

NOTHING = "0" * 64  # what the first line has in place of a hash
_LONGEST = 1 << 16  # bytes of a line


class Record(Protocol):
    """What a line tells of."""

    @property
    def previous(self) -> str:
        """The sha256 of the line before."""

    def line(self) -> bytes:
        """The line as it stands in the log, with its end."""


_Record = TypeVar("_Record", bound=Record)


@dataclass(frozen=True)
class Head:
    """What counts of a log: so many lines of so many bytes, and the sha256 of the last one."""

    lines: int = 0
    size: int = 0
    sha256: str = NOTHING

    def document(self) -> bytes:
        """The head's file; whoever signs the log signs these bytes, which stand for every line of it."""
        return canonical(asdict(self)) + b"\n"

    def advanced(self, line: bytes) -> Head:
        """The head when one more line counts."""
        return Head(self.lines + 1, self.size + len(line), _digest(line))


@dataclass(frozen=True)
class Break:
    """Where a log is not as it was written: the line, from 1, and what is wrong there."""

    line: int
    problem: str


class Chain:
    """The log `name` in a folder; `what` says in words what it is a log of."""

    def __init__(self, folder: Path, name: str, what: str) -> None:
        self.folder = folder
        self.path = folder / f"{name}.jsonl"
        self.head_path = folder / f"{name}.head"
        self._lock_path = folder / f"{name}.lock"
        self._what = what

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the log, to add to it; all that writes below wants that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep others from adding to it while it is compared; needs no right to write."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                stream = stack.enter_context(self._lock_path.open(encoding="utf-8"))
                fcntl.flock(stream, fcntl.LOCK_SH)
            yield

    def settled(self) -> Head:
        """The head, when what no head counts is cut off; StoreError where the log's end is not what it was."""
        head = self.head()
        size = self._size()
        if head is None and not size:
            write_atomic(self.head_path, Head().document())
            return Head()
        if head is None or size < head.size or _digest(self.last(head)) != head.sha256:
            raise self.damaged()
        if size > head.size:
            with self.path.open("r+b") as stream:
                stream.truncate(head.size)
                os.fsync(stream.fileno())
        return head

    def append(self, head: Head, records: Iterable[Record]) -> None:
        """Add lines behind those that `head` counts, and let them count."""
        after = head
        with self.path.open("ab") as stream:
            for record in records:
                stream.write(record.line())
                after = after.advanced(record.line())
            stream.flush()
            os.fsync(stream.fileno())
        if head.lines == 0:
            fsync_directory(self.folder)
        write_atomic(self.head_path, after.document())

    def put_aside(self) -> Head:
        """Keep a broken log under another name, and begin a new one."""
        stamp = now().replace(":", "").replace("-", "")
        for path in (self.path, self.head_path):
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_name(f"{path.name}.broken-{stamp}"))
        write_atomic(self.head_path, Head().document())
        return Head()

    def head(self) -> Head | None:
        """The head; None where there is none yet, StoreError for one that nobody wrote so."""
        try:
            data = self.head_path.read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(ValueError, TypeError):
            head = Head(**json.loads(data))
            if head.document() == data:
                return head
        raise self.damaged()

    def last(self, head: Head) -> bytes:
        """The last line that counts; empty where none does."""
        if not head.size:
            return b""
        try:
            with self.path.open("rb") as stream:
                stream.seek(max(0, head.size - _LONGEST))
                data = stream.read(min(head.size, _LONGEST))
        except FileNotFoundError:
            return b""
        return data[data.rfind(b"\n", 0, -1) + 1 :]

    def heads(self) -> Iterator[Head]:
        """What the head was after each line that is there, and before the first."""
        head = Head()
        yield head
        data = self.path.read_bytes() if self.path.exists() else b""
        for line in data.splitlines(keepends=True):
            head = head.advanced(line)
            yield head

    def longer(self, head: Head | None) -> bool:
        """Whether there are lines that the head does not count."""
        return self._size() > (head.size if head else 0)

    def read(self, parse: Callable[[bytes], _Record | None]) -> tuple[tuple[_Record, ...], tuple[Break, ...]]:
        """All records and where the chain is broken; `parse` gives None for a line that nobody wrote so.

        Needs no lock.
        """
        try:
            head = self.head()
        except StoreError as error:
            return (), (Break(0, error.message),)
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        if head is None:
            return (), (Break(0, f"{self.head_path.name} is missing"),) if data else ()
        return _follow(data, head, parse)

    def damaged(self) -> StoreError:
        """What to say where the log cannot be relied on."""
        return StoreError(
            f"the log of {self._what} is damaged",
            where=str(self.path),
            hint="anklume-images verify says where; with --repair it puts the log aside and begins another",
        )

    def _size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0


def now() -> str:
    """The time in UTC, as RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def caller() -> str:
    """Who runs this; behind sudo, who called it."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    behind = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return f"{behind} as {name}" if behind and behind != name else name


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else NOTHING


def _follow(
    data: bytes, head: Head, parse: Callable[[bytes], _Record | None]
) -> tuple[tuple[_Record, ...], tuple[Break, ...]]:
    records: list[_Record] = []
    breaks: list[Break] = []
    lines = [line + b"\n" for line in data[: head.size].split(b"\n")[:-1]]
    before = NOTHING
    for number, line in enumerate(lines, 1):
        record = parse(line)
        if record is None:
            breaks.append(Break(number, "is not as it was written"))
        else:
            if record.previous != before:
                problem = "is not the first" if number == 1 else "does not follow the line before"
                breaks.append(Break(number, f"{problem}: one of them was changed, or lines are missing"))
            records.append(record)
        before = _digest(line)
    if len(data) < head.size or before != head.sha256 or len(lines) != head.lines:
        problem = f"is not the end of the log, which has {head.lines} lines: it was changed or cut"
        breaks.append(Break(len(lines), problem))
    return tuple(records), tuple(breaks)
