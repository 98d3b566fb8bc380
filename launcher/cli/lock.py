"""The command `lock`: which images and models an infra.yml means now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from launcher.cli.session import INFRA, JSON, Session

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["lock"]


@click.command(name="lock")
@INFRA
@JSON
@click.pass_obj
def lock(session: Session, infra: Path, *, as_json: bool) -> None:
    """Show which image version and which models each machine of a file uses now.

    Needs no Incus and no root. `anklume-images bundle create --infra` packs these.
    """
    from anklume_images.console import table
    from launcher.infra.lock import lock_of
    from launcher.prepare import choose_images

    file = session.infra(infra)
    document = lock_of(file, choose_images(file, session.images()), session.models())
    if as_json:
        session.console.json(document)
        return
    rows = [
        (name, entry["image"] or entry["remote"], (entry["fingerprint"] or "-")[:12], " ".join(entry["models"]) or "-")
        for name, entry in document["machines"].items()
    ]
    session.console.result(table(rows, ("MACHINE", "IMAGE", "FINGERPRINT", "MODELS")))
