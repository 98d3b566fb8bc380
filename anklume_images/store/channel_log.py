"""Moves of channels, and the log of them: who pointed which channel where, when, why and by which command.

The log is the chain `history/channels` (chain.py). A move is done in this order, with the lock held: the channel's new
file beside its place, the line at the end of the log, the head, the rename of the channel. The head is what counts: a
channel that is still where its last counted move found it is moved by the next command.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anklume_images.canonical import canonical
from anklume_images.errors import StoreError
from anklume_images.files import fsync_directory
from anklume_images.store.chain import Break, Chain, Head, caller, now

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ChannelLog", "History", "Move", "Place"]


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
        self.chain = Chain(home / "history", "channels", "the channels' moves")
        self.path = self.chain.path
        self.head_path = self.chain.head_path

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
        with self.chain.locked():
            head = self._settle()
            before = self.version(place)
            if before == after:
                return None
            move = _move(head, place, before, after, command, why)
            staged = self._stage(place, after)
            self.chain.append(head, [move])
            self._put(place, staged)
            return move

    def unsettled(self) -> bool:
        """Say whether a killed command, or one that is under way, left a move unfinished that this user may finish."""
        if not self.head_path.exists() or not os.access(self.chain.folder, os.W_OK):
            return False
        head = self.chain.head()
        move = _parse(self.chain.last(head)) if head else None
        behind = move is not None and self.version(move.place) == move.before
        return behind or self.chain.longer(head)

    def settle(self) -> None:
        """Finish the move of a killed command, where there is one; the caller holds `gc.lock`."""
        with self.chain.locked():
            self._settle()

    def begin(self, *, command: str, why: str) -> None:
        """Record where channels are that no line tells of; a log that cannot be read is put aside."""
        with self.chain.locked():
            try:
                head = self._settle()
            except StoreError:
                head = self.chain.put_aside()
            if self.read().breaks:
                head = self.chain.put_aside()
            told = {place: move.after for place, move in self.read().last().items()}
            moves: list[Move] = []
            latest = head
            for place in self.places():
                if told.get(place) != self.version(place):
                    moves.append(_move(latest, place, told.get(place), self.version(place), command, why))
                    latest = latest.advanced(moves[-1].line())
            if moves:
                self.chain.append(head, moves)

    def restore(self, place: Place, *, command: str, why: str) -> str | None:
        """Put a channel where its last move left it, and return that version; else record it as it is.

        The caller holds `gc.lock`.
        """
        with self.chain.locked():
            last = self.read().last().get(place)
            if last and last.after is not None:
                self._put(place, self._stage(place, last.after))
                return last.after
        self.begin(command=command, why=why)
        return None

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Keep channels from moving while they are compared with the log; needs no right to write."""
        with self.chain.still():
            yield

    def read(self) -> History:
        """Read the whole log and follow its chain; needs no lock."""
        return History(*self.chain.read(_parse))

    def damaged(self) -> StoreError:
        """What to say where the log cannot be relied on."""
        return self.chain.damaged()

    # -- writing, with the lock held

    def _settle(self) -> Head:
        """Cut off what no head counts, finish the last move; StoreError where the log's end is not what it was."""
        head = self.chain.settled()
        move = _parse(self.chain.last(head))
        if move and self.version(move.place) == move.before:
            self._put(move.place, self._stage(move.place, move.after))
        return head

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


def _move(head: Head, place: Place, before: str | None, after: str | None, command: str, why: str) -> Move:
    return Move(head.lines + 1, head.sha256, now(), caller(), socket.gethostname(), command, why, place, before, after)


def _parse(line: bytes) -> Move | None:
    """The move that a line tells of; None for one that this program would not have written."""
    try:
        document = json.loads(line)
        place = Place(document.pop("image"), document.pop("architecture"), document.pop("channel"))
        move = Move(place=place, before=document.pop("from"), after=document.pop("to"), **document)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return move if move.line() == line else None
