"""What an image says about itself: sbom, provenance, diff, why, sources, scan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import JSON, REF, Session, complete_refs
from anklume_images.evidence.findings import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anklume_images.evidence.diff import ImageDiff, SettingChange
    from anklume_images.evidence.findings import Finding
    from anklume_images.evidence.scan import Scan
    from anklume_images.store.images import Image

__all__ = ["diff", "provenance", "sbom", "scan", "sources", "why"]

_SHOWN = 20  # files of a kind, and ways to a package, that are shown without being asked for


@click.command()
@REF
@click.pass_obj
def sbom(session: Session, ref: str) -> None:
    """Print an image's software bill of materials (CycloneDX JSON)."""
    from anklume_images.evidence.documents import sbom as sbom_of

    images = session.images()
    image = images.resolve(ref, session.arch())
    session.console.json(sbom_of(session.store(), images, image, session.console.warn))


@click.command()
@REF
@click.pass_obj
def provenance(session: Session, ref: str) -> None:
    """Print how an image was built (SLSA provenance, JSON)."""
    from anklume_images.evidence.documents import provenance as provenance_of

    images = session.images()
    session.console.json(provenance_of(images, images.resolve(ref, session.arch())))


@click.command()
@click.argument("before", metavar="A", shell_complete=complete_refs)
@click.argument("after", metavar="B", shell_complete=complete_refs)
@click.option("--files", is_flag=True, help="Show every file.")
@JSON
@click.pass_obj
def diff(session: Session, before: str, after: str, *, files: bool, as_json: bool) -> None:
    """Show how two images differ: packages, files and settings.

    Exit code 3 if they differ.
    """
    from dataclasses import asdict

    from anklume_images.evidence.diff import compare

    images = [session.images().resolve(ref, session.arch()) for ref in (before, after)]
    one, other = (_side(session, image) for image in images)
    found = compare(one, other)
    if as_json:
        document = {
            "a": images[0].ref,
            "b": images[1].ref,
            "packages": [asdict(change) for change in found.packages],
            "files": {"added": found.added, "removed": found.removed, "changed": found.changed},
            "settings": [asdict(change) for change in found.settings],
        }
        session.console.json(document)
    else:
        session.console.result("\n".join(_diff_lines(found, sys.maxsize if files else _SHOWN)) or "no differences")
    sys.exit(0 if found.empty else 3)


def _side(session: Session, image: Image) -> tuple[Image, Any, Any]:
    from anklume_images.evidence.contents import contents_of

    images = session.images()
    recipe = images.document(image, "recipe") if images.has_document(image, "recipe") else {}
    return image, contents_of(session.store(), image), recipe


def _diff_lines(found: ImageDiff, shown: int) -> Iterator[str]:
    from anklume_images.evidence.diff import folded

    if found.packages:
        yield "packages"
        yield from (f"  {change}" for change in found.packages)
    rows = [
        [f"  {sign} {path}{f' ({count} files)' if count > 1 else ''}" for path, count in folded(paths)]
        for sign, paths in (("+", found.added), ("-", found.removed))
    ]
    rows.append([f"  ~ {path}" for path in found.changed])
    if any(rows):
        yield "files"
    for lines in rows:
        yield from lines[:shown]
        if len(lines) > shown:
            yield f"  {lines[0].strip()[0]} … and {len(lines) - shown} more (--files shows them)"
    if found.settings:
        yield "settings"
        yield from (f"  {_setting(change)}" for change in found.settings)


def _setting(change: SettingChange) -> str:
    if isinstance(change.old, str) and isinstance(change.new, str) and "\n" in change.old + change.new:
        old, new = change.old.splitlines(), change.new.splitlines()
        return f"{change.path}: {len(set(old) - set(new))} lines gone, {len(set(new) - set(old))} lines new"
    if change.old is None or change.new is None:
        text = _short(change.new if change.old is None else change.old)
        return f"{change.path}: {'added' if change.old is None else 'removed'} {text}"
    return f"{change.path}: {_short(change.old)} → {_short(change.new)}"


def _short(value: Any, longest: int = 60) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


