"""Known vulnerabilities of an image: what is in it, held against databases that the user brings. Nothing is fetched.

Debian's packages are judged by source package and version, as Debian's own tracker does; wheels by name and version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anklume_images.evidence.advisories import read_database
from anklume_images.evidence.contents import contents_of
from anklume_images.evidence.findings import UNKNOWN, Report, Target, rank_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from anklume_images.evidence.contents import Contents
    from anklume_images.evidence.findings import Finding
    from anklume_images.store.images import Image
    from anklume_images.store.store import Store

__all__ = ["Scan", "merged", "scan_image", "target_of"]

_PLURAL = {"deb": "Debian source packages", "wheel": "wheels"}


@dataclass(frozen=True)
class Scan:
    """The verdict on an image, worst first; `unchecked` names what no database of these knows about."""

    findings: tuple[Finding, ...]
    checked: dict[str, int]
    unchecked: tuple[str, ...]
    problems: tuple[str, ...]

    def at_least(self, severity: str, *, fixed_only: bool = False) -> tuple[Finding, ...]:
        """The findings that count; with `fixed_only`, those that a newer version ends."""
        return tuple(f for f in self.findings if f.reaches(severity) and (f.fixed or not fixed_only))


def scan_image(store: Store, image: Image, databases: Iterable[Path]) -> Scan:
    """Scan an image of the store; StoreError when its files are not there, InvalidFileError for what is no database."""
    target = target_of(image, contents_of(store, image))
    report = Report()
    for path in databases:
        read_database(path, target, report)
    kinds = {"deb": sum(map(len, target.sources.values())), "wheel": len(target.wheels)}
    unchecked = [f"{count} {_PLURAL[kind]}" for kind, count in kinds.items() if count and kind not in report.covers]
    files = [package.name for package in image.packages if package.kind == "file"]
    unchecked += [f"release file {name}" for name in files]
    checked = {kind: count if kind in report.covers else 0 for kind, count in kinds.items()}
    return Scan(merged(report.findings), checked, tuple(unchecked), tuple(report.problems))


def target_of(image: Image, contents: Contents) -> Target:
    """What of an image can be looked up."""
    from packaging.utils import canonicalize_name

    sources: dict[str, dict[str, tuple[str, ...]]] = {}
    for deb in (contents.debs[p.name] for p in image.packages if p.kind == "deb" and p.name in contents.debs):
        versions = sources.setdefault(deb.source, {})
        versions[deb.source_version] = (*versions.get(deb.source_version, ()), deb.name)
    wheels: dict[str, str] = {canonicalize_name(p.name): p.version for p in image.packages if p.kind == "wheel"}
    return Target(str(image.spec.get("release") or ""), contents.release_number, sources, wheels)


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding for each vulnerability of a package, whichever databases tell of it: the worst, with a fix if any."""
    found: dict[tuple[str, ...], Finding] = {}
    for finding in findings:
        key = finding.kind, finding.package, finding.version, finding.id
        found[key] = _merged(finding, found[key]) if key in found else finding
    return tuple(sorted(found.values(), key=lambda each: (-rank_of(each.severity), each.kind, each.package, each.id)))


def _merged(finding: Finding, other: Finding) -> Finding:
    known = [each for each in (finding, other) if each.severity != UNKNOWN] or [finding]
    worst = max(known, key=lambda each: rank_of(each.severity))
    return replace(worst, fixed=other.fixed or finding.fixed, summary=finding.summary or other.summary)
