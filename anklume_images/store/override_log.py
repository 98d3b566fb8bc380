"""The log of expired metadata that was accepted: who allowed it for which store until when and why, and each use.

It is the chain `history/expired` (chain.py). Who looks back after an attack by an old copy reads here what it got.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from anklume_images.canonical import canonical
from anklume_images.store.chain import Break, Chain, Head, caller, now

if TYPE_CHECKING:
    from anklume_images.store.store import Store

__all__ = ["ALLOWED", "USED", "WITHDRAWN", "OverrideLine", "OverrideLog"]

ALLOWED, USED, WITHDRAWN = "allowed", "used", "withdrawn"


@dataclass(frozen=True)
class OverrideLine:
    """One line: what was done, by `user` at `host`; `identity` and `place` are of the store whose metadata was expired.

    `until`, `why` and `by` are those of the override.
    """

    what: str
    identity: str
    place: str
    until: str
    why: str
    by: str
    number: int = 0
    previous: str = ""
    time: str = ""
    user: str = field(default_factory=caller)
    host: str = field(default_factory=socket.gethostname)

    def line(self) -> bytes:
        """The line as it stands in the log, with its end."""
        return canonical(asdict(self)) + b"\n"


class OverrideLog:
    """What `store` accepted though it had expired."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.chain = Chain(store.home / "history", "expired", "expired metadata")

    def add(self, asked: OverrideLine) -> None:
        """Record it; StoreError where the log cannot be relied on."""
        with self._store.guarded(), self.chain.locked():
            head: Head = self.chain.settled()
            self.chain.append(head, [replace(asked, number=head.lines + 1, previous=head.sha256, time=now())])

    def read(self) -> tuple[tuple[OverrideLine, ...], tuple[Break, ...]]:
        """All lines, oldest first, and where the log is broken; needs no lock."""
        return self.chain.read(_parse)

    def begin_anew(self) -> None:
        """Put a log aside that cannot be relied on."""
        with self._store.guarded(), self.chain.locked():
            self.chain.put_aside()


def _parse(line: bytes) -> OverrideLine | None:
    """The line that this is; None for one that this program would not have written."""
    try:
        found = OverrideLine(**json.loads(line))
    except (ValueError, TypeError):
        return None
    return found if found.line() == line else None
