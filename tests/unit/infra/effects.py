"""What comes of an infra.yml, and of each of its keys: an example of every key, and all that the program makes of it.

Cards, the store's images and the host's driver are stand-ins.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from anklume_images.errors import AnklumeError
from anklume_images.store.images import Image, StoredFile
from launcher.apply.steps import _create
from launcher.gpu.driver import Driver, LibraryFolder
from launcher.gpu.host_files import HostFiles
from launcher.gpu.policy import GpuDecision, decide, members_of
from launcher.infra.host import HostFacts
from launcher.infra.load import check_infra
from launcher.infra.schema import SECTIONS
from launcher.plan.desired import PlanContext, desired
from launcher.plan.limits import Capacity, limits_of
from tests.unit.gpu_host import address, host, nvidia

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.catalog import Catalog
    from launcher.infra.model import Infra, Machine
    from launcher.resources import Resource

BASE = """
project_name: p
global: {addressing: {}, resource_policy: {}}
domains:
  lab:
    profiles: {extra: {}}
    machines:
      web: {profiles: [default, extra], config: {security.nesting: true}, storage_volumes: {v: {path: /v}},
            persistent_data: {d: {path: /d}}}
      db: {}
  ai-tools: {}
network_policies: [{from: ai-tools, to: db, ports: [80]}]
shared_volumes: {docs: {consumers: {db: ro}}}
"""
PLACES: dict[str, tuple[Any, ...]] = {
    "infra": (),
    "global": ("global",),
    "addressing": ("global", "addressing"),
    "resource_policy": ("global", "resource_policy"),
    "host_reserve": ("global", "resource_policy", "host_reserve"),
    "domain": ("domains", "lab"),
    "profile": ("domains", "lab", "profiles", "extra"),
    "machine": ("domains", "lab", "machines", "web"),
    "gpu_device": ("domains", "lab", "machines", "web", "gpu_devices", 0),
    "storage_volume": ("domains", "lab", "machines", "web", "storage_volumes", "v"),
    "persistent_data": ("domains", "lab", "machines", "web", "persistent_data", "d"),
    "network_policy": ("network_policies", 0),
    "shared_volume": ("shared_volumes", "docs"),
}
DEVICES = {"tap": {"type": "none"}}
VALUES: dict[str, Any] = {
    "infra.project_name": "q",
    "infra.global": {"addressing": {"zone_base": 1}},
    "infra.domains": {"lab": {}},
    "infra.network_policies": [],
    "infra.shared_volumes": {},
    "global.addressing": {"zone_base": 1},
    "global.base_subnet": "10.9",
    "global.default_os_image": "images:alpine/3.21",
    "global.image_channel": "prod",
    "global.storage_pool": "fast",
    "global.gpu_driver": "runtime",
    "global.gpu_policy": "shared",
    "global.ai_access_default": "lab",
    "global.ai_access_policy": "exclusive",
    "global.nesting_prefix": False,
    "global.firewall_mode": "vm",
    "global.resource_policy": True,
    "global.shared_volumes_base": "/mnt",
    "global.persistent_data_base": "/mnt",
    "addressing.zone_base": 1,
    "addressing.zone_step": 1,
    "resource_policy.host_reserve": {"cpu": 3},
    "resource_policy.mode": "equal",
    "resource_policy.cpu_mode": "count",
    "resource_policy.memory_enforce": "hard",
    "resource_policy.overcommit": True,
    "host_reserve.cpu": 3,
    "host_reserve.memory": "5GiB",
    "domain.description": "d",
    "domain.enabled": False,
    "domain.trust_level": "admin",
    "domain.subnet_id": 7,
    "domain.ephemeral": True,
    "domain.profiles": {"extra": {"config": {"limits.cpu": 1}}},
    "domain.machines": {},
    "profile.description": "d",
    "profile.config": {"limits.cpu": 1},
    "profile.devices": DEVICES,
    "machine.description": "d",
    "machine.type": "vm",
    "machine.ip": "10.120.1.9",
    "machine.ephemeral": True,
    "machine.roles": ["ollama_server"],
    "machine.image": "llama-server",
    "machine.os_image": "images:alpine/3.21",
    "machine.vars": {"ollama_keep_alive": "5m"},
    "machine.gpu": True,
    "machine.gpu_devices": [{"pci": address(0)}],
    "machine.gpu_memory": "8GiB",
    "machine.gpu_driver": "runtime",
    "machine.profiles": [],
    "machine.config": {"limits.cpu": 1},
    "machine.devices": DEVICES,
    "machine.weight": 9,
    "machine.snapshots_schedule": "0 2 * * *",
    "machine.snapshots_expiry": "3d",
    "machine.storage_volumes": {},
    "machine.persistent_data": {},
    "machine.target": "node",
    "gpu_device.pci": address(1),
    "gpu_device.uuid": "GPU-00000000-0000-0000-0000-000000000001",
    "gpu_device.mig": "MIG-1",
    "storage_volume.path": "/w",
    "storage_volume.pool": "fast",
    "storage_volume.size": "9GiB",
    "persistent_data.path": "/w",
    "persistent_data.readonly": True,
    "persistent_data.shift": False,
    "network_policy.description": "d",
    "network_policy.from": "host",
    "network_policy.to": "web",
    "network_policy.ports": [81],
    "network_policy.protocol": "udp",
    "network_policy.bidirectional": True,
    "shared_volume.source": "/mnt",
    "shared_volume.path": "/w",
    "shared_volume.shift": False,
    "shared_volume.propagate": True,
    "shared_volume.consumers": {"db": "rw"},
}
TWO = {"web": {"weight": 3}, "db": {}}
CARDS = {"web": {"gpu": True}, "db": {"gpu": True}}
WITH_CARD = {"web": {"gpu": True}}
GREEDY = {"web": {"config": {"limits.memory": "99GiB"}}}
AROUND: dict[str, dict[str, Any]] = {
    "global.base_subnet": {"global": {}, "domains": {"lab": {"subnet_id": 1, "machines": TWO}}},
    "global.ai_access_default": {"global": {"addressing": {}, "ai_access_policy": "exclusive"}},
    "global.gpu_policy": {"domains": {"lab": {"machines": CARDS}}},
    "global.resource_policy": {"global": {"addressing": {}}},
    "global.gpu_driver": {"domains": {"lab": {"machines": WITH_CARD}}},
    "machine.gpu_memory": {"domains": {"lab": {"machines": WITH_CARD}}},
    "machine.gpu_driver": {"domains": {"lab": {"machines": WITH_CARD}}},
    "machine.vars": {"domains": {"lab": {"machines": {"web": {"image": "ollama"}}}}},
    "resource_policy.mode": {"domains": {"lab": {"machines": TWO}}},
    "resource_policy.overcommit": {"domains": {"lab": {"machines": GREEDY}}},
}
"""Those that mean something among other keys only."""


STORED = StoredFile("0" * 64, 1)
FOLDER = LibraryFolder("/usr/lib/nvidia")
DRIVER = HostFiles(Driver("550.54.15", ("550.54.15",), (FOLDER,), smi="/usr/bin/nvidia-smi", uvm=True))


@dataclass(frozen=True)
class Made:
    """What the program makes of a valid file."""

    said: list[tuple[str, str]]
    infra: Infra
    cards: GpuDecision
    limits: Any
    resources: tuple[Resource, ...]
    requests: list[Any]

    @property
    def effect(self) -> Any:
        """All of it that a person or Incus gets to see."""
        objects = [(resource.key, resource.body) for resource in self.resources]
        return self.said, self.infra.notices, self.cards, self.limits, objects, self.requests


class RecordingIncus:
    """Stands for a server: it notes the requests by which instances are made."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def make_instance(self, what: Any, body: Any, *, target: str, progress: Any) -> None:
        del progress
        self.requests.append((what, body, target))

    def patch_object(self, what: Any, body: Any) -> None:
        self.requests.append((what, body))