@click.command()
@REF
@click.argument("package")
@JSON
@click.pass_obj
def why(session: Session, ref: str, package: str, *, as_json: bool) -> None:
    """Show why a package is in an image.

    It shows the chain of dependencies from what the specs ask for.
    """
    from anklume_images.evidence.contents import contents_of
    from anklume_images.evidence.documents import lineage
    from anklume_images.evidence.why import chains_to, roots_of

    images = session.images()
    image = images.resolve(ref, session.arch())
    contents = contents_of(session.store(), image)
    family = list(lineage(images, image))
    if family[-1].base:
        session.console.warn(
            f"the store has not {family[-1].base['name']}@{family[-1].base['version']}, the base of {family[-1].ref}: "
            "what its spec asks for is not known"
        )
    specs = [(each.name, images.document(each, "recipe").get("spec") or {}) for each in family]
    chains = chains_to(package, image, contents, roots_of(image, contents, specs))
    if as_json:
        document = [{"root": c.root.name, "kind": c.root.kind, "reason": c.root.reason, "path": c.path} for c in chains]
        session.console.json({"ref": image.ref, "package": package, "chains": document})
        return
    lines = [f"{' → '.join(chain.path)}  ({chain.root.reason})" for chain in chains]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"… and {len(lines) - _SHOWN} more (--json has them)"]
    session.console.result("\n".join(lines) or "nothing that is known asks for it")


@click.command()
@REF
@JSON
@click.pass_obj
def sources(session: Session, ref: str, *, as_json: bool) -> None:
    """List the source packages of an image.

    Many licences require you to offer these when you pass on an image.
    """
    from dataclasses import asdict

    from anklume_images.console import table
    from anklume_images.evidence.contents import contents_of
    from anklume_images.evidence.sources import sources_of

    image = session.images().resolve(ref, session.arch())
    found = sources_of(image, contents_of(session.store(), image))
    if as_json:
        session.console.json([asdict(source) for source in found])
        return
    cells = []
    for source in found:
        packages = [*source.packages, *(f"in {name}" for name in source.built_in)]
        cells.append((source.kind, source.name, source.version, ", ".join(packages) or "-"))
    session.console.result(table(cells, ("KIND", "SOURCE", "VERSION", "PACKAGES")))


@click.command()
@REF
@click.option(
    "--db",
    "databases",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="A database: Debian's security tracker as JSON, or OSV as JSON, a folder or a zip (repeatable).",
)
@click.option(
    "--severity", type=click.Choice(SEVERITIES), default="low", help="Lowest severity that counts (default: low)."
)
@click.option("--fixed", is_flag=True, help="Count only what has a fix.")
@JSON
@click.pass_obj
def scan(session: Session, ref: str, databases: tuple[Path, ...], severity: str, *, fixed: bool, as_json: bool) -> None:
    """Look up known vulnerabilities of an image in a database that you provide. Nothing is fetched.

    Exit code 3 if something that counts is found.
    """
    from dataclasses import asdict

    from anklume_images.evidence.scan import scan_image

    image = session.images().resolve(ref, session.arch())
    verdict = scan_image(session.store(), image, databases)
    counted = verdict.at_least(severity, fixed_only=fixed)
    for problem in verdict.problems:
        session.console.warn(f"an entry could not be judged: {problem}")
    if verdict.unchecked:
        session.console.warn(f"no database of these knows about: {', '.join(verdict.unchecked)}")
    if as_json:
        session.console.json(
            {
                "ref": image.ref,
                "findings": [asdict(finding) for finding in counted],
                "checked": verdict.checked,
                "unchecked": verdict.unchecked,
                "problems": verdict.problems,
            }
        )
    else:
        session.console.result("\n".join(_scan_lines(verdict, counted)))
    sys.exit(3 if counted else 0)


def _scan_lines(verdict: Scan, counted: Sequence[Finding]) -> Iterator[str]:
    from anklume_images.console import table

    if counted:
        cells = [(f.severity, f.id, f"{f.package} {f.version}", f.fixed or "-", f.summary[:60]) for f in counted]
        yield table(cells, ("SEVERITY", "ID", "PACKAGE", "FIXED IN", "WHAT"))
    less = len(verdict.findings) - len(counted)
    checked = f"{verdict.checked['deb']} source packages and {verdict.checked['wheel']} wheels checked"
    yield f"{checked}: {len(counted)} found" + (f", {less} that do not count" if less else "")
