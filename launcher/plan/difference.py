"""The difference between what is to be and what is: a plan, step by step; pure.

Compared is what the launcher itself says: a project's, network's or volume's own keys; all config and devices of
profiles and instances but `volatile.*`, `image.*` and `user.*` of others (`changes`). What is changed by hand there is
put back.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from launcher.infra.names import CLAIM, IMAGE, MACHINE, NIC, UNFINISHED, owner_of
from launcher.plan.changes import ASTRAY, BASE_IMAGE, SHARED, Change, changes_of, is_live
from launcher.plan.held import held_addresses, share_volumes
from launcher.resources import KINDS, Key, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from launcher.observe.live import Live

__all__ = ["Action", "Conflict", "Plan", "Step", "difference", "owned", "step_for"]

Action = Literal["create", "change", "start", "restart", "replace", "none"]
_ADDRESS = f"devices.{NIC}.ipv4.address"


@dataclass(frozen=True)
class Step:
    """What is to be done about one object; `stopped` says that an instance is there and does not run.

    A paused one is not stopped; to start it is to resume it.
    """

    resource: Resource
    action: Action
    changes: tuple[Change, ...] = ()
    stopped: bool = False

    @property
    def key(self) -> Key:
        """The object."""
        return self.resource.key


@dataclass(frozen=True)
class Conflict:
    """Something that is there under a wanted name and is not this file's."""

    key: Key
    message: str
    hint: str


@dataclass(frozen=True)
class Plan:
    """Steps for every wanted object, those with nothing to do included.

    `orphans` are this file's and no longer in it, `removing` those of them that are to go. `waiting` are machines whose
    image has a newer version that only a replacement brings. `unread` are objects of which the file wants what was
    applied last, and that were not looked at.
    """

    steps: tuple[Step, ...]
    conflicts: tuple[Conflict, ...] = ()
    orphans: tuple[Key, ...] = ()
    removing: tuple[Key, ...] = ()
    waiting: tuple[tuple[str, str, str], ...] = ()
    notices: tuple[str, ...] = field(default=())
    unread: int = 0

    @property
    def moving(self) -> tuple[Step, ...]:
        """Machines that give up an address which another machine gets, or have one that is not theirs.

        They stop before any other machine starts.
        """
        addresses = {change.after for step in self.steps for change in step.changes if change.key == _ADDRESS}
        addresses |= {
            machine.address for step in self.steps if step.action == "create" and (machine := step.resource.machine)
        }
        return tuple(
            step
            for step in self.steps
            if any(
                change.key == ASTRAY or (change.key == _ADDRESS and change.before in addresses)
                for change in step.changes
            )
        )

    @property
    def sharing(self) -> tuple[Step, ...]:
        """Machines that run with a volume which another one joins: they stop before the volume is changed."""
        return tuple(
            step
            for step in self.steps
            if not step.stopped and any(change.key.startswith(SHARED) for change in step.changes)
        )

    @property
    def todo(self) -> tuple[Step, ...]:
        """The steps that do something."""
        return tuple(step for step in self.steps if step.action != "none")

    @property
    def interrupts(self) -> bool:
        """Whether a running machine is stopped on the way, or anything removed."""
        return bool(self.removing) or any(
            step.action in ("restart", "replace") and not step.stopped for step in self.steps
        )


def difference(
    resources: Iterable[Resource],
    live: Live,
    owner: str,
    *,
    adopt: bool = False,
    replace: bool = False,
    chosen: Callable[[Resource], bool] | None = None,
) -> Plan:
    """Compare; `replace` brings newer images to machines, `chosen` leaves out what was not selected."""
    everything = tuple(resources)
    steps, conflicts, waiting = [], [], []
    made = {resource.key for resource in everything}
    for resource in _selected(everything, chosen):
        if resource.key in live.unread:
            steps.append(Step(resource, "none"))
            continue
        existing = live.get(resource.key)
        if existing is None:
            conflicts += _taken(resource, live, made)
            steps.append(step_for(resource, None))
            continue
        if conflict := _not_ours(resource, existing, live, owner, adopt=adopt):
            conflicts.append(conflict)
            continue
        if any(change.key == "config.ipv4.address" for change in changes_of(resource, existing)):
            conflicts += _taken(resource, live, made)
        conflicts += _fixed(resource, existing)
        step = _step(resource, existing, replace=replace, astray=live.astray.get(resource.key))
        steps.append(step)
        if (newer := _newer(resource, existing)) and step.action != "replace":
            waiting.append(newer)
    orphans = owned(live, owner)
    steps, in_use = share_volumes(_with_images(steps), live)
    conflicts += [Conflict(*problem) for problem in (*in_use, *held_addresses(steps, live, owner))]
    gone = tuple(key for key in orphans if key not in made)
    return Plan(tuple(steps), tuple(conflicts), gone, waiting=tuple(waiting))


def owned(live: Live, owner: str) -> list[Key]:
    """Everything on the server that the launcher made for this file."""
    configs = ((key, existing.get("config") or {}) for key, existing in live.objects.items())
    keys = [
        key
        for key, config in configs
        if owner_of(config) == owner and CLAIM not in config and not _is_copy(key, config)
    ]
    return sorted(keys, key=lambda key: (KINDS.index(key.kind), key))


def _is_copy(key: Key, config: Mapping[str, str]) -> bool:
    """Whether an instance has the marks of another, as one that was copied by hand has."""
    return key.kind == "machine" and re.sub(r"^\d{3}-", "", key.name) != re.sub(r"^\d{3}-", "", config.get(MACHINE, ""))


