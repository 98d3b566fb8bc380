"""The command `promote --model`: a language model from store to store."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.places import (
    contact,
    is_incus,
    is_over_ssh,
    other_store,
    received,
    refuse_ignored,
    sent_in_words,
    signing,
    to_other_host,
    waiting_in_words,
    want_signed,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.cli.session import Session
    from anklume_images.store.models import ModelRecord


def promote_model(
    session: Session,
    name: str,
    keys: Path | None,
    *,
    source: str | None,
    target: str,
    dry_run: bool,
    as_json: bool,
    fingerprint: str | None,
    **_of_images: Any,
) -> None:
    """Bring a model to another store, from this one or by way of it."""
    from anklume_images.models.library import record_of
    from anklume_images.ship.pull import pull_model
    from anklume_images.trust.revoked import refuse_known

    refuse_ignored(
        "a model has no channel, no record of its moves, and no gates: say only where to",
        *("channel", "why", "gates", "builders", "databases", "severity"),
    )
    if is_incus(target) or (source and is_incus(source)):
        raise click.UsageError("an Incus keeps no models: anklume-launch copies them into the volumes of machines")
    if is_over_ssh(target):
        want_signed(session, keys)
    store, library = session.store(), session.models()
    if source and is_over_ssh(source):
        _receive_model(session, name, source, fingerprint, dry_run=dry_run)
    origin = contact(session, source) if source and not is_over_ssh(source) else None
    record = origin.model(name) if origin else record_of(library.model(name))
    refuse_known(record, record.name, store.home)
    if origin:
        library.check_new(record.name, record.sha256)
    with store.lease() as lease:
        lease.add(record.blobs())
        if not dry_run and origin:
            pull_model(origin, record, store, progress=session.console)
        elif not dry_run:
            library.record(name)
        sent, replaced, waits = _send_model(session, record, target, keys, dry_run=dry_run)
    if waits:
        session.console.warn(waiting_in_words(waits))
    if as_json:
        report = {"model": record.name, "sha256": record.sha256, "sent": sent, "replaced": replaced}
        session.console.json(report | {"waits": waits, "dry_run": dry_run})
        return
    other = ", in place of another of that name" if replaced else ""
    other += "; not signed yet" if waits else ""
    session.console.result(f"{record.name} to {target}: {sent_in_words(dry_run=dry_run, sent=sent)}{other}")


def _receive_model(session: Session, name: str, source: str, fingerprint: str | None, *, dry_run: bool) -> None:
    """From a store on another host into this one, unless the name here is a spec's with another file."""
    from anklume_images.ship.ssh import host_of, model_at

    if dry_run:
        raise click.UsageError(
            "--dry-run does not work for a model from a store over ssh: its record comes with its files"
        )
    if sha256 := model_at(name, host_of(source)):
        session.models().check_new(name, sha256)
    received(session, f"{name}:latest", source, fingerprint)


def _send_model(
    session: Session, record: ModelRecord, target: str, keys: Path | None, *, dry_run: bool
) -> tuple[bool, bool, list[str]]:
    """To another store; whether it was not there as it is, whether another one had its name, what it waits for."""
    from anklume_images.ship.index import indexed
    from anklume_images.ship.promote import model_into_store

    if is_over_ssh(target):
        if dry_run:
            from anklume_images.ship.ssh import host_of, model_at

            known = model_at(record.name, host_of(target))
            return known != record.sha256, known not in (None, record.sha256), []
        name = f"{record.name}:latest"  # the same model, and never an image of that name
        report = to_other_host(session, name, target, keys)
        (state,) = (one["state"] for one in report["models"])
        return state != "here", state == "changed", report["waits"]
    other = other_store(session, target)
    store, sign = other.store(), signing(other, keys)
    with contextlib.nullcontext() if dry_run else indexed(store):
        sent = model_into_store(record, session.store(), store, sign=sign, progress=session.console, dry_run=dry_run)
    return *sent, sign.waits if sign else []
