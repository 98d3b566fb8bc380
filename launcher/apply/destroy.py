"""Removes what the launcher made for a file; data stays, and so does whoever is protected from it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.errors import AnklumeError, IncusError, PolicyError
from anklume_images.incus import is_missing
from launcher.apply.claims import Claimant, release
from launcher.apply.steps import stop
from launcher.plan.difference import owned
from launcher.plan.live import read_live
from launcher.plan.names import MACHINE, owner_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from anklume_images.console import Console
    from anklume_images.incus import Incus
    from launcher.infra.model import Infra
    from launcher.plan.live import Live
    from launcher.plan.resources import Key

__all__ = ["ProtectedError", "Removal", "describe", "plan_removal", "remove"]

_WORKERS = 8
_PROTECTION = "security.protection.delete"
_PATHS = {"acl": "network-acls", "network": "networks", "profile": "profiles", "project": "projects"}


class ProtectedError(PolicyError):
    """Machines are protected from being deleted."""


@dataclass(frozen=True)
class Removal:
    """What is to be removed, in that order; `kept` are volumes and the projects that they are in."""

    keys: tuple[Key, ...]
    kept: tuple[Key, ...]
    protected: tuple[Key, ...]
    owner: str

    @property
    def machines(self) -> tuple[Key, ...]:
        """The instances among them."""
        return tuple(key for key in self.keys if key.kind == "machine")


def plan_removal(
    infra: Infra,
    incus: Incus,
    *,
    machines: Collection[str] | None = None,
    volumes: Collection[str] = (),
    orphans: Collection[Key] | None = None,
) -> Removal:
    """What destroy removes: all that is the file's, or the instances of some machines, or some orphans.

    Volumes only by name (`volume`, or `domain/volume` where two have it).
    """
    pools = {pool["name"] for pool in incus.get("storage-pools", recursion=1)}
    live = read_live(incus, pools)
    own = owned(live, infra.project_name)
    named = _named_volumes(own, volumes)
    if orphans is not None:
        chosen = [key for key in own if key in orphans and key.kind != "volume"]
    elif machines is not None:
        chosen = [key for key in own if key.kind == "machine" and _machine(live, key) in machines]
    else:
        chosen = [key for key in own if key.kind != "volume"]
    chosen += named
    kept = _kept(live, own, chosen)
    order = ("machine", "profile", "volume", "network", "acl", "project")
    keys = sorted((key for key in chosen if key not in kept), key=lambda key: (order.index(key.kind), key))
    protected = tuple(key for key in keys if key.kind == "machine" and _is_protected(live, key))
    return Removal(tuple(keys), tuple(kept), protected, infra.project_name)


def _machine(live: Live, key: Key) -> str:
    there = live.get(key) or {}
    return str((there.get("config") or {}).get(MACHINE))


def _named_volumes(own: Iterable[Key], volumes: Collection[str]) -> list[Key]:
    there = [key for key in own if key.kind == "volume"]
    found = []
    for wanted in volumes:
        project, _, name = wanted.rpartition("/")
        matching = [
            key for key in there if key.name.partition("/")[2] == name and (not project or key.project == project)
        ]
        if len(matching) != 1:
            names = ", ".join(f"{key.project}/{key.name.partition('/')[2]}" for key in matching or there) or "none"
            problem = "more than one volume is" if matching else "no volume of this file is"
            raise AnklumeError(f"{problem} called {wanted!r}", hint=f"there are: {names}")
        found += matching
    return found


def _kept(live: Live, own: Iterable[Key], chosen: Collection[Key]) -> list[Key]:
    """Volumes that stay, and projects in which anything stays: Incus removes only empty ones."""
    volumes = [key for key in own if key.kind == "volume" and key not in chosen]
    inside = [key for key in live.objects if key.kind in ("machine", "volume", "profile") and not _made_by_incus(key)]
    used = {key.project for key in inside if key not in chosen}
    return [*volumes, *(key for key in chosen if key.kind == "project" and key.name in used)]


def _made_by_incus(key: Key) -> bool:
    return key.kind == "profile" and key.name == "default"


def _is_protected(live: Live, key: Key) -> bool:
    there = live.get(key) or {}
    return (there.get("config") or {}).get(_PROTECTION) == "true"


def remove(removal: Removal, incus: Incus, console: Console, *, force_protected: bool = False) -> list[Key]:
    """Remove it; ProtectedError, before anything is touched, when a machine is protected and `force_protected` not set.

    What is gone already is no error, so that a destroy that was killed can be run again.
    """
    if removal.protected and not force_protected:
        names = ", ".join(key.name for key in removal.protected)
        raise ProtectedError(
            f"protected from deletion: {names}",
            hint="--force-protected removes them all the same; ephemeral: true in the file makes machines that are not",
        )
    console.begin(len(removal.keys), "removing")
    try:
        _remove_machines(removal, incus, console)
        for key in removal.keys:
            if key.kind != "machine" and not (key.kind == "profile" and key.name == "default"):
                _delete(incus, key)
                console.done(f"{key.kind} {key.name}: removed")
    finally:
        console.finish()
    return list(removal.keys)


def _remove_machines(removal: Removal, incus: Incus, console: Console) -> None:
    failures: list[AnklumeError] = []

    def one(key: Key) -> None:
        connection = incus.another().within(None)
        try:
            _remove_machine(key, removal.owner, connection)
            console.done(f"machine {key.name}: removed")
        except AnklumeError as error:
            failures.append(error)
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
        list(pool.map(one, removal.machines))
    if failures:
        raise failures[0] if len(failures) == 1 else AnklumeError("\n".join(str(error) for error in failures))


def _remove_machine(key: Key, owner: str, incus: Incus) -> None:
    path, params = f"instances/{key.name}", {"project": key.project}
    there: dict[str, Any] | None = incus.find_one(path, **params)
    if there is not None and owner_of(there["config"]) == owner:
        stop(incus, key)
        if there["config"].get(_PROTECTION) == "true":
            incus.send("patch", path, {"config": {_PROTECTION: "false"}}, params=params)
        _gone(incus, path, params)
    release(incus, Claimant(key.project, key.name, owner))


def _delete(incus: Incus, key: Key) -> None:
    params = {"project": key.project} if key.project else {}
    if key.kind == "volume":
        pool, _, name = key.name.partition("/")
        _gone(incus, f"storage-pools/{pool}/volumes/custom/{name}", params)
    else:
        _gone(incus, f"{_PATHS[key.kind]}/{key.name}", params)


def _gone(incus: Incus, path: str, params: dict[str, str]) -> None:
    try:
        incus.send("delete", path, params=params)
    except IncusError as error:
        if not is_missing(error) and incus.find_one(path, **params) is not None:
            raise


def describe(keys: Sequence[Key]) -> list[str]:
    """A line for each object."""
    return [
        f"{key.kind} {key.name}" + (f"  (project {key.project})" if key.project not in ("", "default") else "")
        for key in keys
    ]