def _selected(resources: tuple[Resource, ...], chosen: Callable[[Resource], bool] | None) -> Iterator[Resource]:
    """What was selected, and what that needs, and so on."""
    if chosen is None:
        yield from resources
        return
    by_key = {resource.key: resource for resource in resources}
    needed: set[Key] = set()
    todo = [resource.key for resource in resources if chosen(resource)]
    while todo:
        key = todo.pop()
        if key not in needed:
            needed.add(key)
            todo += [need for need in by_key[key].needs if need.kind != "machine"]
    yield from (resource for resource in resources if resource.key in needed)


def _taken(resource: Resource, live: Live, made: Collection[Key]) -> list[Conflict]:
    """Conflicts of something new with what bears another name: a subnet that another network or interface has."""
    if resource.key.kind != "network":
        return []
    subnet = ipaddress.IPv4Interface(resource.config["ipv4.address"]).network
    networks = [
        (f"network {key.name}", (network.get("config") or {}).get("ipv4.address", ""))
        for key, network in live.objects.items()
        if key.kind == "network" and key not in made
    ]
    taken = [*networks, *((f"the host's interface {name}", address) for name, address in live.host_networks)]
    return [
        Conflict(
            resource.key,
            f"the subnet {subnet} of domain {resource.domain} is in use by {what} ({address})",
            "choose another subnet_id or addressing, or delete that network",
        )
        for what, address in taken
        if "/" in address and ipaddress.IPv4Interface(address).network.overlaps(subnet)
    ]


def _not_ours(
    resource: Resource, existing: Mapping[str, Any], live: Live, owner: str, *, adopt: bool
) -> Conflict | None:
    key = resource.key
    if key.kind in ("image", "models"):
        return None
    owned_by = owner_of(existing.get("config") or {})
    if owned_by == owner or (adopt and owned_by is None):
        return None
    if key.kind == "profile" and key.name == "default":  # Incus makes it with the project
        project = live.get(Key("project", "", key.project))
        if project is not None and owner_of(project.get("config") or {}) == owner:
            return None
    what = f"{key.kind} {key.name}" + (f" of project {key.project}" if key.project not in ("", "default") else "")
    if owned_by is None:
        return Conflict(key, f"{what} is there and was not made by anklume-launch", "--adopt takes it over")
    return Conflict(
        key, f"{what} belongs to the file with project_name {owned_by}", "give one of the two another name in its file"
    )


def _fixed(resource: Resource, existing: Mapping[str, Any]) -> list[Conflict]:
    """What of an instance cannot be changed once it is there: its type, and the pool of its root."""
    if resource.key.kind != "machine":
        return []
    pool = ((existing.get("devices") or {}).get("root") or {}).get("pool")
    pairs = (
        ("type", existing.get("type"), resource.body.get("type")),
        ("storage pool of the root", pool, resource.body["devices"]["root"].get("pool")),
    )
    return [
        Conflict(
            resource.key,
            f"the {what} of machine {resource.machines[0]} is {before}, and cannot become {after}",
            "put it back in the file, or destroy that machine first (its volumes stay)",
        )
        for what, before, after in pairs
        if before is not None and after is not None and before != after
    ]


def step_for(resource: Resource, existing: Mapping[str, Any] | None, *, replace: bool = False) -> Step:
    """The step for one object, given what is there now."""
    if existing is not None:
        return _step(resource, existing, replace=replace)
    if resource.key.kind == "models":
        files = {file.path for model in resource.models for file in model.files}
        return Step(resource, "create", changes_of(resource, {"missing": files}))
    return Step(resource, "create")


def _step(resource: Resource, existing: Mapping[str, Any], *, replace: bool, astray: str | None = None) -> Step:
    changes = changes_of(resource, existing)
    if astray is not None and resource.machine is not None:
        changes += (Change(ASTRAY, astray, resource.machine.fixed_address),)
    if _is_half_made(resource.key, existing):
        return Step(resource, "replace", changes, stopped=True)
    if resource.key.kind != "machine":
        return Step(resource, "change" if changes else "none", changes)
    stopped = existing["status"] not in ("Running", "Frozen")
    if replace and _newer(resource, existing):
        return Step(resource, "replace", changes, stopped)
    if any(not is_live(change, resource, existing) for change in changes):
        return Step(resource, "restart", changes, stopped)
    if existing["status"] != "Running":
        return Step(resource, "start", changes, stopped)
    return Step(resource, "change" if changes else "none", changes)


def _is_half_made(key: Key, existing: Mapping[str, Any]) -> bool:
    """Whether its making was cut off, and nothing can have used it."""
    if key.kind == "network":
        # Incus gives up making it when its client is killed, and takes the name for used for ever.
        return existing.get("status") == "Pending"
    # A machine is made when its volumes are.
    return key.kind == "volume" and (existing.get("config") or {}).get(UNFINISHED) == "true"


def _with_images(steps: list[Step]) -> list[Step]:
    """An image is brought into Incus when a machine is made of it, not before."""
    needed = {need for step in steps if step.action in ("create", "replace") for need in step.resource.needs}
    return [
        dataclasses.replace(step, action="none") if step.key.kind == "image" and step.key not in needed else step
        for step in steps
    ]


def _newer(resource: Resource, existing: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Machine, running and wanted image, where they differ; of an image that Incus itself gets only the name counts."""
    if resource.machine is None:
        return None
    base = existing["config"].get(BASE_IMAGE, "")
    running = existing["config"].get(IMAGE) or base[:12] or "an unknown image"
    desired = resource.config[IMAGE]
    same = base == resource.image.fingerprint if resource.image else running == desired
    return None if same else (resource.machine.name, running, desired)
