"""The commands on what the store holds: list, show, sbom, verify, gc."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from anklume_images.cli.session import JSON, REF, Session, complete_refs

__all__ = ["gc", "list_", "sbom", "show", "verify"]


@click.command(name="list")
@JSON
@click.pass_obj
def list_(session: Session, *, as_json: bool) -> None:
    """List the images in the store."""
    from anklume_images.console import human_size, table
    from anklume_images.store.summaries import summaries

    images = session.images()
    channels: dict[tuple[str, str], dict[str, str]] = {}
    rows = []
    for image in summaries(session.store(), images):
        place = (image.name, image.architecture)
        if place not in channels:
            channels[place] = images.channels(*place)
        rows.append((image, [name for name, version in channels[place].items() if version == image.version]))
    if as_json:
        session.console.json([_summary(image) | {"channels": pointing} for image, pointing in rows])
        return
    cells = [
        (
            i.name,
            i.version,
            i.architecture,
            ",".join(c) or "-",
            human_size(i.rootfs.size),
            i.fingerprint[:12],
            i.description,
        )
        for i, c in rows
    ]
    session.console.result(table(cells, ("NAME", "VERSION", "ARCH", "CHANNELS", "SIZE", "FINGERPRINT", "DESCRIPTION")))


def _summary(image: Any) -> dict[str, Any]:
    return {
        "name": image.name,
        "version": image.version,
        "architecture": image.architecture,
        "fingerprint": image.fingerprint,
        "size": image.metadata.size + image.rootfs.size,
        "unpacked": image.unpacked,
        "recipe": image.recipe,
        "base": image.base,
        "description": image.description,
    }


@click.command()
@REF
@JSON
@click.pass_obj
def show(session: Session, ref: str, *, as_json: bool) -> None:
    """Show one image: fingerprint, recipe, sizes and settings.

    With --json, its packages too.
    """
    from dataclasses import asdict

    from anklume_images.console import human_size

    image = session.images().resolve(ref, session.arch())
    if as_json:
        session.console.json(asdict(image))
        return
    base = f"{image.base['name']}@{image.base['version']}" if image.base else "none"
    lines = [
        f"{image.ref} ({image.architecture})",
        f"  {image.description}",
        f"  fingerprint  {image.fingerprint}",
        f"  recipe       {image.recipe}",
        f"  base         {base}",
        f"  size         {human_size(image.rootfs.size)}, unpacked {human_size(image.unpacked)}",
        f"  provides     {', '.join(image.spec['provides']) or '-'}",
        f"  packages     {len(image.packages)}",
        f"  ports        {', '.join(str(port) for port in image.spec['ports']) or '-'}",
        f"  volumes      {', '.join(volume['path'] for volume in image.spec['volumes']) or '-'}",
        f"  healthcheck  {shlex.join((image.spec['healthcheck'] or {}).get('command', ['-']))}",
    ]
    lines += [f"  variable     {name} ({v['type']}) {v['description']}" for name, v in image.spec["variables"].items()]
    session.console.result("\n".join(lines))


@click.command()
@REF
@click.pass_obj
def sbom(session: Session, ref: str) -> None:
    """Print an image's software bill of materials (CycloneDX JSON)."""
    images = session.images()
    session.console.json(images.document(images.resolve(ref, session.arch()), "sbom.cdx"))


@click.command()
@click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=complete_refs)
@click.option("--repair", is_flag=True, help="Remove damaged blobs, so that they are fetched or built again.")
@JSON
@click.pass_obj
def verify(session: Session, refs: tuple[str, ...], *, repair: bool, as_json: bool) -> None:
    """Compare every byte of images with its hash.

    Without a name, of the whole store.
    """
    from anklume_images.ship.index import write_index
    from anklume_images.store.verify import verify_store

    report = verify_store(session.store(), session.images(), refs, session.arch(), repair=repair)
    if repair and report.damaged:
        write_index(session.store())
    if as_json:
        session.console.json({"checked": report.checked, "bytes": report.bytes, "damaged": list(report.damaged)})
    else:
        for line in report.damaged:
            session.console.result(f"damaged: {line}")
        session.console.result(f"{report.checked} files checked, {len(report.damaged)} damaged")
    sys.exit(1 if report.damaged and not repair else 0)


@click.command()
@click.option("--why", metavar="REF", help="Say what keeps an image.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@JSON
@click.pass_obj
def gc(session: Session, why: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Remove what no channel, build, tree in use or locked model needs."""
    from anklume_images.console import human_size
    from anklume_images.ship.index import write_index
    from anklume_images.store.gc import collect, reasons

    store, images = session.store(), session.images()
    if why:
        kept_by = reasons(store, images, images.resolve(why, session.arch()))
        if as_json:
            session.console.json({"ref": why, "kept_by": kept_by})
        else:
            session.console.result("\n".join(kept_by) or "nothing: gc would remove it")
        return
    needed = session.models().needed()
    report = collect(store, images, _trees_in_use(session), needed, dry_run=dry_run, unlist=lambda: write_index(store))
    if as_json:
        session.console.json({"removed": list(report.removed), "bytes": report.bytes, "dry_run": dry_run})
        return
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


def _trees_in_use(session: Session) -> set[str]:
    from anklume_images.builder.trees import tree_digest, tree_names
    from anklume_images.errors import LockError

    locks = session.pipeline().locks
    digests = set()
    for name in tree_names():
        try:
            digests.add(tree_digest(locks.get(name)))
        except LockError:
            continue
    return digests
