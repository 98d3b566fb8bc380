"""What of a file's things is to go, and what stays: data, and the projects that it is in; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from launcher.infra.names import MACHINE
from launcher.infra.security import is_protected
from launcher.plan.difference import owned

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from launcher.observe.live import Live
    from launcher.resources import Key

__all__ = ["Removal", "describe", "removal_of"]

_ORDER = ("machine", "profile", "volume", "network", "acl", "project")


@dataclass(frozen=True)
class Removal:
    """What is to be removed, in that order; `kept` are volumes and the projects that they are in."""

    keys: tuple[Key, ...] = ()
    kept: tuple[Key, ...] = ()
    protected: tuple[Key, ...] = ()
    owner: str = ""

    def part(self, *kinds: str) -> Removal:
        """The same of some kinds of objects only."""
        return replace(self, keys=tuple(key for key in self.keys if key.kind in kinds))

    @property
    def machines(self) -> tuple[Key, ...]:
        """The instances among them."""
        return tuple(key for key in self.keys if key.kind == "machine")


def removal_of(
    live: Live,
    owner: str,
    *,
    machines: Collection[str] | None = None,
    volumes: Collection[str] = (),
    orphans: Collection[Key] | None = None,
) -> Removal:
    """What destroy removes: all that is the file's, or the instances of some machines, or some orphans.

    Volumes only by name (`volume`, or `domain/volume` where two have it).
    """
    owned_keys = owned(live, owner)
    named = _named_volumes(owned_keys, volumes)
    if orphans is not None:
        chosen = [key for key in owned_keys if key in orphans and key.kind != "volume"]
    elif machines is not None:
        chosen = [key for key in owned_keys if key.kind == "machine" and _machine(live, key) in machines]
    else:
        chosen = [key for key in owned_keys if key.kind != "volume"]
    chosen += named
    kept = _kept(live, owned_keys, chosen)
    leaving = (key for key in chosen if key not in kept and not _made_by_incus(key))
    keys = sorted(leaving, key=lambda key: (_ORDER.index(key.kind), key))
    protected = tuple(key for key in keys if key.kind == "machine" and _is_protected(live, key))
    return Removal(tuple(keys), tuple(kept), protected, owner)


def _machine(live: Live, key: Key) -> str:
    instance = live.get(key) or {}
    return str((instance.get("config") or {}).get(MACHINE))


def _named_volumes(owned_keys: Iterable[Key], volumes: Collection[str]) -> list[Key]:
    existing = [key for key in owned_keys if key.kind == "volume"]
    keys = []
    for volume in volumes:
        project, _, name = volume.rpartition("/")
        matching = [
            key for key in existing if key.name.partition("/")[2] == name and (not project or key.project == project)
        ]
        if len(matching) != 1:
            names = ", ".join(f"{key.project}/{key.name.partition('/')[2]}" for key in matching or existing) or "none"
            problem = "more than one volume is" if matching else "no volume of this file is"
            raise AnklumeError(f"{problem} called {volume!r}", hint=f"there are: {names}")
        keys += matching
    return keys


def _kept(live: Live, owned_keys: Iterable[Key], chosen: Collection[Key]) -> list[Key]:
    """Volumes that stay, and projects in which anything stays: Incus removes only empty ones."""
    volumes = [key for key in owned_keys if key.kind == "volume" and key not in chosen]
    inside = [key for key in live.objects if key.kind in ("machine", "volume", "profile") and not _made_by_incus(key)]
    used = {key.project for key in inside if key not in chosen}
    return [*volumes, *(key for key in chosen if key.kind == "project" and key.name in used)]


def _made_by_incus(key: Key) -> bool:
    return key.kind == "profile" and key.name == "default"


def _is_protected(live: Live, key: Key) -> bool:
    instance = live.get(key) or {}
    return is_protected(instance.get("config") or {})


def describe(keys: Sequence[Key]) -> list[str]:
    """A line for each object."""
    return [
        f"{key.kind} {key.name}" + (f"  (project {key.project})" if key.project not in ("", "default") else "")
        for key in keys
    ]
