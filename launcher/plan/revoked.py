"""Images that were revoked: nothing new is made of one, and what runs on one is told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.errors import PolicyError
from launcher.plan.changes import BASE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anklume_images.trust.revoked import Revocation
    from launcher.observe.live import Live
    from launcher.plan.difference import Step

__all__ = ["RevokedImageError", "heed"]


class RevokedImageError(PolicyError):
    """A machine would be made of an image that is not to be used any more."""


def heed(steps: Iterable[Step], live: Live, revocations: Iterable[Revocation]) -> list[str]:
    """What to tell of machines that run on revoked images; RevokedImageError where one would be made of such."""
    revoked = {entry.fingerprint: entry for entry in revocations}
    refused, notices = [], []
    for step in steps:
        resource = step.resource
        if step.key.kind != "machine" or resource.image is None:
            continue
        name, made = step.key.name, step.action in ("create", "replace")
        config = (live.get(step.key) or {}).get("config") or {}
        has = resource.image.fingerprint if made else config.get(BASE_IMAGE)
        entry = revoked.get(has or "")
        if entry is None:
            continue
        text = f"{entry.name}@{entry.version} was revoked on {entry.since[:10]}: {entry.why}"
        if made:
            refused.append(f"{name} would be made of it: {text}")
        else:
            notices.append(f"{name} runs on it: {text}; --replace brings the version of its channel")
    if refused:
        raise RevokedImageError(
            "\n".join(refused), hint="name another version or channel of the image, or build or pull a newer one"
        )
    return notices
