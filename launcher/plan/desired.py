"""What is to be: every object that a file asks for, as Incus is to be told; pure.

What is not in the file comes in as `PlanContext`: the images that channels mean today, the cards granted, what the
host has for them, the limits divided, the host's addresses.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from anklume_images.errors import AnklumeError
from anklume_images.incus.values import is_true
from launcher.gpu.config import gpu_config
from launcher.infra.live import is_live_config
from launcher.infra.merge import merged_config, merged_devices, named
from launcher.infra.names import DOMAIN, IMAGE, MACHINE, NIC, OWNER, PROFILES, VARIABLE, Names
from launcher.infra.security import PROTECTION
from launcher.plan.changes import is_live_device
from launcher.plan.isolation import Isolation
from launcher.plan.vouched import applied_mark
from launcher.resources import KINDS, Key, Resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from anklume_images.store.images import Image
    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.infra.model import Domain, Infra, Machine, Profile, StorageVolume
    from launcher.infra.models import MachineModels, WantedModel

__all__ = ["Desired", "PlanContext", "desired", "volumes_of"]

_LONGEST_DEVICE = 63
_TYPES = {"lxc": "container", "vm": "virtual-machine"}
_DHCP = "100", "199"


@dataclass(frozen=True)
class PlanContext:
    """What a file does not say itself. `images`, `grants`, `limits` and `models` are by machine."""

    names: Names = field(default_factory=Names)
    images: Mapping[str, Image] = field(default_factory=dict)
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)
    waits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    host_addresses: tuple[str, ...] = ()
    host_files: HostFiles | None = None
    models: Mapping[str, MachineModels] = field(default_factory=dict)


@dataclass(frozen=True)
class Desired:
    """Everything wanted, in the order of making it; `notices` are for the plan."""

    resources: tuple[Resource, ...]
    notices: tuple[str, ...] = ()


def desired(infra: Infra, context: PlanContext) -> Desired:
    """All objects of the enabled domains."""
    return _Builder(infra, context).build()


def volumes_of(machine: Machine, domain: Domain, image: Image | None, pool: str) -> tuple[StorageVolume, ...]:
    """The machine's custom volumes: those of the file, and one for each place whose data its image wants kept."""
    from launcher.infra.model import StorageVolume

    declared = image.spec.get("volumes", []) if image else []
    devices = merged_devices(machine, domain).values()
    taken = {volume.path for volume in machine.volumes}
    taken |= {data.path for data in machine.persistent_data} | {share.path for share in machine.shares}
    taken |= {device["path"].rstrip("/") for device in devices if device.get("type") == "disk" and "path" in device}
    made: list[StorageVolume] = []
    for entry in declared:
        if entry["path"] not in taken:
            same = sum(volume.name.startswith(f"{machine.name}-{entry['kind']}") for volume in made)
            name = f"{machine.name}-{entry['kind']}" + (f"-{same + 1}" if same else "")
            made.append(StorageVolume(name, entry["path"], pool))
    return (*machine.volumes, *made)


