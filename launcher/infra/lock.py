"""What a file's machines are made of now, by content: their images and models, as one document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.infra.models import named_models

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anklume_images.models.library import Models
    from anklume_images.store.images import Image
    from launcher.infra.model import Infra, Machine

__all__ = ["lock_of"]

SCHEMA = 1


def lock_of(infra: Infra, images: Mapping[str, Image], library: Models) -> dict[str, Any]:
    """The document, described in docs/reference/launch-commands.md; `images` are those of the machines that have one.

    A model that the store lacks has no sha256: the machine would have to pull it.
    """
    machines = {}
    for machine in infra.machines():
        image = images.get(machine.name)
        machines[machine.name] = {
            "domain": machine.domain,
            "image": image.ref if image else None,
            "architecture": image.architecture if image else None,
            "fingerprint": image.fingerprint if image else None,
            "remote": machine.image.remote,
            "models": dict(_models(machine, image, library)) if image else {},
        }
    return {"schema": SCHEMA, "project": infra.project_name, "machines": machines}


def _models(machine: Machine, image: Image, library: Models) -> Iterator[tuple[str, str | None]]:
    for _, _, name in named_models(machine, image):
        model = library.find(name)
        yield (model.name, model.sha256) if model else (name, None)
