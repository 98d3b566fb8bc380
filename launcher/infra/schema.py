"""The keys of an infra.yml: what each may hold, what it is where nobody sets it, and what it means.

The checks, the tables of docs/reference/infra.md and the JSON Schema for editors come from here. Defaults that the
model has are the model's.
"""

from __future__ import annotations

import ipaddress  # noqa: TC003  pydantic reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, model_validator

from launcher.infra import readers
from launcher.infra.keys import GONE, Anything, Keys, ListOf, MappingOf, OrEmpty, Read, Written, key, one_of
from launcher.infra.model import (
    Domain,
    GpuPolicy,
    Machine,
    MachineType,
    PersistentData,
    Policy,
    Protocol,
    ResourcePolicy,
    Settings,
    SharedMount,
)
from launcher.infra.readers import WrongError
from launcher.infra.values import (
    NUMBERED,
    Bool,
    Bytes,
    ClusterMember,
    Config,
    Consumer,
    Devices,
    DriverWay,
    Folder,
    Image,
    Line,
    MachineName,
    Mount,
    MountName,
    Name,
    Ports,
    ProjectName,
    Size,
    VariableName,
    VolumeName,
    Word,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INFRA", "MACHINE", "SECTIONS", "TrustLevel"]

TrustLevel = Literal["admin", "trusted", "semi-trusted", "untrusted", "disposable"]

_FOREIGN = "the framework's own"
_SHIFT = "the folder's owners are the machine's own; not on NFS, SMB, FUSE, overlays, which the plan refuses"


def _policy(value: Any) -> Any:
    if value is True or (isinstance(value, Written) and value.value is True):
        return {}
    if not isinstance(value, dict):
        hint = "leave it out for no policy" if value is False else None
        raise WrongError("must be true or a mapping", code="wrong-type", hint=hint)
    return value


class _Reserve(Keys):
    cpu: Annotated[str, Read(readers.reserve(of_memory=False), "share, number", NUMBERED)] = key(
        ResourcePolicy.reserve_cpu, "`1%` to `99%`, or a number of CPUs"
    )
    memory: Annotated[str, Read(readers.reserve(of_memory=True), "share, size", NUMBERED)] = key(
        ResourcePolicy.reserve_memory, "`1%` to `99%`, or a size such as `4GiB`"
    )


class _ResourcePolicy(Keys):
    host_reserve: _Reserve = key(made=_Reserve, meaning="what stays for the host")
    mode: Annotated[str, one_of("proportional", "equal")] = key(ResourcePolicy.mode, "`proportional`: by `weight`")
    cpu_mode: Annotated[str, one_of("allowance", "count")] = key(
        ResourcePolicy.cpu_mode, "a share of the host's time, or a number of its CPUs"
    )
    memory_enforce: Annotated[str, one_of("soft", "hard")] = key(
        ResourcePolicy.memory_enforce, "`soft`: more than its share while nobody else needs it"
    )
    overcommit: Bool = key(ResourcePolicy.overcommit, "more may be given than the host has; else that is an error")


class _Addressing(Keys):
    base_octet: Annotated[int, whole(10, 10, "10")] = key(10, "the first number of every address")
    zone_base: Annotated[int, whole(0, 245)] = key(100, "the second number of the most trusted zone")
    zone_step: Annotated[int, whole(1, 255)] = key(10, "how far the zones are apart")


class _Global(Keys):
    addressing: _Addressing = key(made=_Addressing, meaning="see [Addresses](#addresses)")
    base_subnet: Annotated[str, Read(readers.two_octets, "text")] = key(
        "10.100", "the older form of addresses, without `addressing`"
    )
    default_os_image: Image = key(Settings.default_os_image, "of machines that say nothing else")
    image_channel: Word = key(
        Settings.image_channel, "the channel of the store's images where a machine names none", new=True
    )
    storage_pool: Word = key(Settings.storage_pool, "Incus' pool for machines and volumes", new=True)
    gpu_policy: Annotated[GpuPolicy, one_of(*get_args(GpuPolicy))] = key(Settings.gpu_policy, "see [GPUs](#gpus)")
    gpu_driver: DriverWay = key(
        Settings.gpu_driver,
        "how NVIDIA's driver gets into containers, where a machine says nothing else; see [GPUs](#gpus)",
        new=True,
    )
    ai_access_policy: Annotated[str, one_of("exclusive", "open")] = key(
        "open", "`exclusive`: one domain may reach `ai-tools`, see [Network policies](#network-policies)"
    )
    ai_access_default: Line = key(meaning="the one that may", kind="domain")
    ai_vram_flush: Bool = key(meaning="the framework's own", foreign=True)
    nesting_prefix: Bool = key(
        Settings.nesting_prefix, "names begin with `001-` where `/etc/anklume/absolute_level` says 1"
    )
    firewall_mode: Annotated[str, one_of("host", "vm")] = key(
        "host", "`vm` is a warning: no machine for it is made, Incus' ACLs keep domains apart"
    )
    resource_policy: Annotated[
        _ResourcePolicy, BeforeValidator(_policy, json_schema_input_type=Literal[True] | _ResourcePolicy)
    ] = key(meaning="divides CPUs and memory over machines that have no limits of their own", kind="`true`, mapping")
    shared_volumes_base: Folder = key(Settings.shared_volumes_base, "folder of the host")
    persistent_data_base: Folder = key(Settings.persistent_data_base, "folder of the host")
    default_connection: Line = key(meaning="the framework's own: nothing is configured over a connection", foreign=True)
    default_user: Line = key(meaning="the framework's own", foreign=True)


class _Card(Keys):
    """One card of gpu_devices: exactly one of the ways to name it."""

    pci: Annotated[str, Read(readers.pci, "PCI address")] = key(meaning="such as 0000:01:00.0")
    uuid: Word = key(meaning="the maker's UUID")
    mig: Word = key(meaning="the UUID of a MIG device")

    @model_validator(mode="wrap")
    @classmethod
    def _one(cls, value: Any, read: Callable[[Any], Any]) -> Any:
        if isinstance(value, dict) and any(item is GONE for item in value.values()):
            return GONE
        card = read(value)
        if len(card.model_fields_set) != 1:
            raise WrongError("a card is named by one of pci, uuid and mig", whole=True)
        return card


class _StorageVolume(Keys):
    path: Mount = key(meaning="where it is in the machine", required=True)
    pool: Word = key(meaning="Incus' pool", default="`storage_pool`")
    size: Size = key(meaning="as large as the pool has room where it is not set")


class _PersistentData(Keys):
    path: Mount = key(meaning="where it is in the machine", required=True)
    readonly: Bool = key(PersistentData.readonly, "nothing can be written there")
    shift: Bool = key(PersistentData.shift, _SHIFT)


class _Machine(Keys):
    description: Line = key(meaning="what it is for")
    type: Annotated[MachineType, one_of(*get_args(MachineType))] = key(
        Machine.type, "a container, or a virtual machine"
    )
    ip: Annotated[ipaddress.IPv4Address, Read(readers.address, "IPv4 address")] = key(
        meaning="see [Addresses](#addresses)", default="the next free one"
    )
    ephemeral: Bool = key(meaning="`false` protects it from being deleted", default="its domain's")
    roles: ListOf[Word] = key((), "see [Images](#images)")
    image: Annotated[str, Read(readers.image_ref, "`NAME`, `NAME@CHANNEL`, `NAME@VERSION`")] = key(
        meaning="an image of the store", new=True
    )
    os_image: Image = key(meaning="as Incus names it: `images:debian/13`, an alias", default="`default_os_image`")
    vars: MappingOf[VariableName, Anything] = key(
        {}, "see [Variables](#variables)", kind="map variable → value", new=True
    )
    gpu: Bool = key(meaning="see [GPUs](#gpus)", default="`false`")
    gpu_devices: ListOf[_Card] = key(
        (), 'which cards, each `{pci: "0000:01:00.0"}`, `{uuid: …}` or `{mig: …}`', new=True
    )
    gpu_memory: Bytes = key(meaning="what it needs of a card", new=True)
    gpu_driver: DriverWay = key(meaning="how NVIDIA's driver gets into it", default="the global one", new=True)
    profiles: ListOf[Word] = key(
        meaning="of its domain; `default` is always there", default="`[default]`", numbered=True
    )
    config: Config = key({}, "Incus' configuration; numbers and booleans become text")
    devices: Devices = key({}, "Incus' devices, each with `type`", kind="map name → device")
    weight: Annotated[int, whole(1, 1_000_000, "from 1")] = key(Machine.weight, "its share under `resource_policy`")
    boot_autostart: Bool = key(meaning="whether it starts with the host", incus="boot.autostart")
    boot_priority: Annotated[int, whole(0, 100)] = key(
        meaning="higher ones start first", incus="boot.autostart.priority"
    )
    snapshots_schedule: Annotated[str, Read(readers.cron, "cron")] = key(
        meaning="five fields, Sunday is 0", incus="snapshots.schedule"
    )
    snapshots_expiry: Annotated[str, Read(readers.expiry, "`30d`, `24h`, `60m`")] = key(
        meaning="how long a snapshot is kept", incus="snapshots.expiry"
    )
    storage_volumes: MappingOf[VolumeName, OrEmpty[_StorageVolume]] = key(
        {}, "see [Volumes and folders](#volumes-and-folders)", kind="map name → volume"
    )
    persistent_data: MappingOf[MountName, OrEmpty[_PersistentData]] = key(
        {}, "see [Volumes and folders](#volumes-and-folders)", kind="map name → data"
    )
    target: ClusterMember = key(meaning="where in a cluster", new=True)
    export_apps: Anything = key(meaning=_FOREIGN, foreign=True)
    services: Anything = key(meaning=_FOREIGN, foreign=True)


class _Profile(Keys):
    description: Line = key(meaning="what it is for")
    config: Config = key({}, "Incus' configuration")
    devices: Devices = key({}, "Incus' devices", kind="map name → device")


class _Domain(Keys):
    description: Line = key(meaning="what it is for")
    enabled: Bool = key(
        Domain.enabled, "a disabled domain keeps its subnet and nothing else; its images and variables are not checked"
    )
    trust_level: Annotated[TrustLevel, one_of(*get_args(TrustLevel))] = key(
        "semi-trusted", "its zone; a container in the last two is a warning"
    )
    subnet_id: Annotated[int, whole(0, 254)] = key(
        meaning="the third number of its addresses", default="the next free one"
    )
    ephemeral: Bool = key(Machine.ephemeral, "of its machines; `false` protects them from being deleted")
    profiles: MappingOf[Word, OrEmpty[_Profile]] = key(
        {}, "`description`, `config`, `devices`, as Incus has them", kind="map name → profile"
    )
    machines: MappingOf[MachineName, OrEmpty[_Machine]] = key(
        {}, "see [Machines](#machines)", kind="map name → machine"
    )
    ai_provider: Annotated[str, one_of("local", "cloud", "local-first")] = key(meaning=_FOREIGN, foreign=True)
    ai_sanitize: Annotated[bool | str, one_of(True, False, "always")] = key(meaning=_FOREIGN, foreign=True)
    openclaw: Bool = key(meaning=_FOREIGN, foreign=True)
    file_portal: Anything = key(meaning=_FOREIGN, foreign=True)
    panel_color: Anything = key(meaning=_FOREIGN, foreign=True)
    pinned_apps: Anything = key(meaning=_FOREIGN, foreign=True)
    wallpaper: Anything = key(meaning=_FOREIGN, foreign=True)


class _NetworkPolicy(Keys):
    description: Line = key(Policy.description, "what it is for; the rules that let something in have it")
    source: Line = key(
        alias="from", kind="domain, machine, `host`", meaning="who may begin; `host` is the Incus host", required=True
    )
    destination: Line = key(
        alias="to",
        kind="domain, machine, `host`",
        meaning="whom; a domain's name comes before a machine's",
        required=True,
    )
    ports: Ports = key((), "all ports are all protocols", kind="list of 1 to 65535, `all`", default="`all`")
    protocol: Annotated[Protocol, one_of(*get_args(Protocol))] = key(Policy.protocol, "of the ports")
    bidirectional: Bool = key(Policy.bidirectional, "`to` may begin, too")


class _SharedVolume(Keys):
    source: Folder = key(meaning="folder of the host", default="`<shared_volumes_base>/<name>`")
    path: Mount = key(meaning="in the machines", default="`/shared/<name>`")
    shift: Bool = key(SharedMount.shift, _SHIFT)
    propagate: Bool = key(value=False, meaning="machines with `security.nesting` get it too")
    consumers: MappingOf[Consumer, Annotated[str, one_of("ro", "rw")]] = key(
        meaning="a machine's own entry beats its domain's", kind="map domain or machine → `ro`, `rw`", required=True
    )


class _Infra(Keys):
    project_name: ProjectName = key(meaning="marks in Incus what belongs to this file", required=True)
    for_all: _Global = key(alias="global", made=_Global, meaning="see [global](#global)", present=True)
    domains: MappingOf[Name, OrEmpty[_Domain]] = key(
        {}, "see [Domains](#domains)", kind="map name → domain", present=True
    )
    network_policies: ListOf[_NetworkPolicy] = key((), "see [Network policies](#network-policies)", numbered=True)
    shared_volumes: MappingOf[MountName, OrEmpty[_SharedVolume]] = key(
        {}, "see [Shared volumes](#shared-volumes)", kind="map name → volume"
    )


INFRA = _Infra
"""A whole file."""

MACHINE = _Machine
"""One machine."""

SECTIONS: dict[str, type[Keys]] = {
    "infra": _Infra,
    "global": _Global,
    "addressing": _Addressing,
    "resource_policy": _ResourcePolicy,
    "host_reserve": _Reserve,
    "domain": _Domain,
    "profile": _Profile,
    "machine": _Machine,
    "gpu_device": _Card,
    "storage_volume": _StorageVolume,
    "persistent_data": _PersistentData,
    "network_policy": _NetworkPolicy,
    "shared_volume": _SharedVolume,
}
"""Every section, by the name that its table has in docs/reference/infra.md."""
