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
    from anklume_images.trust.revoked import refuse_known

    images, store = session.images(), session.store()
    image = images.resolve(ref, session.arch())
    refuse_known(image, image.ref, store.home)
    files = image_files(image, images, store)
    with store.lease() as lease, Incus.find(remote, project=project) as incus, session.console.sending() as progress:
        lease.add(image.blobs())
        report = send(files, incus, progress)
    changed = bool(report.aliases_changed or report.properties_changed)
    return {
        "ref": image.ref,
        "fingerprint": report.fingerprint,
        "status": "imported" if report.imported else "changed" if changed else "present",
        "aliases": {change.name: change.after for change in report.aliases_changed},
    }
