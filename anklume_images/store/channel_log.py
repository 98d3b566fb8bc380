"""Moves of channels, and the log of them: who pointed which channel where, when, why and by which command.

    history/channels.jsonl  one canonical JSON line for each move; each has the sha256 of the line before
    history/channels.head   how many lines count, their bytes, and the sha256 of the last
    history/channels.lock   held while a channel moves

A move is done in this order, with the lock held: the channel's new file beside its place, the line at the end of the
log, the head, the rename of the channel. The head is what counts. A line behind it belongs to a killed command and is
cut off by the next one; a channel that is still where its last counted move found it is moved then.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING

from anklume_images.canonical import canonical
from anklume_images.errors import StoreError
from anklume_images.files import fsync_directory, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Break", "ChannelLog", "Head", "History", "Move", "Place"]

NOTHING = "0" * 64  # what the first line has in place of a hash
_LONGEST = 1 << 16  # bytes of a line


@dataclass(frozen=True, order=True)
class Place:
    """A channel: of which image, for which architecture, its name."""

    image: str
    architecture: str
    channel: str

    def __str__(self) -> str:
        return f"{self.image}@{self.channel} ({self.architecture})"


@dataclass(frozen=True)
class Move:
    """One line of the log; `before` and `after` are versions, None for a channel that is not there.

    `time` is UTC as in RFC 3339, `previous` the sha256 of the line before.
    """

    number: int
    previous: str
    time: str
    user: str
    host: str
    command: str
    why: str
    place: Place
    before: str | None
    after: str | None

    def document(self) -> dict[str, object]:
        """The line, and what `--json` prints."""
        document: dict[str, object] = asdict(self)
        del document["place"]
        document |= asdict(self.place)
        document["from"], document["to"] = document.pop("before"), document.pop("after")
        return document

    def line(self) -> bytes:
        """The line as it stands in the log, with its end."""
        return canonical(self.document()) + b"\n"


@dataclass(frozen=True)
class Head:
    """What counts of the log: so many lines of so many bytes, and the sha256 of the last one."""

    lines: int = 0
    size: int = 0
    sha256: str = NOTHING

    def document(self) -> bytes:
        """The head's file; whoever signs the log signs these bytes, which stand for every line of it."""
        return canonical(asdict(self)) + b"\n"


@dataclass(frozen=True)
class Break:
    """Where the log is not as it was written: the line, from 1, and what is wrong there."""

    line: int
    problem: str


@dataclass(frozen=True)
class History:
    """What the log says, oldest first, and where it is broken."""

    moves: tuple[Move, ...] = ()
    breaks: tuple[Break, ...] = ()

    def of(self, place: Place) -> tuple[Move, ...]:
        """The moves of one channel."""
        return tuple(move for move in self.moves if move.place == place)

    def last(self) -> dict[Place, Move]:
        """The last move of each channel."""
        return {move.place: move for move in self.moves}


