"""The things that a plan is about: one `Resource` for each object in Incus that is wanted, and what it needs first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from anklume_images.incus.objects import ObjectId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.store.images import Image
    from launcher.infra.model import Machine
    from launcher.infra.models import WantedModel

__all__ = ["KINDS", "Key", "Kind", "Resource"]

Kind = Literal["image", "acl", "network", "project", "profile", "volume", "models", "machine"]
KINDS: tuple[Kind, ...] = ("image", "acl", "network", "project", "profile", "volume", "models", "machine")
"""In the order in which they are made. `models` are those in a volume, whose name they have."""


class Key(NamedTuple):
    """Names one object: `project` is Incus' project, `name` the object's, a volume's with its pool (`pool/volume`)."""

    kind: Kind
    project: str
    name: str

    @property
    def object(self) -> ObjectId:
        """What it is to Incus; for models, the volume that they are in."""
        if self.kind == "machine":
            return ObjectId("instance", self.name, self.project)
        return ObjectId("volume" if self.kind == "models" else self.kind, self.name, self.project)


@dataclass(frozen=True)
class Resource:
    """One wanted object.

    `body` is what Incus is told at its creation: `config` and, for some kinds, `devices`, `description`, `ingress`, …
    `machines` are the machines of the file that it is for, `domain` their domain. `plain` are the config keys of
    variables whose values may be shown: those that its image declares and does not call secret. A new volume begins as
    `image` is at the path `seed`. `models` are to be in a volume.
    """

    key: Key
    body: Mapping[str, Any]
    domain: str = ""
    machines: tuple[str, ...] = ()
    needs: tuple[Key, ...] = ()
    machine: Machine | None = field(default=None, repr=False)
    image: Image | None = field(default=None, repr=False)
    plain: frozenset[str] = frozenset()
    seed: str = ""
    models: tuple[WantedModel, ...] = field(default=(), repr=False)

    @property
    def config(self) -> Mapping[str, str]:
        """Its config keys."""
        config: Mapping[str, str] = self.body.get("config") or {}
        return config
