"""An image from one Incus to another, which fetches it itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anklume_images.errors import StoreError
from anklume_images.ship.aliases import aliases_of
from anklume_images.ship.naming import move_names, moving, taken_back
from anklume_images.ship.publish import PublishReport
from anklume_images.trust.revoked import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anklume_images.incus.client import Incus
    from anklume_images.trust.revoked import Revocation

__all__ = ["is_version", "within_incus"]

_VERSION = re.compile(r".+-[0-9a-f]{12}")


def is_version(selector: str) -> bool:
    """Whether an alias has the form of a version, which ends with a hash of its recipe: an Incus does not say."""
    return _VERSION.fullmatch(selector) is not None


def within_incus(
    source: Incus,
    target: Incus,
    name: str,
    selector: str,
    channel: str,
    revocations: Iterable[Revocation] = (),
    *,
    note: str = "",
    dry_run: bool = False,
) -> PublishReport:
    """An image of one Incus to another, which fetches it itself; `selector` is a channel or a version of it there.

    RevokedError before that where one of the revocations is of it.
    """
    aliases = source.aliases()
    wanted = name if selector == "latest" and f"{name}/latest" not in aliases else f"{name}/{selector}"
    if wanted not in aliases:
        similar = sorted(alias for alias in aliases if alias.partition("/")[0] == name)
        raise StoreError(
            f"it has no image with the alias {wanted}",
            where=source.address,
            hint=f"of {name} there are: {', '.join(similar) or 'none'}",
        )
    fingerprint = aliases[wanted]
    _refuse_revoked(fingerprint, aliases, f"{name}@{selector}", revocations)
    known = [alias.partition("/")[2] for alias in aliases if aliases[alias] == fingerprint and "/" in alias]
    version = max(known, key=lambda alias: (is_version(alias), len(alias)), default=selector)
    there = target.aliases()
    names = aliases_of(name, version, (channel,), there)
    sent = target.image(fingerprint) is None
    if dry_run:
        return PublishReport(fingerprint, sent, moving(names, fingerprint, there))
    if sent:
        target.pull_image(source, fingerprint)
    with taken_back(target, fingerprint, sent=sent):
        return PublishReport(fingerprint, sent, move_names(target, names, fingerprint, note))


def _refuse_revoked(fingerprint: str, aliases: Mapping[str, str], ref: str, revocations: Iterable[Revocation]) -> None:
    """By its bytes; by the alias of its version where a revocation does not know its bytes."""
    for entry in revocations:
        if fingerprint == (entry.fingerprint or aliases.get(f"{entry.name}/{entry.version}")):
            raise refusal(entry, ref, hint="name another version")
