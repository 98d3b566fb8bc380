"""The command `deltas`: what hosts with an earlier version have to fetch of a later one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.delta_programs import DELTA_TREE
from anklume_images.cli.session import JSON, OFFLINE, Session, complete_stored

if TYPE_CHECKING:
    from anklume_images.ship.deltas import DeltaReport

_NAMES = click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_stored)


@click.command()
@_NAMES
@click.option(
    "--most",
    type=click.IntRange(1, 100),
    default=50,
    show_default=True,
    metavar="PERCENT",
    help="Keep only deltas up to this share of the whole file.",
)
@OFFLINE
@JSON
@click.pass_obj
def deltas(session: Session, names: tuple[str, ...], *, most: int, offline: bool, as_json: bool) -> None:
    """Make deltas from previous versions to those that channels point to.

    Hosts that have the previous version fetch the delta instead of the image. Without names: for every image.
    """
    from anklume_images.console import human_size
    from anklume_images.errors import StoreError
    from anklume_images.ship.delta_programs import programs_of
    from anklume_images.ship.deltas import make_delta, pairs
    from anklume_images.ship.index import listed_images, write_index

    store, images = session.store(), session.images()
    listed = listed_images(store, images)
    for name in names:
        if name not in {one.image.name for one in listed}:
            raise StoreError(f"the store has no {name}", hint="anklume-images list says what it has")
    found = pairs(listed, names)
    if not found:
        session.console.note("no version that a channel names has one before it")
    reports: list[DeltaReport] = []
    pipeline = session.pipeline(offline=offline)
    with pipeline.leased():
        for pair in found:
            if pair.delta is None:
                session.console.note(f"{pair.later.ref}: making the delta from {pair.earlier.version}")
            reports.append(make_delta(store, pair, lambda: programs_of(pipeline.tree(DELTA_TREE).root), most))
            write_index(store)
    if as_json:
        session.console.json([_document(report) for report in reports])
        return
    for report in reports:
        later = report.pair.later
        sizes = f"{human_size(report.size)} of {human_size(later.rootfs.size)}"
        session.console.result(f"{later.ref}  {report.status}  {sizes} from {report.pair.earlier.version}")


def _document(report: DeltaReport) -> dict[str, Any]:
    later = report.pair.later
    return {
        "ref": later.ref,
        "architecture": later.architecture,
        "from": report.pair.earlier.version,
        "status": report.status,
        "size": report.size,
        "whole": later.rootfs.size,
    }
