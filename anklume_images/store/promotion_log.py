"""The log of promotions: who sent what from where to where, when, past which gates, why, and how it ended.

The log is the chain `history/promotions` (chain.py). A promotion has a line before anything of its target changes, and
another when it has ended; one with the first only was killed, or is under way. Places are as they were named, so a line
here says what happened at an Incus, which keeps no record of its own that could not be changed.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from anklume_images.canonical import canonical
from anklume_images.store.chain import Break, Chain, Head, caller, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.store.store import Store

__all__ = ["HEAD", "Promotion", "PromotionLog"]

HEAD = "history/promotions.head"  # what is signed of it
_LONGEST_PROBLEM = 400  # characters


@dataclass(frozen=True)
class Promotion:
    """One line of the log; `outcome` is begun, done, failed, or staged: done, and signatures of others are wanted.

    `ref` and `channel` are those that were asked for, `source` and `target` places in the words of the command line.
    `fingerprint` is None, and `architecture` too, while an image of an Incus is yet to be looked up. `gates` are their
    names, and once they were passed what each found. `moved` has a name, what it named before (None for a new one) and
    what it names now. `begun` is the number of the line that this one ends, `problem` why it failed, or which
    signatures are wanted.
    """

    ref: str
    architecture: str | None
    fingerprint: str | None
    source: str
    target: str
    channel: str
    gates: tuple[str, ...] = ()
    why: str = ""
    outcome: str = "begun"
    moved: tuple[tuple[str, str | None, str], ...] = ()
    problem: str = ""
    begun: int | None = None
    number: int = 0
    previous: str = ""
    time: str = ""
    user: str = field(default_factory=caller)
    host: str = field(default_factory=socket.gethostname)

    def document(self) -> dict[str, object]:
        """The line, and what `--json` prints."""
        return asdict(self)

    def line(self) -> bytes:
        """The line as it stands in the log, with its end."""
        return canonical(self.document()) + b"\n"

    @property
    def image(self) -> str:
        """The name of the image."""
        return self.ref.partition("@")[0]


class PromotionLog:
    """The promotions that commands which work with `store` have made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.chain = Chain(store.home / "history", "promotions", "promotions")

    @contextlib.contextmanager
    def recorded(self, asked: Promotion) -> Iterator[Callable[[Promotion], None]]:
        """Record what is done meanwhile: it says by a call what became of it, or fails."""
        begun = self._append(asked)
        ended = [begun]
        try:
            yield ended.append
        except BaseException as error:
            text = (str(error).splitlines() or [""])[0] or type(error).__name__
            self._append(replace(ended[-1], outcome="failed", problem=text[:_LONGEST_PROBLEM], begun=begun.number))
            raise
        outcome = "done" if ended[-1].outcome == "begun" else ended[-1].outcome
        self._append(replace(ended[-1], outcome=outcome, begun=begun.number))

    def read(self) -> tuple[tuple[Promotion, ...], tuple[Break, ...]]:
        """Each promotion by its last line, oldest first, and where the log is broken; needs no lock."""
        lines, breaks = self.chain.read(_parse)
        ended = {line.begun: line for line in lines if line.begun is not None}
        return tuple(ended.get(line.number, line) for line in lines if line.begun is None), breaks

    def begin_anew(self) -> None:
        """Put a log aside that cannot be relied on."""
        with self._store.guarded(), self.chain.locked():
            self.chain.put_aside()

    def _append(self, promotion: Promotion) -> Promotion:
        with self._store.guarded(), self.chain.locked():
            head: Head = self.chain.settled()
            line = replace(promotion, number=head.lines + 1, previous=head.sha256, time=now())
            self.chain.append(head, [line])
        return line


def _parse(line: bytes) -> Promotion | None:
    """The promotion that a line tells of; None for one that this program would not have written."""
    try:
        document = json.loads(line)
        moved = tuple((name, before, after) for name, before, after in document.pop("moved"))
        promotion = Promotion(gates=tuple(document.pop("gates")), moved=moved, **document)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return promotion if promotion.line() == line else None
