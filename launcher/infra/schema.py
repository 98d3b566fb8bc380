"""The keys of an infra.yml: what each may hold, what it is where nobody sets it, and what it means.

The checks, the tables of docs/reference/infra.md and the JSON Schema for editors come from here. Defaults that the
model has are the model's. A change of a key is one that running machines take, unless the key or `usually` of its
section says otherwise.
"""

from __future__ import annotations

import ipaddress  # noqa: TC003  pydantic reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, model_validator

from launcher.infra import readers
from launcher.infra.keys import GONE, Anything, Keys, ListOf, MappingOf, OrEmpty, Read, Written, key, one_of
from launcher.infra.model import (
    SHARED_PATH,
    CpuLimit,
    Division,
    Domain,
    GpuPolicy,
    Machine,
    MachineType,
    MemoryLimit,
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

_FOREIGN = "for the anklume framework only: accepted, and named in one notice"
_SHIFT = (
    "files have the same user IDs in the machine as on the host; `plan` refuses that on NFS, SMB, FUSE and overlays, "
    "which need `false`"
)


def _policy(value: Any) -> Any:
    if value is True or (isinstance(value, Written) and value.value is True):
        return {}
    if not isinstance(value, dict):
        hint = "leave it out for no policy" if value is False else None
        raise WrongError("must be true or a mapping", code="wrong-type", hint=hint)
    return value


class _Reserve(Keys):
    cpu: Annotated[str, Read(readers.reserve(of_memory=False), "share, number", NUMBERED)] = key(
        ResourcePolicy.reserve_cpu, "CPUs kept for the host: `1%` to `99%`, or a number"
    )
    memory: Annotated[str, Read(readers.reserve(of_memory=True), "share, size", NUMBERED)] = key(
        ResourcePolicy.reserve_memory, "memory kept for the host: `1%` to `99%`, or a size such as `4GiB`"
    )


class _ResourcePolicy(Keys):
    host_reserve: _Reserve = key(made=_Reserve, meaning="CPUs and memory kept for the host")
    mode: Annotated[str, one_of(*get_args(Division))] = key(
        ResourcePolicy.mode, "how the rest is divided: by `weight`, or equally"
    )
    cpu_mode: Annotated[str, one_of(*get_args(CpuLimit))] = key(
        ResourcePolicy.cpu_mode,
        "limit a machine to a share of the CPU time (`allowance`), or to a number of CPUs (`count`)",
    )
    memory_enforce: Annotated[str, one_of(*get_args(MemoryLimit))] = key(
        ResourcePolicy.memory_enforce,
        "`soft` lets a container use more memory than its share while nobody else needs it",
    )
    overcommit: Bool = key(
        ResourcePolicy.overcommit,
        "allow limits that add up to more than the host has; else that is an error",
        changing="nothing",
    )


class _Addressing(Keys):
    usually = "restart"

    base_octet: Annotated[int, whole(10, 10, "10")] = key(10, "first number of every address")
    zone_base: Annotated[int, whole(0, 245)] = key(100, "second number of the addresses of the zone `admin`")
    zone_step: Annotated[int, whole(1, 255)] = key(10, "how far the second numbers of zones are apart")


class _Global(Keys):
    addressing: _Addressing = key(
        made=_Addressing, meaning="which [addresses](#addresses) the zones get", changing="restart"
    )
    base_subnet: Annotated[str, Read(readers.two_octets, "text")] = key(
        "10.100", "first two numbers of addresses in the older form, without `addressing`", changing="restart"
    )
    default_os_image: Image = key(
        Settings.default_os_image,
        "image of machines that have neither `image`, `roles` nor `os_image`",
        changing="replace",
    )
    image_channel: Word = key(
        Settings.image_channel,
        "channel of the store's images, where a machine names none",
        new=True,
        changing="replace",
    )
    storage_pool: Word = key(
        Settings.storage_pool, "Incus storage pool for machines and volumes", new=True, changing="recreate"
    )
    gpu_policy: Annotated[GpuPolicy, one_of(*get_args(GpuPolicy))] = key(
        Settings.gpu_policy, "whether only one machine, or several, can have the same [card](#gpus)", changing="nothing"
    )
    gpu_driver: DriverWay = key(
        Settings.gpu_driver,
        "how containers get NVIDIA's [driver](#gpus), unless a machine says otherwise",
        new=True,
        changing="restart",
    )
    ai_access_policy: Annotated[str, one_of("exclusive", "open")] = key(
        "open", "`exclusive` lets [only one domain](#network-policies) reach `ai-tools`", changing="nothing"
    )
    ai_access_default: Line = key(meaning="domain that may reach `ai-tools`", kind="domain", changing="nothing")
    ai_vram_flush: Bool = key(meaning=_FOREIGN, foreign=True)
    nesting_prefix: Bool = key(
        Settings.nesting_prefix,
        "names in Incus begin with `001-` if `/etc/anklume/absolute_level` says 1",
        changing="recreate",
    )
    firewall_mode: Annotated[str, one_of("host", "vm")] = key(
        "host", "`vm` gives a warning: no firewall machine is made, Incus' ACLs keep domains apart", changing="nothing"
    )
    resource_policy: Annotated[
        _ResourcePolicy, BeforeValidator(_policy, json_schema_input_type=Literal[True] | _ResourcePolicy)
    ] = key(meaning="divides CPUs and memory among machines that have no limits of their own", kind="`true`, mapping")
    shared_volumes_base: Folder = key(
        Settings.shared_volumes_base, "folder of the host that contains the shared volumes"
    )
    persistent_data_base: Folder = key(
        Settings.persistent_data_base, "folder of the host that contains the persistent data"
    )
    default_connection: Line = key(meaning=_FOREIGN, foreign=True)
    default_user: Line = key(meaning=_FOREIGN, foreign=True)


class _Card(Keys):
    """One card of gpu_devices: exactly one of the ways to name it."""

    usually = "restart"

    pci: Annotated[str, Read(readers.pci, "PCI address")] = key(meaning="PCI address of the card, such as 0000:01:00.0")
    uuid: Word = key(meaning="UUID that the maker gave the card")
    mig: Word = key(meaning="UUID of a MIG device")

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
    path: Mount = key(meaning="where the volume is in the machine", required=True)
    pool: Word = key(meaning="Incus storage pool", default="`storage_pool`")
    size: Size = key(meaning="size limit; none if it is not set")


class _PersistentData(Keys):
    path: Mount = key(meaning="where the folder is in the machine", required=True)
    readonly: Bool = key(PersistentData.readonly, "the machine cannot write to the folder")
    shift: Bool = key(PersistentData.shift, _SHIFT)


class _Machine(Keys):
    description: Line = key(meaning="what the machine is for")
    type: Annotated[MachineType, one_of(*get_args(MachineType))] = key(
        Machine.type, "a container, or a virtual machine", changing="recreate"
    )
    ip: Annotated[ipaddress.IPv4Address, Read(readers.address, "IPv4 address")] = key(
        meaning="fixed [address](#addresses) in the subnet of its domain",
        default="the next free one",
        changing="restart",
    )
    ephemeral: Bool = key(meaning="`false` protects the machine from being deleted", default="its domain's")
    roles: ListOf[Word] = key((), "what its [image](#images) must provide, such as `base_system`", changing="replace")
    image: Annotated[str, Read(readers.image_ref, "`NAME`, `NAME@CHANNEL`, `NAME@VERSION`")] = key(
        meaning="image of the store", new=True, changing="replace"
    )
    os_image: Image = key(
        meaning="image as Incus names it: `images:debian/13`, or an alias",
        default="`default_os_image`",
        changing="replace",
    )
    vars: MappingOf[VariableName, Anything] = key(
        {},
        "values for the [variables](#variables) of its image",
        kind="map variable → value",
        new=True,
        changing="restart",
    )
    gpu: Bool = key(meaning="gives the machine a [GPU](#gpus)", default="`false`", changing="restart")
    gpu_devices: ListOf[_Card] = key(
        (), 'which cards it gets, each `{pci: "0000:01:00.0"}`, `{uuid: …}` or `{mig: …}`', new=True, changing="restart"
    )
    gpu_memory: Bytes = key(meaning="memory that its card must have", new=True, changing="nothing")
    gpu_driver: DriverWay = key(
        meaning="how the container gets NVIDIA's [driver](#gpus)",
        default="the global one",
        new=True,
        changing="restart",
    )
    profiles: ListOf[Word] = key(
        made=lambda: list(Machine.profiles),
        meaning="profiles of its domain; there is always a `default`",
        default=f"`[{', '.join(Machine.profiles)}]`",
        numbered=True,
        changing="restart",
    )
    config: Config = key({}, "Incus configuration; numbers and booleans become text", changing="parts")
    devices: Devices = key({}, "Incus devices, each with a `type`", kind="map name → device", changing="parts")
    weight: Annotated[int, whole(1, 1_000_000, "from 1")] = key(Machine.weight, "its share under `resource_policy`")
    boot_autostart: Bool = key(meaning="whether the machine starts with the host", incus="boot.autostart")
    boot_priority: Annotated[int, whole(0, 100)] = key(
        meaning="machines with higher numbers start first", incus="boot.autostart.priority"
    )
    snapshots_schedule: Annotated[str, Read(readers.cron, "cron")] = key(
        meaning="when to take snapshots: five fields of cron, Sunday is 0", incus="snapshots.schedule"
    )
    snapshots_expiry: Annotated[str, Read(readers.expiry, "`30d`, `24h`, `60m`")] = key(
        meaning="how long to keep a snapshot", incus="snapshots.expiry"
    )
    storage_volumes: MappingOf[VolumeName, OrEmpty[_StorageVolume]] = key(
        {}, "[Incus volumes](#volumes-and-folders) that it uses", kind="map name → volume"
    )
    persistent_data: MappingOf[MountName, OrEmpty[_PersistentData]] = key(
        {}, "[folders of the host](#volumes-and-folders) that it uses", kind="map name → data"
    )
    target: ClusterMember = key(meaning="cluster member or `@group` to run on", new=True, changing="nothing")
    export_apps: Anything = key(meaning=_FOREIGN, foreign=True)
    services: Anything = key(meaning=_FOREIGN, foreign=True)


class _Profile(Keys):
    description: Line = key(meaning="what the profile is for")
    config: Config = key({}, "Incus configuration", changing="parts")
    devices: Devices = key({}, "Incus devices, each with a `type`", kind="map name → device", changing="parts")


class _Domain(Keys):
    description: Line = key(meaning="what the domain is for")
    enabled: Bool = key(
        Domain.enabled,
        "a disabled domain only keeps its subnet; its images and variables are not checked",
        changing="prune",
    )
    trust_level: Annotated[TrustLevel, one_of(*get_args(TrustLevel))] = key(
        "semi-trusted",
        "zone of its addresses; a container in `untrusted` or `disposable` gives a warning",
        changing="restart",
    )
    subnet_id: Annotated[int, whole(0, 254)] = key(
        meaning="third number of its addresses", default="the next free one", changing="restart"
    )
    ephemeral: Bool = key(Machine.ephemeral, "default for its machines; `false` protects them from being deleted")
    profiles: MappingOf[Word, OrEmpty[_Profile]] = key(
        {}, "Incus profiles, each with `description`, `config`, `devices`", kind="map name → profile", changing="parts"
    )
    machines: MappingOf[MachineName, OrEmpty[_Machine]] = key(
        {}, "its [machines](#machines)", kind="map name → machine", changing="parts"
    )
    ai_provider: Annotated[str, one_of("local", "cloud", "local-first")] = key(meaning=_FOREIGN, foreign=True)
    ai_sanitize: Annotated[bool | str, one_of(True, False, "always")] = key(meaning=_FOREIGN, foreign=True)
    openclaw: Bool = key(meaning=_FOREIGN, foreign=True)
    file_portal: Anything = key(meaning=_FOREIGN, foreign=True)
    panel_color: Anything = key(meaning=_FOREIGN, foreign=True)
    pinned_apps: Anything = key(meaning=_FOREIGN, foreign=True)
    wallpaper: Anything = key(meaning=_FOREIGN, foreign=True)


class _NetworkPolicy(Keys):
    description: Line = key(
        Policy.description, "what the policy is for; in Incus, the description of its rules for incoming traffic"
    )
    source: Line = key(
        alias="from",
        kind="domain, machine, `host`",
        meaning="domain, machine or host that may connect; `host` is the Incus host",
        required=True,
    )
    destination: Line = key(
        alias="to",
        kind="domain, machine, `host`",
        meaning="domain, machine or host that may be reached",
        required=True,
    )
    ports: Ports = key(
        (), "`all` lets every port and protocol through", kind="list of 1 to 65535, `all`", default="`all`"
    )
    protocol: Annotated[Protocol, one_of(*get_args(Protocol))] = key(Policy.protocol, "protocol of the ports")
    bidirectional: Bool = key(Policy.bidirectional, "`to` may also connect to `from`")


class _SharedVolume(Keys):
    source: Folder = key(meaning="folder of the host", default="`<shared_volumes_base>/<name>`")
    path: Mount = key(meaning="where the folder is in the machines", default=f"`{SHARED_PATH}`")
    shift: Bool = key(SharedMount.shift, _SHIFT)
    propagate: Bool = key(value=False, meaning="machines with `security.nesting` get it too, writable")
    consumers: MappingOf[Consumer, Annotated[str, one_of("ro", "rw")]] = key(
        meaning="who gets it, read-only or writable; a machine's entry has priority over its domain's",
        kind="map domain or machine → `ro`, `rw`",
        required=True,
    )


class _Infra(Keys):
    project_name: ProjectName = key(
        meaning="name that marks in Incus what belongs to this file", required=True, changing="recreate"
    )
    for_all: _Global = key(
        alias="global", made=_Global, meaning="[settings](#global) for the whole file", present=True, changing="parts"
    )
    domains: MappingOf[Name, OrEmpty[_Domain]] = key(
        {},
        "[domains](#domains), each a network with its machines",
        kind="map name → domain",
        present=True,
        changing="parts",
    )
    network_policies: ListOf[_NetworkPolicy] = key(
        (), "which [traffic](#network-policies) may pass between domains", numbered=True
    )
    shared_volumes: MappingOf[MountName, OrEmpty[_SharedVolume]] = key(
        {}, "[folders of the host](#shared-volumes) that several machines use", kind="map name → volume"
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
