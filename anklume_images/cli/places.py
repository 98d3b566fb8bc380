"""Places that images and models are promoted between: how they are written, and how other stores are reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from anklume_images.cli.session import Session
from anklume_images.cli.trust import wanted_in_words
from anklume_images.inputs.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.ship.ssh import Host
    from anklume_images.trust.origin import Origin
    from anklume_images.trust.repository import Repository

__all__ = [
    "Signing",
    "compared",
    "contact",
    "is_incus",
    "is_over_ssh",
    "other_store",
    "received",
    "refuse_ignored",
    "refuse_places",
    "sent_in_words",
    "signing",
    "to_other_host",
    "waiting_in_words",
    "want_believed",
    "want_signed",
    "wanted_channel",
]


def is_incus(place: str) -> bool:
    """Whether a place is a remote of the incus client (`prod:`) rather than a store."""
    return place.endswith(":") and "/" not in place


def is_over_ssh(place: str) -> bool:
    """Whether a place is a store on another host (`ssh://host/folder`)."""
    return place.startswith("ssh:")


def refuse_places(source: str | None, target: str) -> None:
    """UsageError where nothing can be read from an address, or nothing can be sent there: served stores are read."""
    if (scheme := _scheme(source or "")) not in ("", "ssh", "https", "http", "file"):
        raise click.UsageError(
            f"--from {redact(source or '')}: stores are not read by {scheme}://; write a folder, https://HOST:PORT, "
            "ssh://HOST/FOLDER or an Incus (REMOTE:)"
        )
    if (scheme := _scheme(target)) not in ("", "ssh"):
        instead = "write the folder as a path" if scheme == "file" else (
            "write ssh://HOST/FOLDER; or fetch it from the other side: anklume-images pull, on that host"
        )  # fmt: skip
        raise click.UsageError(f"--to {redact(target)}: nothing can be sent by {scheme}://; {instead}")


def _scheme(place: str) -> str:
    scheme, mark, _ = place.partition("://")
    return scheme if mark else ""


def refuse_ignored(why: str, *names: str) -> None:
    """UsageError that names an option of these which was given, as it would be ignored."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]}: {why}")


def wanted_channel(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    """What a channel may be called; BadParameter, before anything is copied for one that may not."""
    from anklume_images.store.images import CHANNEL

    if value is None or CHANNEL.fullmatch(value):
        return value
    raise click.BadParameter(
        f"not the name of a channel: {value!r}; it has small letters, digits and -, a letter first: dev, staging, prod"
    )


def sent_in_words(*, dry_run: bool, sent: bool) -> str:
    """Whether files went, or would go."""
    return "was there" if not sent else "would be sent" if dry_run else "sent"


def compared(identity: str, what: str, whose: str, *, asked: bool) -> str:
    """The fingerprint of a store once somebody has said that it is what its owner told; UsageError if none is asked."""
    if not asked:
        raise click.UsageError(
            f"its fingerprint is {identity}: compare it with the {whose}'s, and give it with --fingerprint"
        )
    click.echo(f"The fingerprint of {what} is\n  {identity}", err=True)
    if not click.confirm(f"Is that what the {whose} says?", err=True):
        raise click.Abort
    return identity


def contact(session: Session, place: str | None) -> Origin:
    """The store at a folder or an address, verified anew; without one, the only store that is believed.

    What it has revoked is offered by this store no more, whatever is done next.
    """
    from anklume_images.ship.index import write_index
    from anklume_images.trust.origins import Origins

    origins = Origins(session.store())
    origin = origins.contact(place or origins.only().place)
    for warning in origin.warnings:
        session.console.warn(warning)
    write_index(session.store())
    return origin


def want_signed(session: Session, keys: Path | None) -> None:
    """Refuse to send from a store that is not signed to another host, which would not believe it."""
    if not session.repository(keys).exists:
        raise click.UsageError("this store is not signed; the other host would refuse it: anklume-images trust sign")


def to_other_host(session: Session, name: str, target: str, keys: Path | None, *moves: str) -> dict[str, Any]:
    """Send an image or a model by its name over ssh; `moves` are options of the import there."""
    from anklume_images.ship.ssh import host_of, send

    own = ["--store", str(session.store().home), "--arch", session.arch()]
    return send(name, own, host_of(target), fingerprint=session.repository(keys).identity, moves=moves)


def received(session: Session, name: str, source: str, fingerprint: str | None) -> dict[str, Any]:
    """Have an image or a model of a store on another host in this one, by a bundle that is made there."""
    from anklume_images.ship.ssh import host_of, receive

    store, host = session.store(), host_of(source)
    want_believed(session, host, fingerprint)
    own = ["--store", str(store.home), "--arch", session.arch()]
    return receive(name, own, host, arch=session.arch(), fingerprint=fingerprint)


def want_believed(session: Session, host: Host, fingerprint: str | None) -> None:
    """Refuse a store on another host that nobody has accepted, unless its fingerprint is given."""
    from anklume_images.ship.ssh import identity_at
    from anklume_images.trust.origins import Origins

    identity = identity_at(host)
    if fingerprint is None and all(one.identity != identity for one in Origins(session.store())):
        raise click.UsageError(
            f"the store at {host} says that its fingerprint is {identity}: compare that with its owner's (trust show), "
            "and give it with --fingerprint"
        )


def other_store(session: Session, folder: str) -> Session:
    """The same options upon another store."""
    return Session(session.specs, Path(folder).expanduser().absolute(), session.architecture, session.console)


class Signing:
    """Signs a store again; `waits` is which signatures are wanted then, for others to see what was done."""

    def __init__(self, store: Session, repository: Repository) -> None:
        self._store = store
        self._repository = repository
        self.waits: list[str] = []

    def __call__(self) -> None:
        """Sign what it holds now."""
        self.waits = wanted_in_words(self._store.sign(self._repository))


def signing(store: Session, keys: Path | None) -> Signing | None:
    """What signs a store again; None where it is not signed."""
    repository = store.repository(keys)
    return Signing(store, repository) if repository.exists else None


def waiting_in_words(waits: Sequence[str]) -> str:
    """What is to be said of something that others are yet to see."""
    return f"not signed yet, so others do not see it: {'; '.join(waits)}"
