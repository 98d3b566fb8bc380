"""`--explain`: which images would be built, and what changed since the last build of that name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.builder.recipe import differences
from anklume_images.store.images import LATEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.pipeline import Pipeline
    from anklume_images.results import Result

__all__ = ["explain"]


def explain(pipeline: Pipeline, names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry per image and each base that is needed: `state` is present, missing or invalid; `changes` says why."""
    return [_one(pipeline, result) for result in pipeline.wanted(names).values()]


def _one(pipeline: Pipeline, result: Result) -> dict[str, Any]:
    name = result.name
    if error := result.error:
        hint = [f"hint: {error.hint}"] if error.hint else []
        return {"name": name, "version": None, "state": "invalid", "changes": [str(error), *hint]}
    prepared = pipeline.prepare(name)
    if result.status == "present":
        return {"name": name, "version": prepared.version, "state": "present", "changes": []}
    last = pipeline.images.channels(name, prepared.architecture).get(LATEST)
    image = pipeline.images.get(name, last, prepared.architecture) if last else None
    if image is None:
        changes = ["never built in this store"]
    elif image.version == prepared.version:
        changes = ["its files are missing from the store"]
    else:
        changes = differences(pipeline.images.document(image, "recipe"), prepared.recipe)
    return {"name": name, "version": prepared.version, "state": "missing", "changes": changes}