class ChannelLog:
    """The channels of the store at `home`, which move here only, and the log of that."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "history"
        self.path = self._folder / "channels.jsonl"
        self.head_path = self._folder / "channels.head"

    def file(self, place: Place) -> Path:
        """Where the channel is or would be."""
        return self._home / "channels" / place.image / place.architecture / place.channel

    def places(self) -> Iterator[Place]:
        """The channels that are there."""
        for path in sorted(self._home.glob("channels/*/*/*")):
            if path.name[0] != ".":
                yield Place(*path.parts[-3:])

    def version(self, place: Place) -> str | None:
        """The version that the channel names; None where it is not there."""
        try:
            return self.file(place).read_text(encoding="utf-8", errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def move(self, place: Place, after: str | None, *, command: str, why: str = "") -> Move | None:
        """Point a channel at a version, or remove it; None when it is so already. The caller holds `gc.lock`."""
        with self._locked() as lock:
            head = self._settle(lock)
            before = self.version(place)
            if before == after:
                return None
            move = _move(head, place, before, after, command, why)
            staged = self._stage(place, after)
            self._append(head, [move])
            self._put(place, staged)
            return move

    def unsettled(self) -> bool:
        """Say whether a killed command, or one that is under way, left a move unfinished that this user may finish."""
        if not self.head_path.exists() or not os.access(self._folder, os.W_OK):
            return False
        head = self._head()
        move = _parse(self._last(head)) if head else None
        behind = move is not None and self.version(move.place) == move.before
        return behind or (self.path.exists() and self.path.stat().st_size > (head.size if head else 0))

    def settle(self) -> None:
        """Finish the move of a killed command, where there is one; the caller holds `gc.lock`."""
        with self._locked() as lock:
            self._settle(lock)

    def begin(self, *, command: str, why: str) -> None:
        """Record where channels are that no line tells of; a log that cannot be read is put aside."""
        with self._locked() as lock:
            try:
                head = self._settle(lock)
            except StoreError:
                head = self._put_aside()
            if self.read().breaks:
                head = self._put_aside()
            told = {place: move.after for place, move in self.read().last().items()}
            moves: list[Move] = []
            latest = head
            for place in self.places():
                if told.get(place) != self.version(place):
                    moves.append(_move(latest, place, told.get(place), self.version(place), command, why))
                    latest = _advance(latest, moves[-1].line())
            if moves:
                self._append(head, moves)

    def restore(self, place: Place, *, command: str, why: str) -> str | None:
        """Put a channel where its last move left it, and return that version; else record it as it is.

        The caller holds `gc.lock`.
        """
        with self._locked():
            last = self.read().last().get(place)
            if last and last.after is not None:
                self._put(place, self._stage(place, last.after))
                return last.after
        self.begin(command=command, why=why)
        return None

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep channels from moving while they are compared with the log; needs no right to write."""
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(FileNotFoundError):
                stream = stack.enter_context((self._folder / "channels.lock").open(encoding="utf-8"))
                fcntl.flock(stream, fcntl.LOCK_SH)
            yield

    def read(self) -> History:
        """Read the whole log and follow its chain; needs no lock."""
        try:
            head = self._head()
        except StoreError as error:
            return History((), (Break(0, error.message),))
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            data = b""
        if head is None:
            return History((), (Break(0, f"{self.head_path.name} is missing"),) if data else ())
        return _follow(data, head)

    def damaged(self) -> StoreError:
        """What to say where the log cannot be relied on."""
        return StoreError(
            "the log of the channels' moves is damaged",
            where=str(self.path),
            hint="anklume-images verify says where; with --repair it puts the log aside and begins another",
        )

    # -- writing, with the lock held

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "channels.lock").open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream

    def _settle(self, _lock: IO[str]) -> Head:
        """Cut off what no head counts, finish the last move; StoreError where the log's end is not what it was."""
        head = self._head()
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            size = 0
        if head is None and not size:
            write_atomic(self.head_path, Head().document())
            return Head()
        last = self._last(head) if head else b""
        if head is None or size < head.size or _digest(last) != head.sha256:
            raise self.damaged()
        if size > head.size:
            with self.path.open("r+b") as stream:
                stream.truncate(head.size)
                os.fsync(stream.fileno())
        move = _parse(last)
        if move and self.version(move.place) == move.before:
            self._put(move.place, self._stage(move.place, move.after))
        return head

    def _append(self, head: Head, moves: Iterable[Move]) -> None:
        after = head
        with self.path.open("ab") as stream:
            for move in moves:
                stream.write(move.line())
                after = _advance(after, move.line())
            stream.flush()
            os.fsync(stream.fileno())
        if head.lines == 0:
            fsync_directory(self._folder)
        self._commit(after)

    def _commit(self, head: Head) -> None:
        """Let the lines up to `head` count. A signature of `head.document()` is to be made here, before the rename."""
        write_atomic(self.head_path, head.document())

    def _stage(self, place: Place, after: str | None) -> Path | None:
        """The channel's new file beside its place: what can fail for want of space fails before anything counts."""
        if after is None:
            return None
        staged = self.file(place).with_name(f".{place.channel}.new")
        staged.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as stream:
            stream.write(f"{after}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
        return staged

    def _put(self, place: Place, staged: Path | None) -> None:
        path = self.file(place)
        if staged:
            staged.rename(path)
        else:
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            fsync_directory(path.parent)

    def _put_aside(self) -> Head:
        """Keep a broken log under another name, and begin a new one."""
        stamp = _now().replace(":", "").replace("-", "")
        for path in (self.path, self.head_path):
            with contextlib.suppress(FileNotFoundError):
                path.rename(path.with_name(f"{path.name}.broken-{stamp}"))
        write_atomic(self.head_path, Head().document())
        return Head()

    # -- reading

    def _head(self) -> Head | None:
        try:
            data = self.head_path.read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(ValueError, TypeError):
            head = Head(**json.loads(data))
            if head.document() == data:
                return head
        raise self.damaged()

    def _last(self, head: Head) -> bytes:
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


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest() if line else NOTHING


def _advance(head: Head, line: bytes) -> Head:
    return Head(head.lines + 1, head.size + len(line), _digest(line))


def _move(head: Head, place: Place, before: str | None, after: str | None, command: str, why: str) -> Move:
    return Move(head.lines + 1, head.sha256, _now(), _user(), socket.gethostname(), command, why, place, before, after)


def _user() -> str:
    """Who runs this; behind sudo, who called it."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        name = str(os.geteuid())
    caller = os.environ.get("SUDO_USER", "") if os.geteuid() == 0 else ""
    return f"{caller} as {name}" if caller and caller != name else name


def _parse(line: bytes) -> Move | None:
    """The move that a line tells of; None for one that this program would not have written."""
    try:
        document = json.loads(line)
        place = Place(document.pop("image"), document.pop("architecture"), document.pop("channel"))
        move = Move(place=place, before=document.pop("from"), after=document.pop("to"), **document)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return move if move.line() == line else None


def _follow(data: bytes, head: Head) -> History:
    moves: list[Move] = []
    breaks: list[Break] = []
    lines = [line + b"\n" for line in data[: head.size].split(b"\n")[:-1]]
    before = NOTHING
    for number, line in enumerate(lines, 1):
        move = _parse(line)
        if move is None:
            breaks.append(Break(number, "is not as it was written"))
        else:
            if move.previous != before:
                problem = "is not the first" if number == 1 else "does not follow the line before"
                breaks.append(Break(number, f"{problem}: one of them was changed, or lines are missing"))
            moves.append(move)
        before = _digest(line)
    if len(data) < head.size or before != head.sha256 or len(lines) != head.lines:
        problem = f"is not the end of the log, which has {head.lines} lines: it was changed or cut"
        breaks.append(Break(len(lines), problem))
    return History(tuple(moves), tuple(breaks))
