"""What came of signing: what was written, and which signatures are still wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from tuf.api.metadata import VerificationResult

__all__ = ["NoKeyError", "Outcome", "Wanted"]


@dataclass(frozen=True)
class Wanted:
    """Signatures that a role lacks: `missing` of `threshold`, each by another of `keys`."""

    missing: int
    threshold: int
    keys: tuple[str, ...]

    @classmethod
    def of(cls, *results: VerificationResult) -> Wanted:
        """What is missing where all of these have to hold."""
        worst = max(results, key=lambda result: result.missing)
        keys = {keyid for result in results if result.missing for keyid in result.unsigned}
        return cls(worst.missing, worst.threshold, tuple(sorted(keys)))


class NoKeyError(StoreError):
    """Too few of the keys that have to sign for a role are here."""

    def __init__(self, role: str, wanted: Wanted, folder: Path) -> None:
        none = wanted.missing == wanted.threshold
        super().__init__(
            f"no key of the role {role} is here"
            if none
            else f"{wanted.missing} more keys of the role {role} would have to be here",
            where=str(folder),
            hint="sign where one is, or name its folder with --keys; it is "
            + ", ".join(keyid[:16] for keyid in wanted.keys),
        )
        self.wanted = {role: wanted}


@dataclass(frozen=True)
class Outcome:
    """What was written, role and version; and of which roles which signatures are still wanted."""

    written: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, Wanted] = field(default_factory=dict)

    @property
    def missing(self) -> dict[str, int]:
        """How many signatures each role lacks."""
        return {role: wanted.missing for role, wanted in self.wanted.items()}

    def then(self, after: Outcome) -> Outcome:
        """This one, and what came of it afterwards."""
        still = {role: wanted for role, wanted in self.wanted.items() if role not in after.written}
        return Outcome(self.written | after.written, still | after.wanted)
