"""What Incus has for each machine of a file: one request for all projects, and who owns what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.architectures import architecture_of
from launcher.infra.names import IMAGE, MACHINE, owner_of
from launcher.observe.live import addresses_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from anklume_images.incus.client import Incus
    from launcher.infra.model import Infra, Machine
    from launcher.infra.names import Names

__all__ = ["MISSING", "NOT_OURS", "RUNNING", "InstanceState", "Mount", "look", "seen"]

RUNNING, MISSING, NOT_OURS = "running", "missing", "not ours"


@dataclass(frozen=True)
class Mount:
    """A custom volume (`pool`) or a folder of the host (no pool) in a machine."""

    name: str
    path: str
    pool: str | None = None


@dataclass(frozen=True)
class InstanceState:
    """A machine of the file and the instance of its name.

    `state` is running, stopped, missing, `not ours`, or another word of Incus'. `config` and `devices` are the
    instance's with those of its profiles; they are empty unless the instance is ours. `image` is the mark that the
    launcher left. `location` is its member of a cluster.
    """

    machine: Machine
    project: str
    instance: str
    state: str
    architecture: str = ""
    image: str | None = None
    addresses: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    location: str = ""

    @property
    def running(self) -> bool:
        """Whether something can be asked inside."""
        return self.state == RUNNING

    @property
    def has_address(self) -> bool:
        """Whether it has the address that the file gives it, where it gives one."""
        return not self.machine.fixed_address or self.machine.fixed_address in self.addresses

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Its disks but for the root."""
        disks = [keys for keys in self.devices.values() if keys.get("type") == "disk" and keys.get("path") != "/"]
        return tuple(Mount(keys.get("source", ""), keys.get("path", ""), keys.get("pool")) for keys in disks)

    @property
    def gpus(self) -> tuple[Mapping[str, str], ...]:
        """Its gpu devices."""
        return tuple(keys for keys in self.devices.values() if keys.get("type") == "gpu")


def look(incus: Incus, infra: Infra, names: Names, machines: Iterable[Machine]) -> tuple[InstanceState, ...]:
    """The instances of these machines."""
    instances = {(instance["project"], instance["name"]): instance for instance in incus.instances(states=True)}
    states = []
    for machine in machines:
        key = names.project(machine.domain), names.instance(machine.name)
        states.append(seen(machine, *key, instances.get(key), infra.project_name))
    return tuple(states)


def seen(machine: Machine, project: str, name: str, instance: Mapping[str, Any] | None, owner: str) -> InstanceState:
    """A machine beside what Incus said of its instance, None where there is none."""
    if instance is None:
        return InstanceState(machine, project, name, MISSING)
    config = instance.get("expanded_config") or {}
    if owner_of(config) != owner or config.get(MACHINE) != machine.name:
        return InstanceState(machine, project, name, NOT_OURS)
    return InstanceState(
        machine,
        project,
        name,
        str(instance["status"]).lower(),
        architecture=architecture_of(instance["architecture"]),
        image=config.get(IMAGE),
        addresses=addresses_of(instance.get("state") or {}),
        config=config,
        devices=instance.get("expanded_devices") or {},
        location=str(instance.get("location") or ""),
    )
