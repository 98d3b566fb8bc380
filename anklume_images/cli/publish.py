"""The command `publish`: from a reference to an image in Incus."""

from __future__ import annotations

from typing import Any

import click

from anklume_images.cli.session import JSON, REF, Session


@click.command()
@REF
@click.option("--remote", help="A remote of the incus client's configuration.")
@click.option("--project", help="The Incus project.")
@JSON
@click.pass_obj
def publish(session: Session, ref: str, remote: str | None, project: str | None, *, as_json: bool) -> None:
    """Import an image into Incus, with its aliases and properties, unless it is there already."""
    report = _publish(session, ref, remote, project)
    if as_json:
        session.console.json(report)
    else:
        session.console.result(f"{report['ref']}: {report['status']} as {report['fingerprint'][:12]}")


def _publish(session: Session, ref: str, remote: str | None, project: str | None) -> dict[str, Any]:
    """Publish one image and say what changed."""
    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import image_files
    from anklume_images.ship.publish import publish as send

    images, store, console = session.images(), session.store(), session.console
    image = images.resolve(ref, session.arch())
    files = image_files(image, images, store)
    with store.lease() as lease, Incus.find(remote, project=project) as incus:
        lease.add([image.metadata.sha256, image.rootfs.sha256])
        sent = 0

        def progress(done: int, total: int) -> None:
            nonlocal sent
            if not sent:  # not before: what is there is not sent
                console.start(total, 1, "sending")
            console.advance(done - sent)
            sent = done

        try:
            report = send(files, incus, progress)
        finally:
            console.finish()
    changed = bool(report.aliases_changed or report.properties_changed)
    return {
        "ref": image.ref,
        "fingerprint": report.fingerprint,
        "status": "imported" if report.imported else "changed" if changed else "present",
        "aliases": {change.name: change.after for change in report.aliases_changed},
    }
