"""What an infra.yml says, checked, completed and frozen; everything behind `infra` reads only these.

`load.py` makes them. Texts are as Incus takes them: config and device values are strings, booleans `true` or `false`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from launcher.infra.names import NIC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Domain",
    "GpuSelector",
    "ImageChoice",
    "Infra",
    "Machine",
    "PersistentData",
    "Policy",
    "Profile",
    "ResourcePolicy",
    "Settings",
    "SharedMount",
    "StorageVolume",
]

GpuPolicy = Literal["exclusive", "shared"]
GpuDriver = Literal["auto", "host", "runtime"]
MachineType = Literal["lxc", "vm"]
Protocol = Literal["tcp", "udp"]
Division = Literal["proportional", "equal"]
CpuLimit = Literal["allowance", "count"]
MemoryLimit = Literal["soft", "hard"]

SHARED_PATH = "/shared/<name>"
"""Where a shared volume is in machines if the file does not say."""


@dataclass(frozen=True)
class ResourcePolicy:
    """How the host's CPUs and memory are divided over machines that set no limits of their own.

    `reserve_cpu` and `reserve_memory` stay for the host: `20%`, or a number of CPUs and a size (`4GiB`).
    """

    reserve_cpu: str = "20%"
    reserve_memory: str = "20%"
    mode: Division = "proportional"
    cpu_mode: CpuLimit = "allowance"
    memory_enforce: MemoryLimit = "soft"
    overcommit: bool = False


@dataclass(frozen=True)
class Settings:
    """What the plan needs of the `global` section, defaults filled in; the checks need more and read the file."""

    gpu_policy: GpuPolicy = "exclusive"
    gpu_driver: GpuDriver = "auto"
    default_os_image: str = "images:debian/13"
    image_channel: str = "latest"
    storage_pool: str = "default"
    nesting_prefix: bool = True
    resource_policy: ResourcePolicy | None = None
    shared_volumes_base: str = "/srv/anklume/shares"
    persistent_data_base: str = "/srv/anklume/data"


@dataclass(frozen=True)
class ImageChoice:
    """Which image a machine is made of.

    `store` is the image's name in the store, or None for one that Incus itself gets (`remote`). `version` is the
    channel or version in the store. `reason` says in words where the choice comes from, for the plan.
    """

    store: str | None
    version: str = "latest"
    remote: str | None = None
    reason: str = ""

    @property
    def ref(self) -> str:
        """`name@channel`, `name@version`, or the remote's name for it."""
        return f"{self.store}@{self.version}" if self.store else str(self.remote)


@dataclass(frozen=True)
class GpuSelector:
    """One card of `gpu_devices`; exactly one is set. `pci` is in Incus' form, `0000:01:00.0`."""

    pci: str | None = None
    uuid: str | None = None
    mig: str | None = None


@dataclass(frozen=True)
class Profile:
    """A profile of a domain."""

    name: str
    description: str = field(default="", kw_only=True)
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageVolume:
    """A custom volume at `path`; `size` in Incus' notation, None for no limit."""

    name: str
    path: str
    pool: str
    size: str | None = None


@dataclass(frozen=True)
class PersistentData:
    """A folder of the host, `source`, at `path` in the machine; with `shift` its owners are the machine's own."""

    name: str
    source: str
    path: str
    readonly: bool = False
    shift: bool = True


@dataclass(frozen=True)
class SharedMount:
    """A shared volume as one machine sees it: the host's folder `source` at `path`."""

    name: str
    source: str
    path: str
    readonly: bool
    shift: bool = True


@dataclass(frozen=True)
class Machine:
    """One machine.

    `keys` are keys of Incus' configuration that keys of the file stand for. `gpu` is true for `gpu: true` and for every
    gpu device that it has, by a profile or itself. `devices` are those of the file only: network, volumes, data and
    generated gpu devices are the plan's. `variables` are those that somebody set (or wiring did), as Incus config holds
    them; defaults are the image's. `gpu_memory` is in bytes. `gpu_driver` is its own, else the
    global one. `where` is `file:line:column`.
    """

    name: str
    domain: str
    address: str
    image: ImageChoice
    where: str
    type: MachineType = "lxc"
    description: str = ""
    ephemeral: bool = False
    gpu: bool = False
    gpu_devices: tuple[GpuSelector, ...] = ()
    gpu_memory: int | None = None
    gpu_driver: GpuDriver = "auto"
    profiles: tuple[str, ...] = ("default",)
    weight: int = 1
    keys: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[StorageVolume, ...] = ()
    persistent_data: tuple[PersistentData, ...] = ()
    shares: tuple[SharedMount, ...] = ()
    target: str | None = None

    @property
    def fixed_address(self) -> str:
        """The address that it has to have; empty when its own `devices` give it another network device without one."""
        device = self.devices.get(NIC)
        return self.address if device is None else device.get("ipv4.address", "")


@dataclass(frozen=True)
class Domain:
    """One domain: an Incus project with a bridge of its own. `subnet` is `10.110.0.0/24`, `where` as in Machine."""

    name: str
    subnet: str
    gateway: str
    where: str
    description: str = ""
    enabled: bool = True
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    machines: Mapping[str, Machine] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """Traffic that is let through between domains, machines and the host (`host`).

    No ports means all of them, and then every protocol.
    """

    source: str
    destination: str
    ports: tuple[int, ...] = ()
    protocol: Protocol = "tcp"
    bidirectional: bool = False
    description: str = ""


@dataclass(frozen=True)
class Infra:
    """A whole valid file. `file` is the path that was given; `notices` are lines that a plan shows."""

    file: str
    project_name: str
    settings: Settings
    domains: Mapping[str, Domain] = field(default_factory=dict)
    policies: tuple[Policy, ...] = ()
    notices: tuple[str, ...] = ()

    def machines(self) -> Iterator[Machine]:
        """The machines of the enabled domains, in file order."""
        for domain in self.domains.values():
            if domain.enabled:
                yield from domain.machines.values()

    def machine(self, name: str) -> Machine | None:
        """The machine of that name in an enabled domain."""
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Machine]:
        return {machine.name: machine for machine in self.machines()}
