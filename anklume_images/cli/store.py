"""The commands on what the store holds: list, show."""

from __future__ import annotations

import shlex
from typing import Any

import click

from anklume_images.cli.session import JSON, REF, Session

__all__ = ["list_", "show"]


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
