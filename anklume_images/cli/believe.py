"""The commands of `trust` on other stores: which are believed, and how long."""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anklume_images.cli.places import compared
from anklume_images.cli.session import Session, user

if TYPE_CHECKING:
    from anklume_images.trust.origins import Origins
    from anklume_images.trust.place import Place

_PLACE = click.argument("place", metavar="PLACE")
_KNOWN = click.argument("place", metavar="PLACE|FINGERPRINT")


@click.command()
@_PLACE
@click.option(
    "--fingerprint", help="The fingerprint that its owner tells you (trust show there); you are asked without it."
)
@click.pass_obj
def accept(session: Session, place: str, fingerprint: str | None) -> None:
    """Trust another store, a folder or an https address, from now on.

    If no authority on this host vouches for its server's certificate, the certificate is kept.
    """
    from anklume_images.trust.origins import Origins
    from anklume_images.trust.repository import identity_of

    store = session.store()
    store.create()
    origins = Origins(store)
    with tempfile.TemporaryDirectory(prefix="anklume-accept-") as folder:
        where, certificate = _reached(place, origins, Path(folder))
        if fingerprint is None:
            identity = identity_of(origins.first_root(where))
            fingerprint = compared(identity, str(where), "owner", asked=sys.stdin.isatty())
        accepted = origins.accept(where, fingerprint, user(), certificate)
    session.console.result(f"accepted {where} ({accepted.identity[:16]}…)")


def _reached(where: str, origins: Origins, folder: Path) -> tuple[Place, bytes | None]:
    """The store's place, and its server's certificate where that is one that only its owner vouches for."""
    from anklume_images.errors import FetchError
    from anklume_images.inputs.answers import Why
    from anklume_images.trust.place import Place, shown_certificate

    place = Place(where)
    try:
        origins.first_root(place)
    except FetchError as error:
        certificate = shown_certificate(where) if error.hint == Why.CERTIFICATE.value else None
        if certificate is None:
            raise
        (folder / "server.pem").write_bytes(certificate)
        place = Place(where, folder / "server.pem")
        origins.first_root(place)
        return place, certificate
    return place, None


@click.command()
@_KNOWN
@click.pass_obj
def forget(session: Session, place: str) -> None:
    """Stop trusting another store. What it has revoked stays revoked."""
    from anklume_images.trust.origins import Origins

    origins = Origins(session.store())
    origins.forget(origins.known(place))
    session.console.result(f"forgot {place}")


@click.command(name="allow-expired")
@_KNOWN
@click.option("--until", metavar="YYYY-MM-DD", help="The last day on which it is accepted.")
@click.option("--why", help="The reason; it is kept and shown.")
@click.option("--never", is_flag=True, help="Do not accept it any more.")
@click.pass_obj
def allow_expired(session: Session, place: str, until: str | None, why: str | None, *, never: bool) -> None:
    """Accept a store's expired metadata for a while, for a host that is rarely in contact with it.

    Each use is reported and logged, with your name and reason.
    """
    from anklume_images.trust.origins import Origins

    if never:
        if until or why:
            raise click.UsageError("--never stands alone")
        origins = Origins(session.store())
        origins.forbid_expired(origins.known(place))
        session.console.result(f"{place}: expired metadata is not accepted any more")
        return
    if not until or not why:
        raise click.UsageError("say --until and --why, or --never")
    try:
        day = date.fromisoformat(until)
    except ValueError:
        raise click.BadParameter(f"{until} is no day: write YYYY-MM-DD") from None
    if day < datetime.now(UTC).date():
        raise click.BadParameter(f"{until} is past")
    origins = Origins(session.store())
    origins.allow_expired(origins.known(place), day.isoformat(), why, user())
    session.console.result(f"{place}: expired metadata is accepted until {day}")