class _Builder:
    def __init__(self, infra: Infra, context: PlanContext) -> None:
        self.infra = infra
        self.context = context
        self.names = context.names
        self.isolation = Isolation(infra, context.host_addresses)
        self.pool = infra.settings.storage_pool
        self.mark = {OWNER: infra.project_name}
        self.notices: list[str] = []
        self.resources: dict[Key, Resource] = {}
        self.made_of: dict[Key, list[str]] = defaultdict(list)

    def build(self) -> Desired:
        problems = []
        for domain in self.infra.domains.values():
            if domain.enabled:
                for resource in self._domain(domain):
                    self.resources[resource.key] = resource
                for machine in domain.machines.values():
                    try:
                        self._machine(domain, machine)
                    except AnklumeError as error:
                        problems.append(error)
        if problems:
            first = problems[0]
            raise first if len(problems) == 1 else AnklumeError("\n".join(str(error) for error in problems))
        for key, machines in self.made_of.items():
            self.resources[key] = replace(self.resources[key], machines=tuple(machines))
        for resource in list(self.resources.values()):
            self._mark_applied(resource)
        order = {key: number for number, key in enumerate(self.resources)}
        ordered = sorted(self.resources, key=lambda key: (KINDS.index(key.kind), order[key]))
        return Desired(tuple(self.resources[key] for key in ordered), tuple(self.notices))

    def _mark_applied(self, resource: Resource) -> None:
        needed = (self.resources[need] for need in resource.needs if need in self.resources)
        if mark := applied_mark(resource, needed):
            body = {**resource.body, "config": {**resource.config, **mark}}
            self.resources[resource.key] = replace(resource, body=body)

    # Domains

    def _domain(self, domain: Domain) -> Iterator[Resource]:
        project = Key("project", "", self.names.project(domain.name))
        features = {
            "features.images": "false",  # the images of the default project: each is there once
            "features.networks": "false",  # bridges can be nowhere else
            "features.profiles": "true",
            "features.storage.volumes": "true",
        }
        body = {"description": domain.description, "config": features | self.mark | {DOMAIN: domain.name}}
        acl = Key("acl", "default", self.names.acl(domain.name))
        network = Key("network", "default", self.names.network(domain.name))
        yield Resource(project, body, domain.name, needs=(acl, network))
        ingress, egress = self.isolation.rules(domain)
        text = f"What may enter the domain {domain.name}"
        yield Resource(
            acl, {"description": text, "config": self.mark, "ingress": ingress, "egress": egress}, domain.name
        )
        yield Resource(
            network,
            {"description": f"The domain {domain.name}", "config": self._bridge(domain, acl), "type": "bridge"},
            domain.name,
            needs=(acl,),
        )
        for profile in domain.profiles.values():
            yield self._profile(domain, profile, project)

    def _bridge(self, domain: Domain, acl: Key) -> dict[str, str]:
        first, last = (f"{domain.gateway.rpartition('.')[0]}.{end}" for end in _DHCP)
        return self.mark | {
            "ipv4.address": f"{domain.gateway}/{domain.subnet.partition('/')[2]}",
            "ipv4.dhcp": "true",
            "ipv4.dhcp.ranges": f"{first}-{last}",
            "ipv4.nat": "true",
            "ipv6.address": "none",
            "security.acls": acl.name,
            "security.acls.default.egress.action": "allow",
            "security.acls.default.ingress.action": "drop",
        }

    def _profile(self, domain: Domain, profile: Profile, project: Key) -> Resource:
        used = tuple(machine.name for machine in domain.machines.values() if profile.name in machine.profiles)
        return Resource(
            Key("profile", project.name, profile.name),
            {
                "description": profile.description or f"Profile {profile.name} of the domain {domain.name}",
                "config": {**profile.config, **self.mark},
                "devices": {name: dict(keys) for name, keys in profile.devices.items()},
            },
            domain.name,
            used,
            needs=(project,),
        )

    # Machines

    def _machine(self, domain: Domain, machine: Machine) -> None:
        image = self.context.images.get(machine.name)
        if machine.type == "vm" and image:
            raise AnklumeError(
                f"{machine.name} is a VM, and {image.name} is an image for containers",
                where=machine.where,
                hint="name an os_image that has a VM, such as images:debian/13",
            )
        project = self.names.project(domain.name)
        needs = [Key("project", "", project), Key("network", "default", self.names.network(domain.name))]
        needs += [Key("profile", project, name) for name in machine.profiles if name in domain.profiles]
        needs += [
            Key("machine", self.names.project(self._domain_of(other)), self.names.instance(other))
            for other in self.context.waits.get(machine.name, ())
        ]
        if image:
            needs.append(self._image(image, machine))
        volumes = volumes_of(machine, domain, image, self.pool)
        needs += [self._volume(domain, machine, volume, image) for volume in volumes]
        needs += self._models(domain, machine, volumes)
        grants = self.context.grants.get(machine.name, ())
        gpus = image.spec.get("gpus") if image else None
        granted, driver = gpu_config(machine, domain, grants, self.context.host_files, gpus)
        variables, plain = self._variables(machine, image)
        body: dict[str, Any] = {
            "description": machine.description,
            "type": _TYPES[machine.type],
            "profiles": list(machine.profiles),
            "config": {
                **self.context.limits.get(machine.name, {}),
                **self._own_config(machine),
                **driver,
                **machine.config,
                **variables,
                **self.mark,
                **_profiles_mark(machine, domain),
                MACHINE: machine.name,
                IMAGE: image.ref if image else str(machine.image.remote),
            },
            "devices": {**self._plain_devices(domain, machine, volumes), **_copied(machine.devices), **granted},
        }
        key = Key("machine", project, self.names.instance(machine.name))
        self.resources[key] = Resource(
            key, body, domain.name, (machine.name,), tuple(needs), machine, image, frozenset(plain)
        )

    def _domain_of(self, name: str) -> str:
        machine = self.infra.machine(name)
        assert machine is not None  # noqa: S101 - the GPU policy names machines of the file only
        return machine.domain

    def _image(self, image: Image, machine: Machine) -> Key:
        key = Key("image", "default", image.fingerprint)
        self.resources.setdefault(key, Resource(key, {}, image=image))
        self.made_of[key].append(machine.name)
        return key

    def _volume(self, domain: Domain, machine: Machine, volume: StorageVolume, image: Image | None) -> Key:
        project = self.names.project(domain.name)
        key = Key("volume", project, f"{volume.pool}/{volume.name}")
        config = dict(self.mark) | ({"size": volume.size} if volume.size else {})
        existing = self.resources.get(key)
        if existing is None:
            text = f"{volume.path} of {machine.name}"
            body = {"description": text, "config": config}
            needs = (Key("project", "", project),)
            seed = volume.path if image else ""
            self.resources[key] = Resource(key, body, domain.name, (machine.name,), needs, image=image, seed=seed)
        else:
            machines = (*existing.machines, machine.name)
            shared = {**existing.config, **config, "security.shifted": "true"}
            body = {"description": f"Shared by {', '.join(machines)}", "config": shared}
            self.resources[key] = replace(existing, body=body, machines=machines)
        if is_true(merged_config(machine, domain).get("security.idmap.isolated")):
            shifted = {**self.resources[key].config, "security.shifted": "true"}
            self.resources[key] = replace(self.resources[key], body={**self.resources[key].body, "config": shifted})
        return key

    def _models(self, domain: Domain, machine: Machine, volumes: Iterable[StorageVolume]) -> list[Key]:
        """The models that the machine's volume is to hold, with those of others that have the same volume."""
        models = self.context.models.get(machine.name)
        if models is None:
            return []
        self.notices += models.notices
        if not models.models:
            return []
        volume = next((volume for volume in volumes if volume.path == models.path), None)
        names = ", ".join(model.name for model in models.models)
        if volume is None:
            place = models.path or "the folder of its models"
            self.notices.append(f"{machine.name}: {place} is in no volume of Incus, so {names} is not brought there")
            return []
        project = self.names.project(domain.name)
        own = Key("volume", project, f"{volume.pool}/{volume.name}")
        key = Key("models", project, own.name)
        existing = self.resources.get(key)
        wanted = {model.name: model for model in (*(existing.models if existing else ()), *models.models)}
        _check_files(machine, wanted.values())
        machines = (*(existing.machines if existing else ()), machine.name)
        together = tuple(wanted.values())
        self.resources[key] = Resource(key, {}, domain.name, machines, (own,), models=together)
        self.resources[own] = replace(self.resources[own], models=together)
        return [key]

    @staticmethod
    def _own_config(machine: Machine) -> dict[str, str]:
        keys = {PROTECTION: "false" if machine.ephemeral else "true"}
        return keys | dict(machine.keys)

    def _variables(self, machine: Machine, image: Image | None) -> tuple[dict[str, str], set[str]]:
        """Config of the variables; Incus holds no empty values, so an empty one is left to the image's default."""
        declared = image.spec.get("variables", {}) if image else {}
        plain = {f"{VARIABLE}{name}" for name, variable in declared.items() if not variable.get("secret")}
        for name, value in machine.variables.items():
            default = (declared.get(name) or {}).get("default")
            if value == "" and default not in (None, "", []):
                self.notices.append(
                    f"{machine.name}: Incus holds no empty values, so {name} stays at the image's default, {default}"
                )
        models = self.context.models.get(machine.name)
        values = {**machine.variables, **(models.values if models else {})}
        return {f"{VARIABLE}{name}": value for name, value in values.items() if value}, plain

    def _plain_devices(
        self, domain: Domain, machine: Machine, volumes: Iterable[StorageVolume]
    ) -> dict[str, dict[str, str]]:
        devices = {
            "root": {"type": "disk", "path": "/", "pool": self.pool},
            NIC: {
                "type": "nic",
                "name": NIC,
                "network": self.names.network(domain.name),
                "ipv4.address": machine.address,
                "security.ipv4_filtering": "true",  # policies go by address: nobody takes another one's
                "security.mac_filtering": "true",
            },
        }
        for volume in volumes:
            disk = {"type": "disk", "pool": volume.pool, "source": volume.name, "path": volume.path}
            devices[_device(f"vol-{volume.name}")] = disk
        shift = {"shift": "true"} if machine.type == "lxc" else {}
        for data in machine.persistent_data:
            disk = {"type": "disk", "source": data.source, "path": data.path, **(shift if data.shift else {})}
            devices[_device(f"pd-{data.name}")] = disk | ({"readonly": "true"} if data.readonly else {})
        for share in machine.shares:
            disk = {"type": "disk", "source": share.source, "path": share.path, **(shift if share.shift else {})}
            devices[_device(f"sv-{share.name}")] = disk | ({"readonly": "true"} if share.readonly else {})
        return devices


