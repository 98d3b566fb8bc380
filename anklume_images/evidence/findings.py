"""A vulnerability found in an image, what is looked up of an image, and what reading databases gave."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SEVERITIES", "UNKNOWN", "Finding", "Report", "Target", "rank_of"]

SEVERITIES = ("negligible", "low", "medium", "high", "critical")
UNKNOWN = "unknown"
_COUNTS_AS = {UNKNOWN: "medium"}  # Debian has not yet rated most of what it knows: it is neither ignored nor feared


@dataclass(frozen=True)
class Finding:
    """A vulnerability of one source package (`kind` deb) or wheel; `packages` are the binary ones in the image.

    `fixed` is the version that has it no more, None where nobody fixed it yet; `severity` one of SEVERITIES or UNKNOWN.
    """

    id: str
    severity: str
    kind: str
    package: str
    version: str
    fixed: str | None
    packages: tuple[str, ...]
    summary: str

    def reaches(self, severity: str) -> bool:
        """Whether it is as severe; an unknown severity counts as medium."""
        return rank_of(self.severity) >= rank_of(severity)


def rank_of(severity: str) -> int:
    """Its place among SEVERITIES."""
    return SEVERITIES.index(_COUNTS_AS.get(severity, severity))


@dataclass(frozen=True)
class Target:
    """What is looked up: versions of sources with their binary packages, wheels by normalized name.

    `release` is Debian's codename, `number` its number as OSV names it (`Debian:13`).
    """

    release: str
    number: str
    sources: dict[str, dict[str, tuple[str, ...]]]
    wheels: dict[str, str]


@dataclass
class Report:
    """What reading databases gave: findings, the kinds that they know of, and entries that could not be read."""

    findings: list[Finding] = field(default_factory=list)
    covers: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
