"""The command `revoke`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from anklume_images.cli.session import REF, Session
from anklume_images.cli.trust import KEYS, tell

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@REF
@click.option("--model", "of_model", is_flag=True, help="REF is the name of a language model.")
@click.option("--why", help="The reason; everybody who uses it sees it.")
@click.option("--undo", is_flag=True, help="Take the revocation back.")
@KEYS
@click.pass_obj
def revoke(session: Session, ref: str, why: str | None, keys: Path | None, *, of_model: bool, undo: bool) -> None:
    """Revoke an image or a model, signed. Other hosts follow at their next contact."""
    from anklume_images.ship.index import write_index
    from anklume_images.trust.clock import now
    from anklume_images.trust.revoked import Revocation, read_revocations, write_revocations

    if not (why or undo):
        raise click.UsageError("say --why")
    store = session.store()
    if of_model:
        model = session.models().model(ref)
        entry = Revocation(model.name, "", "", model.sha256, why or "", now())
    else:
        image = session.images().resolve(ref, session.arch())
        entry = Revocation(image.name, image.version, image.architecture, image.fingerprint, why or "", now())
    others = [other for other in read_revocations(store.home) if other.fingerprint != entry.fingerprint]
    write_revocations(store.home, others if undo else [*others, entry])
    write_index(store)
    repository = session.repository(keys)
    session.console.result(f"{'not revoked any more' if undo else 'revoked'}: {entry}")
    if repository.exists:
        tell(session, repository, session.sign(repository))
    else:
        session.console.warn("this store is not signed, so no other store hears of it: anklume-images trust sign")
