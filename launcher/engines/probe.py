"""What a check of `verify` is handed and what it comes to, and what several of them need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.incus.client import Result
    from launcher.engines.settings import Settings

__all__ = ["SHOWN", "TOKENS", "GuestLike", "Outcome", "Probe", "Reply", "answers_at", "failed", "names_in", "shown"]

TOKENS = 64  # an answer need not be long to be one
SHOWN = 200  # characters of it


class Reply(Protocol):
    """What came of a request; `text` is empty where nothing answered."""

    @property
    def ok(self) -> bool:
        """Whether the server answered with 200."""

    @property
    def text(self) -> str:
        """What it answered."""

    def json(self) -> Any:
        """The text as JSON; None when it is none."""

    def said(self) -> str:
        """In a few words, for people."""


class GuestLike(Protocol):
    """A running instance, as seen from within."""

    def run(self, *command: str) -> Result:
        """Run a command."""

    def request(self, url: str, body: Any = None, *, bearer: str = "", seconds: int = 10) -> Reply:
        """GET, or POST of JSON; `bearer` is a key that the server wants."""


@dataclass(frozen=True)
class Outcome:
    """What a check came to; `models` are those that it found."""

    state: Literal["ok", "failed", "skipped"]
    evidence: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """A service in a machine: where it answers there, the key that it wants, and what to ask a model.

    `seconds` is how long an answer of a model may take; `models` are those that an earlier check found.
    """

    inside: GuestLike
    settings: Settings
    url: str
    key: str
    prompt: str
    seconds: int
    models: tuple[str, ...] = ()


def failed(evidence: str) -> Outcome:
    """A failed check."""
    return Outcome("failed", evidence)


def answers_at(path: str) -> Callable[[Probe], Outcome]:
    """A check that GET of this path is answered with 200."""

    def check(probe: Probe) -> Outcome:
        answer = probe.inside.request(f"{probe.url}{path}")
        return Outcome("ok" if answer.ok else "failed", f"{path}: {answer.said()}")

    return check


def names_in(answer: Reply, listed: str, key: str) -> tuple[str, ...] | None:
    """The names in a list of models; None when it is no such answer."""
    document = answer.json() if answer.ok else None
    entries = document.get(listed) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return None
    return tuple(str(entry.get(key)) for entry in entries if isinstance(entry, dict))


def shown(text: str) -> str:
    """The beginning of a model's answer on one line, quoted."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[:SHOWN]}…")
