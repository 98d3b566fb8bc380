"""The errors of the project: what happened, where, and what to do; only the CLI turns them into text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "AnklumeError",
    "BuildError",
    "FetchError",
    "HostError",
    "IncusError",
    "IncusUnreachableError",
    "InvalidFileError",
    "LockError",
    "PolicyError",
    "Problem",
    "StoreError",
]


class AnklumeError(Exception):
    """Root of the tree.

    `where` is a file position (`file:line:column`), a path or an address; `hint` says what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong in a file that a person wrote; `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    code: str
    message: str
    path: str = ""
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class InvalidFileError(AnklumeError):
    """A file that a person wrote is not valid; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in sorted(problems)))
        self.problems = sorted(problems)


class HostError(AnklumeError):
    """The host lacks something: root, a kernel feature, a tool, memory, disk."""


class LockError(AnklumeError):
    """A lock is missing, stale, edited by hand, or could not be resolved."""


class FetchError(AnklumeError):
    """Inputs could not be had from any mirror, or arrived with the wrong bytes.

    `missing` are the paths, below their archives, of those that every address answered not to have (any more): locking
    anew helps. `unreachable` are those of the others: no mirror known, no answer, or wrong bytes. `changed` are those
    of either for which an address offered or sent other bytes than were locked.
    """

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        missing: tuple[str, ...] = (),
        unreachable: tuple[str, ...] = (),
        changed: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.missing = missing
        self.unreachable = unreachable
        self.changed = changed


class StoreError(AnklumeError):
    """The store holds something it must not, lacks something it must have, or is of a newer schema."""


class IncusError(AnklumeError):
    """Incus refused a request, could not be reached, or is too old."""


class PolicyError(AnklumeError):
    """Refused by a policy of the file that was asked for, such as `gpu_policy`."""

    exit_code = 4


class IncusUnreachableError(IncusError):
    """Incus does not answer, or not any more: it may be starting again."""


class BuildError(AnklumeError):
    """A sealed build failed.

    `step` names what ran, `tail` holds its last lines, `log` is the path of the whole log, and `enter` is the
    command that opens the sandbox as it was.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str,
        tail: list[str],
        log: str | None = None,
        enter: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.step = step
        self.tail = tail
        self.log = log
        self.enter = enter
