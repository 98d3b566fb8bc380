"""The command that removes what nothing needs, and says what needs a thing."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING

import click

from anklume_images.cli.session import JSON, Session, complete_refs

if TYPE_CHECKING:
    from anklume_images.store.gc import GcReport, Wants

__all__ = ["gc"]

_HEX = re.compile(r"[0-9a-f]{12,64}")


class _Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> int:
        from anklume_images.incus.values import bytes_of

        size = bytes_of(value)
        if size is None:
            self.fail(f"{value!r} is no size: write 20GiB, 500MB or bytes", parameter, context)
        return size


@click.command()
@click.option(
    "--why", metavar="REF|SHA", shell_complete=complete_refs, help="Show what keeps an image, a blob or a tree."
)
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Versions to keep for each channel.")
@click.option(
    "--max-size", "budget", type=_Size(), metavar="SIZE", help="Remove only the oldest, until the store fits."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@JSON
@click.pass_obj
def gc(
    session: Session, why: str | None, keep: int | None, budget: int | None, *, dry_run: bool, as_json: bool
) -> None:
    """Remove what no channel, build, tree in use, lock or model needs."""
    from anklume_images.ship.index import write_index
    from anklume_images.store.gc import collect

    wants = _wants(session, keep)
    if why:
        _why(session, why, wants, as_json=as_json)
        return
    store = session.store()
    report = collect(store, session.images(), wants, dry_run=dry_run, budget=budget, unlist=lambda: write_index(store))
    if as_json:
        document = {"removed": list(report.removed), "bytes": report.bytes, "dry_run": dry_run}
        session.console.json(document | ({} if budget is None else {"size": report.size, "fits": report.fits}))
    else:
        _tell(session, report, budget, dry_run=dry_run)
    sys.exit(0 if report.fits else 1)


def _tell(session: Session, report: GcReport, budget: int | None, *, dry_run: bool) -> None:
    from anklume_images.console import human_size

    done = "would remove" if dry_run else "removed"
    nameless = [
        line for line in report.removed if line.startswith(("blob ", "leftover building/", "leftover partial/"))
    ]
    for line in report.removed:
        if line not in nameless:
            session.console.note(f"{done} {line}")
    if nameless:
        count = f"{len(nameless)} blobs and leftovers of builds and downloads"
        session.console.note(f"{done} {count} (--json names them)")
    session.console.result(f"{'would free' if dry_run else 'freed'} {human_size(report.bytes)}")
    if budget is None or report.size is None:
        return
    session.console.result(f"the store {'would have' if dry_run else 'has'} {human_size(report.size)}")
    if not report.fits:
        session.console.warn(
            f"{human_size(budget)} cannot be met: the rest is needed. --keep 1 keeps no older versions, "
            "anklume-images channel rm lets a channel go, anklume-images gc --why REF says what keeps an image"
        )


def _why(session: Session, why: str, wants: Wants, *, as_json: bool) -> None:
    from anklume_images.errors import StoreError
    from anklume_images.store.gc import reasons, reasons_of_name

    store, images = session.store(), session.images()
    if _HEX.fullmatch(why):
        found = reasons_of_name(store, images, why, wants)
        if not found:
            raise StoreError(f"the store has no blob and no tree {why}", where=str(store.home))
        if len(found) > 1:
            raise StoreError(f"{len(found)} blobs or trees begin with {why}", hint="write more of it")
        ((_, kept_by),) = found.items()
    else:
        kept_by = reasons(store, images, images.resolve(why, session.arch()), wants)
    if as_json:
        session.console.json({"ref": why, "kept_by": kept_by})
    else:
        session.console.result("\n".join(kept_by) or "nothing: gc would remove it")


def _wants(session: Session, keep: int | None) -> Wants:
    import os

    from anklume_images.settings import load_settings
    from anklume_images.store.gc import Wants

    blobs = _locked_inputs(session) | _of_tools(session) | dict.fromkeys(session.models().needed(), "a model")
    return Wants(_trees_in_use(session), blobs, keep or load_settings(os.environ).generations)


def _locked_inputs(session: Session) -> dict[str, str]:
    """What committed locks name, and those that were made anew in the store."""
    from anklume_images.errors import AnklumeError
    from anklume_images.inputs.lockfile import load_locks

    catalog, home = session.catalog(), session.store().home
    paths = {path: path.parent.name for path in sorted(home.glob("locks/*/*.json"))}
    for name in catalog.names():
        with contextlib.suppress(AnklumeError):
            paths[catalog.get(name).lock_file] = name
    found: dict[str, str] = {}
    for path, name in paths.items():
        with contextlib.suppress(AnklumeError, OSError):
            for lock in load_locks(path).values():
                found |= dict.fromkeys((entry.sha256 for entry in lock), f"the lock of {name}")
    return found


def _of_tools(session: Session) -> dict[str, str]:
    """The packages of the private Incus that came in a bundle: nobody could fetch them again."""
    from anklume_images.bundle.tool import tools_of

    home = session.store().home
    return {sha256: f"the tool {tool.name}" for tool in tools_of(home) for sha256 in tool.blobs}


def _trees_in_use(session: Session) -> dict[str, str]:
    from anklume_images.builder.trees import tree_digest, tree_names
    from anklume_images.errors import LockError

    locks = session.pipeline().locks
    digests = {}
    for name in tree_names():
        with contextlib.suppress(LockError):
            digests[tree_digest(locks.get(name))] = f"the lock of {name}"
    return digests