def document_for(section: str, name: str) -> Any:
    """A file in which the key means something and is not set."""
    key = f"{section}.{name}"
    document = yaml.safe_load(BASE)
    if key in AROUND:
        document |= {"network_policies": [], "shared_volumes": {}} | copy.deepcopy(AROUND[key])
    if section == "gpu_device":
        document["domains"]["lab"]["machines"]["web"]["gpu_devices"] = [{"pci": address(0)}]
    return document


def set_key(document: Any, section: str, name: str, value: Any) -> None:
    """Write a key into such a file; a card is named by that one alone."""
    part = document
    for step in PLACES[section]:
        part = part[step] if isinstance(part, list) else part.setdefault(step, {})
    if section == "gpu_device":
        part.clear()
    part[name] = value


def value_of(section: str, name: str) -> Any:
    """What to write for a key: VALUES has it, or for a key that becomes one of Incus' its type alone says it."""
    key = f"{section}.{name}"
    if key in VALUES or not SECTIONS[section].infos()[name].incus:
        return VALUES.get(key)
    declared = SECTIONS[section].model_json_schema()["properties"][name]
    return {"boolean": True, "integer": declared.get("maximum")}.get(declared["type"])


def made_of(document: Any, file: Path, catalog: Catalog, *, cards: int = 1) -> Made | Any:
    """What comes of a file; of a wrong one, what is said of it."""
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    checked = check_infra(file, catalog, host=HostFacts(level=1))
    said = [(problem.code, problem.message) for problem in (*checked.errors, *checked.warnings)]
    if checked.infra is None:
        return said
    infra, names = checked.infra, checked.names
    try:
        limits = limits_of(infra, Capacity(8, 1 << 34))
    except AnklumeError as error:
        return str(error)

    def place(machine: Machine) -> tuple[str, str]:
        return names.project(machine.domain), names.instance(machine.name)

    decision = decide(
        infra,
        host(*(nvidia(index) for index in range(cards))),
        [],
        place,
        members=members_of(infra, [], place),
        memory={address(0): 4 << 30},
        mig={"MIG-1": address(0)},
    )
    images = {machine.name: _image(machine) for machine in infra.machines() if machine.image.store}
    context = PlanContext(names, images, decision.grants, decision.waits, limits.config, host_files=DRIVER)
    resources = desired(infra, context).resources
    incus: Any = RecordingIncus()
    nothing: Any = None
    for resource in resources:
        if resource.key.kind == "machine":
            _create(resource, incus, nothing)
    return Made(said, infra, decision, limits, resources, incus.requests)


def _image(machine: Machine) -> Image:
    """A stand-in for the image that a machine names."""
    choice = machine.image
    digest = hashlib.sha256(choice.ref.encode()).hexdigest()
    spec: dict[str, Any] = {"variables": {}, "volumes": [], "healthcheck": None}
    name = str(choice.store)
    return Image(name, choice.version, "amd64", "r", digest, STORED, STORED, 1, 0, "An image", "t", spec=spec)
