"""The command `revoke`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from anklume_images.cli.session import REF, Session
from anklume_images.cli.trust import KEYS, tell
from anklume_images.errors import AnklumeError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.trust.revoked import Revocation


@click.command()
@REF
@click.option("--model", "of_model", is_flag=True, help="REF is the name of a language model.")
@click.option("--why", help="The reason; everybody who uses it sees it.")
@click.option("--undo", is_flag=True, help="Take the revocation back.")
@KEYS
@click.pass_obj
def revoke(session: Session, ref: str, why: str | None, keys: Path | None, *, of_model: bool, undo: bool) -> None:
    """Revoke an image or a model, signed. Other hosts follow at their next contact.

    REF may be a version that is gone from the store, or a fingerprint, or its first 12 digits or more.
    """
    from anklume_images.ship.index import write_index
    from anklume_images.trust.clock import now
    from anklume_images.trust.outcome import NoKeyError, Outcome
    from anklume_images.trust.revocable import revocable_image
    from anklume_images.trust.revoked import change_revocations

    if not (why or undo):
        raise click.UsageError("--why is missing: give the reason")
    store, repository = session.store(), session.repository(keys)
    found = _model(session, ref) if of_model else revocable_image(ref, session.arch(), store, repository)
    entry = replace(found, why=why or "", since=now())
    if not entry.fingerprint and not undo:
        session.console.note(f"nothing here knows the fingerprint of {ref} any more: it is revoked by name and version")

    def change(before: tuple[Revocation, ...]) -> list[Revocation]:
        others = [other for other in before if not other.is_about(entry)]
        if undo and len(others) == len(before):
            raise StoreError(f"{entry} is not revoked here", where=str(store.home))
        return others if undo else [*others, entry]

    store.create()
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


def _model(session: Session, name: str) -> Revocation:
    from anklume_images.trust.revocable import gone_model
    from anklume_images.trust.revoked import Revocation

    try:
        model = session.models().model(name)
    except AnklumeError:
        if found := gone_model(name, session.store()):
            return found
        raise
    return Revocation(model.name, "", "", model.sha256, "", "")
