"""What is mounted where: who gets which shared volume, and that no two things of a machine are in one place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.infra.entries import written_names
from launcher.infra.model import SHARED_PATH, SharedMount
from launcher.infra.report import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.entries import WrittenMachine
    from launcher.infra.report import Report

__all__ = ["Shares", "check_mounts", "shared_mounts"]

Shares = dict[str, tuple[SharedMount, ...]]
"""The shared volumes of each machine, by its name."""


def shared_mounts(volumes: Mapping[str, Any], base: str, machines: Sequence[WrittenMachine], report: Report) -> Shares:
    """Who gets which shared volume: a machine's own entry beats its domain's, `propagate` adds those that nest."""
    by_machine: dict[str, list[SharedMount]] = {}
    nesting = [machine.name for machine in machines if machine.is_set("security.nesting")]
    for name, volume in volumes.items():
        access = _access(name, volume, machines, report)
        if volume["propagate"]:
            access = dict.fromkeys(nesting, "rw") | access
        for machine, mode in access.items():
            mount = SharedMount(
                name=name,
                source=volume.get("source", f"{base.rstrip('/')}/{name}"),
                path=volume.get("path", SHARED_PATH.replace("<name>", name)),
                readonly=mode == "ro",
                shift=volume["shift"],
            )
            by_machine.setdefault(machine, []).append(mount)
    return {name: tuple(mounts) for name, mounts in by_machine.items()}


def _access(name: str, volume: Mapping[str, Any], machines: Sequence[WrittenMachine], report: Report) -> dict[str, str]:
    """`ro` or `rw` for each machine that consumes the volume."""
    here: KeyPath = ("shared_volumes", name, "consumers")
    consumers = volume.get("consumers", {})
    if report.source.has(here) and not report.source.data["shared_volumes"][name]["consumers"]:
        report.error(here, "wrong-value", "'consumers' must name a domain or a machine", key=True)
    domains, known = written_names(report.source.data)
    for consumer in consumers:
        if consumer not in domains | known:
            message, hint = (
                f"no domain or machine is called {shown(consumer)}",
                report.did_you_mean(consumer, domains | known) or "a domain or a machine",
            )
            report.error((*here, consumer), "unknown-consumer", message, key=True, hint=hint)
    by_domain = {entry.name: consumers[entry.domain] for entry in machines if entry.domain in consumers}
    by_name = {
        entry.name: consumers[entry.name] for entry in machines if entry.name in consumers and entry.name not in domains
    }
    return by_domain | by_name


def check_mounts(machines: Sequence[WrittenMachine], shares: Shares, pool: str, report: Report) -> None:
    """Report paths and device names that two things of a machine have, and volumes that differ from themselves."""
    volumes: dict[tuple[str, str, str], tuple[str | None, str]] = {}
    for machine in machines:
        paths: dict[str, str] = {}
        for path, mount, what, device in _mounts(machine, shares.get(machine.name, ())):
            if mount in paths:
                message = f"'{machine.name}' has {what} at {shown(mount)}, where it has {paths[mount]} already"
                report.error(path, "duplicate-path", message)
            paths.setdefault(mount, what)
            if device and device in machine.devices:
                message = f"'{machine.name}' has a device '{device}' of its own, which is the name for {what}"
                report.error(machine.devices[device][0], "duplicate-device", message, key=True)
        for name, volume in machine.data["storage_volumes"].items():
            key = (machine.domain, volume.get("pool", pool), name)
            size, first = volumes.setdefault(key, (volume.get("size"), machine.name))
            if size != volume.get("size"):
                message = f"'{first}' and '{machine.name}' share the volume '{name}' but give different sizes"
                report.error((*machine.path, "storage_volumes", name), "volume-differs", message, key=True)


def _mounts(machine: WrittenMachine, shares: Sequence[SharedMount]) -> Iterator[tuple[KeyPath, str, str, str | None]]:
    """Where each stands in the file, where it is mounted, what it is, and the name of its device if that is made."""
    for path, device in machine.devices.values():
        if device["type"] == "disk" and device.get("path", "").startswith("/"):
            yield path, device["path"].rstrip("/") or "/", f"the device '{path[-1]}'", None
    for name, volume in machine.data["storage_volumes"].items():
        if "path" in volume:
            yield (*machine.path, "storage_volumes", name), volume["path"], f"the volume '{name}'", f"vol-{name}"
    for name, data in machine.data["persistent_data"].items():
        if "path" in data:
            yield (*machine.path, "persistent_data", name), data["path"], f"the data '{name}'", f"pd-{name}"
    for share in shares:
        yield ("shared_volumes", share.name), share.path, f"the share '{share.name}'", f"sv-{share.name}"
