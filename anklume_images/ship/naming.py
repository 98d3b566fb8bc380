"""The names of an image at an Incus: moved to it all or none, and last, when it is whole there."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from anklume_images.incus.client import ObjectId
from anklume_images.store.images import LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anklume_images.incus.client import Incus

__all__ = ["AliasChange", "move_names", "moving", "taken_back"]


@dataclass(frozen=True)
class AliasChange:
    """An alias that was made (`before` is None) or moved."""

    name: str
    before: str | None
    after: str


def moving(names: Sequence[str], fingerprint: str, there: Mapping[str, str]) -> tuple[AliasChange, ...]:
    """Which of an image's names do not name it yet, in that order; `there` is what all names of the Incus mean."""
    return tuple(AliasChange(name, there.get(name), fingerprint) for name in names if there.get(name) != fingerprint)


def move_names(incus: Incus, names: Sequence[str], fingerprint: str, note: str = "") -> tuple[AliasChange, ...]:
    """Move what does not name an image yet, each in one request; when one cannot be, all go back as they were.

    `names` are in the order of `aliases_of`. `note` becomes the description of those that move.
    """
    moved: list[AliasChange] = []
    notes = incus.alias_notes() if names else {}
    try:
        for change in moving(names, fingerprint, incus.aliases() if names else {}):
            before = incus.set_alias(change.name, fingerprint, note)
            if before != fingerprint:
                moved.append(AliasChange(change.name, before, fingerprint))
        _agree(incus, names)
    except BaseException:
        for change in reversed(moved):
            with contextlib.suppress(AnklumeError):
                if incus.aliases().get(change.name) != fingerprint:
                    continue  # somebody else has moved it since
                if change.before is None:
                    incus.delete_alias(change.name)
                else:
                    incus.set_alias(change.name, change.before, notes.get(change.name, ""))
        raise
    return tuple(moved)


def _agree(incus: Incus, names: Sequence[str]) -> None:
    """Let the bare name mean what its channel does, where two move both at once.

    Whoever moves one looks after it, so the last to look leaves them agreed.
    """
    if len(names) < 3 or "/" in names[-1]:  # of version, channels and bare name
        return
    bare, latest = names[-1], f"{names[-1]}/{LATEST}"
    channel = latest if latest in names else names[-2]
    while (there := incus.aliases()).get(bare) != there.get(channel) and channel in there:
        incus.set_alias(bare, there[channel], f"as {channel}")


@contextlib.contextmanager
def taken_back(incus: Incus, fingerprint: str, *, sent: bool) -> Iterator[None]:
    """Remove the image that was sent for what then failed, unless somebody else has named it meanwhile."""
    try:
        yield
    except BaseException:
        if sent:
            with contextlib.suppress(AnklumeError):
                if (image := incus.image(fingerprint)) is not None and not image.aliases:
                    incus.delete_object(ObjectId("image", fingerprint))
        raise