def _check_files(machine: Machine, models: Iterable[WantedModel]) -> None:
    """AnklumeError where two models would be one file."""
    files: dict[str, tuple[str, str]] = {}
    for model in models:
        for file in model.files:
            name, sha256 = files.setdefault(file.path, (model.name, file.sha256))
            if sha256 != file.sha256:
                raise AnklumeError(
                    f"the models {name} and {model.name} would both be {file.path} in one volume",
                    where=machine.where,
                    hint="give one of them another name in the store",
                )


def _profiles_mark(machine: Machine, domain: Domain) -> dict[str, str]:
    """A hash of what its profiles say that a running machine does not take, so that a change of it restarts it."""
    profiles = {}
    for profile in named(machine.profiles, domain.profiles):
        config = {key: text for key, text in profile.config.items() if not is_live_config(key)}
        devices = {key: dict(keys) for key, keys in profile.devices.items() if not is_live_device(keys)}
        if config or devices:
            profiles[profile.name] = [config, devices]
    if not profiles:
        return {}
    return {PROFILES: hashlib.sha256(json.dumps(profiles, sort_keys=True).encode()).hexdigest()[:16]}


def _copied(devices: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {name: dict(keys) for name, keys in devices.items()}


def _device(name: str) -> str:
    """A device's name, cut with a hash at its end where it is longer than Incus takes."""
    if len(name) <= _LONGEST_DEVICE:
        return name
    return f"{name[: _LONGEST_DEVICE - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
