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
    from anklume_images.trust.outcome import NoKeyError, Outcome
    from anklume_images.trust.revoked import Revocation, change_revocations

    if not (why or undo):
        raise click.UsageError("say --why")
    store = session.store()
    if of_model:
        model = session.models().model(ref)
        entry = Revocation(model.name, "", "", model.sha256, why or "", now())
    else:
        image = session.images().resolve(ref, session.arch())
        entry = Revocation(image.name, image.version, image.architecture, image.fingerprint, why or "", now())
    repository = session.repository(keys)

    def change(before: tuple[Revocation, ...]) -> list[Revocation]:
        others = [other for other in before if other.fingerprint != entry.fingerprint]
        return others if undo else [*others, entry]

    change_revocations(store.home, change, signed=repository.exists)
    write_index(store)
    session.console.result(f"{'not revoked any more' if undo else 'revoked'}: {entry}")
    if not repository.exists:
        session.console.warn("this store is not signed, so no other store hears of it: anklume-images trust sign")
        return
    try:
        outcome = session.sign(repository)
    except NoKeyError as error:
        outcome = Outcome(wanted=error.wanted)
    if outcome.wanted:
        session.console.warn("other stores hear of it when it is signed; until then it holds in this store")
    tell(session, repository, outcome)
