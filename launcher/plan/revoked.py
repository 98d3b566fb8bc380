"""Images and models that were revoked: nothing new is made of one, and what is there with one is told of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.trust.revoked import RevokedError
from launcher.infra.names import IMAGE
from launcher.plan.changes import BASE_IMAGE, MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from anklume_images.trust.revoked import Revocation
    from launcher.observe.live import Live
    from launcher.plan.difference import Step

__all__ = ["heed"]


def heed(steps: Iterable[Step], live: Live, revocations: Iterable[Revocation]) -> list[str]:
    """What to tell of machines and volumes that have something revoked; RevokedError where one would get it."""
    known = list(revocations)
    revoked = {entry.fingerprint: entry for entry in known}
    found = [one for step in steps for one in (*_image(step, live, known), *_models(step, revoked))]
    if refused := [text for text, is_new in found if is_new]:
        raise RevokedError(
            "\n".join(refused), hint="name another version, channel or model, or build or pull a newer one"
        )
    return [text for text, _ in found]


def _image(step: Step, live: Live, known: list[Revocation]) -> Iterator[tuple[str, bool]]:
    """What to say of the image of a step's machine, and whether the step would make it of that."""
    image = step.resource.image
    if step.key.kind != "machine" or image is None:
        return
    made = step.action in ("create", "replace")
    config = (live.get(step.key) or {}).get("config") or {}
    running = config.get(BASE_IMAGE), config.get(IMAGE), image.architecture
    if entry := next((one for one in known if (one.concerns(image) if made else _is_of(one, *running))), None):
        if made:
            yield f"{step.key.name} would be made of it: {_said(entry)}", True
        else:
            yield f"{step.key.name} runs on it: {_said(entry)}; --replace brings the version of its channel", False


def _is_of(entry: Revocation, fingerprint: str | None, ref: str | None, architecture: str) -> bool:
    """Whether it is the image that a machine was made of, by what its Incus keeps of that."""
    if entry.fingerprint:
        return entry.fingerprint == fingerprint
    return (entry.ref, entry.architecture) == (ref, architecture)


def _models(step: Step, revoked: dict[str, Revocation]) -> Iterator[tuple[str, bool]]:
    """What to say of the models of a step's volume, and whether the step would bring one there."""
    brought = {change.key.removeprefix(MODELS) for change in step.changes}
    for model in step.resource.models if step.key.kind == "models" else ():
        if entry := next((revoked[file.sha256] for file in model.files if file.sha256 in revoked), None):
            if model.name in brought:
                yield f"volume {step.key.name} would get it: {_said(entry)}", True
            else:
                yield f"volume {step.key.name} has it: {_said(entry)}; name another model, and delete its file", False


def _said(entry: Revocation) -> str:
    return f"{entry.ref} was revoked on {entry.since[:10]}: {entry.why}"
