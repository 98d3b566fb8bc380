"""Where `promote` has an image from: this store, another one at a folder or an address, or one on another host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from anklume_images.cli.delta_programs import StoredPrograms
from anklume_images.cli.places import contact, is_over_ssh, received, want_believed
from anklume_images.trust.revoked import refuse_known

if TYPE_CHECKING:
    from anklume_images.cli.session import Session
    from anklume_images.store.images import Image

__all__ = ["brought", "looked_up"]

_GATED = "gates check images in this store, and --dry-run copies none: pull it first, or leave out --gate or --dry-run"


def brought(session: Session, ref: str, place: str | None, fingerprint: str | None) -> tuple[Image, str | None]:
    """An image, had in this store, unless it was revoked, and the channel that REF names; no channel here moves."""
    from anklume_images.ship.index import indexed
    from anklume_images.ship.pull import pull

    store, images = session.store(), session.images()
    if place is None:
        return _here(session, ref)
    if is_over_ssh(place):
        (one,) = received(session, ref, place, fingerprint)["images"]
        image = images.resolve(one["ref"], session.arch())
        return image, _channel(ref, image)
    origin = contact(session, place)
    image, channel = origin.resolve(ref, session.arch())
    with indexed(store):
        programs = StoredPrograms(session)
        report = pull(origin, image, images, store, channel=None, progress=session.console, programs=programs)
    return report.image, channel


def looked_up(
    session: Session, ref: str, place: str | None, fingerprint: str | None, *, gated: bool
) -> tuple[Image, str | None]:
    """The same image by what describes it, and that channel; no file is copied. A gate wants it to be here."""
    from anklume_images.ship.pull import refuse_revoked

    if place is None:
        return _here(session, ref)
    if is_over_ssh(place):
        from anklume_images.ship.ssh import host_of, image_at

        want_believed(session, host_of(place), fingerprint)
        image = image_at(ref, host_of(place), session.arch())
        channel = _channel(ref, image)
        refuse_known(image, image.ref, session.store().home)
    else:
        origin = contact(session, place)
        image, channel = origin.resolve(ref, session.arch())
        refuse_revoked(origin, image, image.ref, session.store())
    if gated and session.images().present(*image.key) != image:
        raise click.UsageError(_GATED)
    return image, channel


def _here(session: Session, ref: str) -> tuple[Image, str | None]:
    images = session.images()
    image = images.resolve(ref, session.arch())
    refuse_known(image, image.ref, images.home)
    selector = ref.partition("@")[2]
    return image, selector if selector in images.channels(image.name, image.architecture) else None


def _channel(ref: str, image: Image) -> str | None:
    """Of an image on another host: what its reference names, where that is not its version."""
    selector = ref.partition("@")[2]
    return selector if selector not in ("", image.version) else None
