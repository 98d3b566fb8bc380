"""The things that a plan is about: one `Resource` for each object in Incus that is wanted, and what it needs first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from anklume_images.incus.objects import ObjectId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.store.images import Image
    from launcher.infra.model import Machine

__all__ = ["KINDS", "Key", "Kind", "Resource"]

Kind = Literal["image", "project", "acl", "network", "profile", "volume", "machine"]
KINDS: tuple[Kind, ...] = ("image", "project", "acl", "network", "profile", "volume", "machine")
"""In the order in which they are made."""


class Key(NamedTuple):
    """Names one object: `project` is Incus' project, `name` the object's, a volume's with its pool (`pool/volume`)."""

    kind: Kind
    project: str
    name: str

    @property
    def object(self) -> ObjectId:
        """What it is to Incus."""
        return ObjectId("instance" if self.kind == "machine" else self.kind, self.name, self.project)


@dataclass(frozen=True)
class Resource:
    """One wanted object.

    `body` is what Incus is told at its creation: `config` and, for some kinds, `devices`, `description`, `ingress`, …
    `machines` are the machines of the file that it is for, `domain` their domain. `plain` are the config keys of
    variables whose values may be shown: those that its image declares and does not call secret. A new volume begins as
    `image` is at the path `seed`.
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

    @property
    def config(self) -> Mapping[str, str]:
        """Its config keys."""
        config: Mapping[str, str] = self.body.get("config") or {}
        return config
