"""The images that `try` starts machines of: built where the store lacks them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from anklume_images.errors import FetchError, StoreError
from anklume_images.store.images import LATEST
from launcher.prepare import choose_images

if TYPE_CHECKING:
    from anklume_images.console import Console
    from anklume_images.errors import AnklumeError
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from launcher.infra.model import Infra

__all__ = ["build"]


def build(pipeline: Pipeline, infra: Infra, console: Console) -> dict[str, Image]:
    """Build what is to be the latest of its kind, and what the store lacks; the image of each machine."""
    images = pipeline.images
    names: dict[str, None] = {}
    for machine in infra.machines():
        choice = machine.image
        if choice.store is None:
            continue
        if choice.version != LATEST or choice.store in pipeline.catalog.without_spec:
            with contextlib.suppress(StoreError):
                images.resolve(choice.ref)
                continue
        names[choice.store] = None
    errors = _build(pipeline, list(names), console)
    for error in errors[1:]:
        console.error(error)
    if errors:
        raise errors[0]
    return choose_images(infra, images)


def _build(pipeline: Pipeline, names: list[str], console: Console) -> list[AnklumeError]:
    """Build these, or say why not; offline, what cannot be built is taken as the store has it, by its channel."""
    errors: list[AnklumeError] = []
    try:
        if names:
            errors = [result.error for result in pipeline.build(names) if result.error]
    except FetchError as error:
        errors = [error]
    channels = [pipeline.images.channels(name, pipeline.options.architecture) for name in names]
    if not (errors and pipeline.options.offline and all(LATEST in found for found in channels)):
        return errors
    for reason in errors:
        console.warn(f"{reason}: the latest in the store is tried")
    return []
