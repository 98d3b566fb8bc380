"""An image from one Incus to another, which fetches it itself; and the names that one gets there: all or none."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, StoreError
from anklume_images.incus.client import ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anklume_images.incus.client import Incus

__all__ = ["Moved", "move_names", "names_of", "taken_back", "within_incus"]


@dataclass(frozen=True)
class Moved:
    """What a promotion did: `sent` says whether files went over, `names` each name with what it named before."""

    fingerprint: str
    sent: bool
    names: tuple[tuple[str, str | None], ...]


def names_of(name: str, version: str, channel: str, there: Sequence[str]) -> list[str]:
    """The aliases that an image gets at an Incus: of its version, its channel, and its name if latest or there."""
    names = [f"{name}/{version}", f"{name}/{channel}"]
    return [*names, name] if channel == "latest" or name in there else names


def within_incus(
    source: Incus, target: Incus, name: str, selector: str, channel: str, *, note: str = "", dry_run: bool = False
) -> Moved:
    """An image of one Incus to another, which fetches it itself; `selector` is a channel or a version of it there."""
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
    known = [alias.partition("/")[2] for alias in aliases if aliases[alias] == fingerprint and "/" in alias]
    version = max(known, key=len, default=selector)  # channels are shorter than versions with their hash
    there = target.aliases()
    names = names_of(name, version, channel, list(there))
    sent = target.image(fingerprint) is None
    if dry_run:
        moving = [name for name in names if there.get(name) != fingerprint]
        return Moved(fingerprint, sent, tuple((name, there.get(name)) for name in moving))
    if sent:
        target.pull_image(source, fingerprint)
    with taken_back(target, fingerprint, sent=sent):
        return Moved(fingerprint, sent, move_names(target, names, fingerprint, note))


@contextlib.contextmanager
def taken_back(incus: Incus, fingerprint: str, *, sent: bool) -> Iterator[None]:
    """Remove the image that was sent for what then failed."""
    try:
        yield
    except BaseException:
        if sent:
            with contextlib.suppress(AnklumeError):
                incus.delete_object(ObjectId("image", fingerprint))
        raise


def move_names(incus: Incus, names: Sequence[str], fingerprint: str, note: str) -> tuple[tuple[str, str | None], ...]:
    """Move aliases, each in one request; those that were moved go back when one cannot be.

    The first is the version's own. Of the others, where two move them at once, the channel's says what all name then.
    """
    moved: list[tuple[str, str | None]] = []
    try:
        for name in names:
            before = incus.set_alias(name, fingerprint, note)
            if before != fingerprint:
                moved.append((name, before))
        _agree(incus, names[1:])
    except BaseException:
        for name, before in reversed(moved):
            with contextlib.suppress(AnklumeError):
                if incus.aliases().get(name) != fingerprint:
                    continue  # somebody else has moved it since
                if before is None:
                    incus.delete_alias(name)
                else:
                    incus.set_alias(name, before)
        raise
    return tuple(moved)


def _agree(incus: Incus, names: Sequence[str]) -> None:
    """Let all name what the first does. Whoever moves one looks after it, so the last to look leaves them agreed."""
    channel, *others = names
    while others:
        there = incus.aliases()
        apart = [name for name in others if there.get(name) != there.get(channel)]
        if not apart or channel not in there:
            return
        for name in apart:
            incus.set_alias(name, there[channel], f"as {channel}")
