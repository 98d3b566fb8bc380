"""The command `pull`: images from another store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import JSON, Session

if TYPE_CHECKING:
    from anklume_images.store.images import Image
    from anklume_images.trust.origin import Origin


@click.command()
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option(
    "--from", "place", metavar="PLACE", help="The store: a folder or an https address. Else the only one accepted."
)
@click.option("--channel", help="Point this channel at them, in place of the one that they are asked by.")
@click.option("--dry-run", is_flag=True, help="Only say what would be fetched.")
@JSON
@click.pass_obj
def pull(
    session: Session, refs: tuple[str, ...], place: str | None, channel: str | None, *, dry_run: bool, as_json: bool
) -> None:
    """Have images of another store, which you accepted before (trust accept).

    Without a REF, the newest of all that are here already and there too.
    """
    from anklume_images.ship.index import write_index
    from anklume_images.ship.pull import missing
    from anklume_images.ship.pull import pull as have
    from anklume_images.trust.origins import Origins

    store, images = session.store(), session.images()
    origins = Origins(store)
    origin = origins.contact(place or origins.only().place)
    for warning in origin.warnings:
        session.console.warn(warning)
    chosen = [origin.resolve(ref, session.arch()) for ref in refs or _here(session, origin)]
    done = []
    for image, asked in chosen:
        if dry_run:
            done.append(_row(image, sum(file.size or 0 for file in missing(image, store)), None, None))
            continue
        report = have(origin, image, images, store, channel=channel or asked, progress=session.console)
        done.append(_row(image, report.bytes, report.channel, report.before))
        write_index(store)
    if as_json:
        session.console.json({"from": str(origin.place), "dry_run": dry_run, "images": done})
        return
    for row in done:
        session.console.result(_line(row, dry_run=dry_run))


def _here(session: Session, origin: Origin) -> list[str]:
    here = {(image.name, image.architecture) for image in session.images()}
    there = {(name, arch) for name, _, arch in origin.images() if origin.channels(name, arch).get("latest")}
    return sorted(name for name, arch in here & there if arch == session.arch())


def _row(image: Image, size: int, channel: str | None, before: str | None) -> dict[str, Any]:
    return {
        "ref": image.ref,
        "architecture": image.architecture,
        "fingerprint": image.fingerprint,
        "bytes": size,
        "channel": channel,
        "before": before,
    }


def _line(row: dict[str, Any], *, dry_run: bool) -> str:
    from anklume_images.console import human_size

    ref, version = row["ref"], row["ref"].partition("@")[2]
    if dry_run:
        return f"{ref}: {human_size(row['bytes'])} to fetch" if row["bytes"] else f"{ref}: here"
    words = [f"{ref}: {human_size(row['bytes'])} fetched" if row["bytes"] else f"{ref}: was here"]
    if row["channel"] and row["before"] != version:
        words.append(f"{row['channel']}: {row['before'] or 'new'} → {version}")
    return ", ".join(words)
