"""What running or left machines hold that a plan's steps need: addresses, and volumes that come to be shared; pure."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from launcher.infra.names import NIC, owner_of
from launcher.infra.security import is_protected
from launcher.plan.changes import SHARED, Change

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.observe.live import Live
    from launcher.plan.difference import Step
    from launcher.resources import Key

__all__ = ["held_addresses", "share_volumes"]

_SHIFTED = "config.security.shifted"
_ADDRESS = (f"devices.{NIC}", f"devices.{NIC}.ipv4.address")


def held_addresses(steps: Sequence[Step], live: Live, owner: str) -> Iterator[tuple[Key, str, str]]:
    """Addresses that a step's machine cannot have as another instance has them on the same bridge.

    Each with what is the matter and what to do. No harm is in one whose own step of this plan gives it up.
    """
    leaving = {step.key for step in steps if any(change.key in _ADDRESS for change in step.changes)}
    holders = {place: key for key, place in _places(live) if key not in leaving}
    for step in steps:
        machine = step.resource.machine
        if machine is None or not machine.fixed_address:
            continue
        nic = step.resource.body["devices"].get(NIC) or {}
        holder = holders.get((nic.get("network", ""), machine.fixed_address))
        if holder is not None and holder != step.key and nic.get("network"):
            message = f"{machine.name} is to have {machine.fixed_address}, which the instance {_named(holder)} has"
            yield step.key, *_advice(message, holder, live, owner)


def _advice(message: str, holder: Key, live: Live, owner: str) -> tuple[str, str]:
    config = (live.get(holder) or {}).get("config") or {}
    if owner_of(config) != owner:
        return message, "give one of them another address, or remove that instance"
    protected = is_protected(config)
    prune = "--prune --force-protected" if protected else "--prune"
    hint = f"where it left the file, or has another name there, {prune} removes it first (its volumes stay)"
    return f"{message}; it is this file's, and left it or is not selected", f"{hint}; or give one of them another ip"


def share_volumes(steps: Sequence[Step], live: Live) -> tuple[list[Step], list[tuple[Key, str, str]]]:
    """The steps with a restart for each machine that runs with a volume which another one joins.

    Incus changes `security.shifted` of no volume that a running instance has. Also what is in the way: instances that
    this plan has no step for.
    """
    changed = {step.key: step for step in steps}
    problems = []
    for step in steps:
        if step.key.kind != "volume" or not any(change.key == _SHIFTED for change in step.changes):
            continue
        for user in _running_users(step.key, live):
            machine = changed.get(user)
            if machine is None:
                message = f"volume {step.key.name} comes to be shared, and the instance {_named(user)} runs with it"
                problems.append((step.key, message, "stop that instance first, or select its machine too"))
                continue
            action = machine.action if machine.action in ("restart", "replace") else "restart"
            change = Change(f"{SHARED}{step.key.name}", None, "shared")
            changed[user] = dataclasses.replace(machine, action=action, changes=(*machine.changes, change))
    return list(changed.values()), problems


def _running_users(volume: Key, live: Live) -> Iterator[Key]:
    pool, _, name = volume.name.partition("/")
    for key, instance in live.objects.items():
        if key.kind == "machine" and key.project == volume.project and instance["status"] in ("Running", "Frozen"):
            disks = (device for device in _devices(instance).values() if device.get("type") == "disk")
            if any((disk.get("pool"), disk.get("source")) == (pool, name) for disk in disks):
                yield key


def _places(live: Live) -> Iterator[tuple[Key, tuple[str, str]]]:
    """The addresses that instances hold, each with its bridge."""
    for key, instance in live.objects.items():
        for device in _devices(instance).values() if key.kind == "machine" else ():
            if device.get("type") == "nic" and device.get("ipv4.address"):
                yield key, (device.get("network", ""), device["ipv4.address"])


def _devices(instance: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**(instance.get("expanded_devices") or {}), **(instance.get("devices") or {})}


def _named(key: Key) -> str:
    return f"{key.name} (project {key.project})"
