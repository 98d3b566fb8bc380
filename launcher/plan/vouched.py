"""What a plan need not read whole, as something else tells how it was left; pure.

Incus takes long to give networks, ACLs and volumes whole, and tells all of instances and projects at once. So a project
bears a hash of what its domain's bridge and rules were to be, a machine one of its volumes' settings. Both are made and
changed after these: the hash is there when what it tells of was applied, whatever is killed in between. What somebody
changed by hand since then it does not tell.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from launcher.infra.names import APPLIED, OWNER, owner_of
from launcher.resources import Key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.observe.live import Live
    from launcher.resources import Kind, Resource

__all__ = ["VOUCHED", "applied_mark", "to_read"]

VOUCHED: Mapping[Kind, tuple[Kind, ...]] = {"project": ("acl", "network"), "machine": ("volume",)}
"""What objects of a kind tell of: which of the kinds that they need."""


def applied_mark(voucher: Resource, needed: Iterable[Resource]) -> dict[str, str]:
    """The config key by which an object tells how those that it needs are to be.

    A volume of which nothing is wanted but that it is there needs none: that the machine has it says so.
    """
    kinds = VOUCHED.get(voucher.key.kind, ())
    bodies = {
        "/".join(one.key): one.body for one in needed if one.key.kind in kinds and not one.config.keys() <= {OWNER}
    }
    text = json.dumps(bodies, sort_keys=True)
    return {APPLIED: hashlib.sha256(text.encode()).hexdigest()[:16]} if bodies else {}


def to_read(resources: Iterable[Resource], live: Live, owner: str) -> frozenset[Key]:
    """Which of the objects that are known by name have to be read whole: those that nothing vouches for.

    They are those of which the file says something else than was applied, those that were never applied, volumes whose
    models are to be looked for, and what may be left of this file.
    """
    wanted = {resource.key: resource for resource in resources}
    answered: dict[Key, bool] = {}
    for voucher in wanted.values():
        for need in voucher.needs:
            if need in live.unread and need.kind in VOUCHED.get(voucher.key.kind, ()):
                answered[need] = answered.get(need, True) and _vouches(voucher, need, live, owner)
    models = {key._replace(kind="volume") for key in wanted if key.kind == "models"}
    return frozenset(
        key
        for key in live.unread
        if key in models or not (answered.get(key, False) if key in wanted else _is_others(key, live, owner))
    )


def _vouches(voucher: Resource, need: Key, live: Live, owner: str) -> bool:
    existing = live.get(voucher.key) or {}
    config = existing.get("config") or {}
    if owner_of(config) != owner or config.get(APPLIED) != voucher.config.get(APPLIED):
        return False
    if need.kind != "volume":
        return True
    # Its description names the path, and Incus lets nobody delete a volume that an instance has.
    pool, _, name = need.name.partition("/")
    devices = existing.get("devices") or {}
    return any(
        devices.get(device) == keys
        for device, keys in voucher.body["devices"].items()
        if (keys.get("pool"), keys.get("source")) == (pool, name)
    )


def _is_others(key: Key, live: Live, owner: str) -> bool:
    """Whether an object that the file does not want is none of its own: its volumes are in its own projects."""
    project = live.get(Key("project", "", key.project)) or {}
    return key.kind == "volume" and owner_of(project.get("config") or {}) != owner
