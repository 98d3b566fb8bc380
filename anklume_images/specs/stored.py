"""Images of a store that have no spec here, as those that were only received: what their manifests say of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from anklume_images.specs.keys import Healthcheck, Variable, VersionRule, Volume
from anklume_images.specs.model import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["StoredSpec", "stored_spec"]


@dataclass(frozen=True)
class StoredSpec:
    """As much of a spec as launching takes, its bases' part included; `is_root` where it was made of no other image."""

    spec: Spec
    is_root: bool


def stored_spec(
    name: str, description: str, document: Mapping[str, Any], folder: Path, *, is_root: bool
) -> StoredSpec | None:
    """What a manifest's `spec` says; None for one that this program cannot read.

    It is not built by default, so that a role which an image with a spec has is that one's.
    """
    try:
        spec = Spec(
            name=name,
            folder=folder,
            variant=document["variant"],
            description=description,
            version=VersionRule(literal="0"),
            base=None,
            distribution=document["distribution"],
            release=document["release"],
            default=False,
            provides=tuple(document["provides"]),
            gpus=document.get("gpus"),
            tags=tuple(document["tags"]),
            variables={key: Variable.model_validate(one) for key, one in document["variables"].items()},
            volumes=tuple(Volume.model_validate(one) for one in document["volumes"]),
            healthcheck=document["healthcheck"] and Healthcheck.model_validate(document["healthcheck"]),
            ports=tuple(document["ports"]),
        )
    except (ValidationError, KeyError, TypeError, AttributeError):
        return None
    return StoredSpec(spec, is_root)
