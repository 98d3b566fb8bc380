"""Newer inputs: update, outdated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import EXPIRED, JSON, NAMES, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anklume_images.errors import AnklumeError
    from anklume_images.pipeline import Pipeline
    from anklume_images.updates import Update

__all__ = ["outdated", "update"]


@click.command()
@NAMES
@click.option("--write", is_flag=True, help="Write the changed locks beside the specs.")
@EXPIRED
@JSON
@click.pass_obj
def update(session: Session, /, names: tuple[str, ...], *, write: bool, allow_expired: bool, as_json: bool) -> None:
    """Show newer inputs, and write the locks if you say so. Without names: for every image and tree.

    Exit code 3 if there are newer inputs that were not written.
    """
    from anklume_images.architectures import ARCHITECTURES

    session.want_specs()
    found: list[dict[str, Any]] = []
    errors: list[AnklumeError] = []
    changed: set[str] = set()
    chosen: set[str] = set()
    for architecture in [session.architecture] if session.architecture else ARCHITECTURES:
        pipeline = session.pipeline(architecture=architecture, allow_expired=allow_expired)
        for name, result in _updates(session, pipeline, names, errors):
            chosen.add(name)
            written = write and not isinstance(result, str) and result.changed and pipeline.locks.save(result.lock)
            changed |= {name} if not isinstance(result, str) and result.changed else set()
            found.append(_as_json(name, architecture, result) | {"written": bool(written)})
            if not as_json:
                session.console.result("\n".join(_lines(name, architecture, result, written=bool(written))))
    if as_json:
        session.console.json({"updates": found})
    _tell_dependents(session, changed, chosen)
    if changed and not write:
        session.console.note("nothing was written: update --write writes these locks")
    newer = any(release["outdated"] for entry in found for release in entry["releases"])
    sys.exit(_code(found, errors, differs=not write and (bool(changed) or newer)))


@click.command()
@NAMES
@EXPIRED
@JSON
@click.pass_obj
def outdated(session: Session, /, names: tuple[str, ...], *, allow_expired: bool, as_json: bool) -> None:
    """List locked inputs that have newer versions. Without names: for every image and tree.

    For this host's architecture, or --arch. Exit code 3 if there are any.
    """
    from anklume_images.console import table

    session.want_specs()
    pipeline = session.pipeline(allow_expired=allow_expired)
    errors: list[AnklumeError] = []
    found = [_as_json(name, session.arch(), result) for name, result in _updates(session, pipeline, names, errors)]
    rows = [row for entry in found for row in _rows(entry)]
    if as_json:
        session.console.json({"outdated": rows, "errors": [str(error) for error in errors]})
    else:
        cells = [[str(row[key] or "-") for key in ("name", "kind", "input", "locked", "newest")] for row in rows]
        session.console.result(table(cells, ("IMAGE", "KIND", "INPUT", "LOCKED", "NEWEST")))
    for entry in found:
        for release in entry["releases"]:
            if release["unreachable"]:
                session.console.warn(f"{entry['name']}: {release['name']} {release['tag']}: {release['reason']}")
    sys.exit(_code(found, errors, differs=any(row["newest"] for row in rows)))


def _updates(
    session: Session, pipeline: Pipeline, names: Iterable[str], errors: list[AnklumeError]
) -> Iterator[tuple[str, Update | str]]:
    """What there is for each, or why that is not known; one that cannot be resolved stops no other."""
    from anklume_images.builder.sandbox import require_root
    from anklume_images.cli.build import everything
    from anklume_images.errors import AnklumeError
    from anklume_images.inputs.releases import Releases
    from anklume_images.inputs.transport import Transport
    from anklume_images.locking import is_tree
    from anklume_images.updates import find_update

    require_root("resolving inputs")
    releases = Releases(Transport(attempts=2))
    architecture = pipeline.options.architecture
    for name in names or everything(pipeline):
        try:
            if not is_tree(name) and architecture not in pipeline.catalog.get(name).architectures:
                continue
            yield name, find_update(pipeline, name, releases)
        except AnklumeError as error:
            if str(error) not in map(str, errors):  # what is wrong with a file is said once
                session.console.note(f"{name} ({architecture}): not resolved")
                session.console.error(error)
            errors.append(error)
            yield name, str(error)


def _as_json(name: str, architecture: str, result: Update | str) -> dict[str, Any]:
    from dataclasses import asdict

    entry: dict[str, Any] = {"name": name, "architecture": architecture, "changed": False, "error": None}
    if isinstance(result, str):
        return entry | {"error": result, "packages": [], "releases": []}
    return entry | {
        "changed": result.changed,
        "packages": [asdict(change) for change in result.packages],
        "releases": [asdict(release) | {"outdated": release.outdated} for release in result.releases],
    }


def _lines(name: str, architecture: str, result: Update | str, *, written: bool) -> Iterator[str]:
    head = f"{name} ({architecture})"
    if isinstance(result, str):
        yield f"{head}: not resolved"
        return
    yield f"{head}: {'written' if written else 'newer inputs' if result.changed else 'unchanged'}"
    yield from (f"  {change}" for change in result.packages)
    for release in result.releases:
        if release.outdated:
            yield f"  {release.name}: the spec names {release.tag}, the newest release is {release.newest}"
        elif release.newest is None:
            yield f"  {release.name}: the spec names {release.tag}; the newest release is not known: {release.reason}"


def _rows(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for change in entry["packages"]:
        row = {"kind": change["kind"], "input": change["name"], "locked": change["old"], "newest": change["new"]}
        yield {"name": entry["name"], **row}
    for release in entry["releases"]:
        if release["outdated"] or release["unreachable"]:
            row = {"kind": "release", "input": release["name"], "locked": release["tag"], "newest": release["newest"]}
            yield {"name": entry["name"], **row}


def _tell_dependents(session: Session, changed: set[str], chosen: set[str]) -> None:
    """Images made from one that was locked anew were resolved upon its old lock."""
    from anklume_images.errors import AnklumeError

    catalog = session.catalog()
    stale = []
    for name in catalog.names():
        try:
            links = {link.name for link in catalog.chain(name)} - {name}
        except AnklumeError:
            continue
        if links & changed and name not in chosen:
            stale.append(name)
    if stale:
        session.console.note(f"images made from these must be locked again: {', '.join(stale)} (lock --missing)")


def _code(found: list[dict[str, Any]], errors: list[AnklumeError], *, differs: bool) -> int:
    """1 where something could not be found out, or 2 where files are invalid and nothing was worse."""
    codes = {error.exit_code for error in errors}
    codes |= {1 for entry in found for release in entry["releases"] if release["unreachable"]}
    return min(codes) if codes else 3 if differs else 0
