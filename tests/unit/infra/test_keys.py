"""Each key is declared once: it does something, the reference tells of it, and editors know it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from anklume_images.errors import AnklumeError
from launcher.infra.host import HostFacts
from launcher.infra.incus_keys import config_keys
from launcher.infra.json_schema import json_schema
from launcher.infra.load import check_infra
from launcher.infra.schema import SECTIONS
from launcher.plan.desired import PlanContext, desired
from launcher.plan.limits import Capacity, limits_of
from tests.support import reference
from tests.unit.infra.test_corpus import FILES

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.catalog import Catalog

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
    "machine.vars": {"no_such": 1},
    "machine.gpu": True,
    "machine.gpu_devices": [{"uuid": "GPU-1"}],
    "machine.gpu_memory": "8GiB",
    "machine.gpu_driver": "host",
    "machine.profiles": [],
    "machine.config": {"limits.cpu": 1},
    "machine.devices": DEVICES,
    "machine.weight": 9,
    "machine.snapshots_schedule": "0 2 * * *",
    "machine.snapshots_expiry": "3d",
    "machine.storage_volumes": {},
    "machine.persistent_data": {},
    "machine.target": "node",
    "gpu_device.pci": "0000:01:00.0",
    "gpu_device.uuid": "GPU-2",
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
GREEDY = {"web": {"config": {"limits.memory": "99GiB"}}}
AROUND: dict[str, dict[str, Any]] = {
    "global.base_subnet": {"global": {}, "domains": {"lab": {"subnet_id": 1, "machines": TWO}}},
    "global.ai_access_default": {"global": {"addressing": {}, "ai_access_policy": "exclusive"}},
    "global.gpu_policy": {"domains": {"lab": {"machines": CARDS}}},
    "global.resource_policy": {"global": {"addressing": {}}},
    "resource_policy.mode": {"domains": {"lab": {"machines": TWO}}},
    "resource_policy.overcommit": {"domains": {"lab": {"machines": GREEDY}}},
}
"""Those that mean something among other keys only."""

NO_CHOICE = {"addressing.base_octet"}
KEYS = [
    f"{section}.{name}"
    for section, model in SECTIONS.items()
    for name, info in model.infos().items()
    if not info.foreign
]


def effect(document: Any, file: Path, catalog: Catalog) -> Any:
    """Everything that comes of a file: what is said of it, what would be made, and which cards are asked for."""
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    facts = HostFacts(level=1)
    checked = check_infra(file, catalog, host=facts)
    said = [(problem.code, problem.message) for problem in (*checked.errors, *checked.warnings)]
    if checked.infra is None:
        return said
    infra = checked.infra
    try:
        limits = limits_of(infra, Capacity(8, 1 << 34))
    except AnklumeError as error:
        return str(error)
    made = desired(infra, PlanContext(names=checked.names, limits=limits.config))
    asked = [
        (machine.image.ref, machine.gpu_devices, machine.gpu, machine.gpu_memory, machine.gpu_driver, machine.target)
        for machine in infra.machines()
    ]
    objects = [(resource.key, resource.body) for resource in made.resources]
    return said, infra.notices, limits, objects, asked


def value_of(section: str, name: str) -> Any:
    """What to write for a key: VALUES has it, or for a key that becomes one of Incus' its type alone says it."""
    key = f"{section}.{name}"
    if key in VALUES or not SECTIONS[section].infos()[name].incus:
        return VALUES.get(key)
    declared = SECTIONS[section].model_json_schema()["properties"][name]
    return {"boolean": True, "integer": declared.get("maximum")}.get(declared["type"])


@pytest.mark.parametrize("key", KEYS)
def test_it_does_something(key: str, tmp_path: Path, catalog: Catalog) -> None:
    section, _, name = key.partition(".")
    if key in NO_CHOICE:
        assert key not in VALUES
        return
    document = yaml.safe_load(BASE)
    if key in AROUND:
        document |= {"network_policies": [], "shared_volumes": {}} | copy.deepcopy(AROUND[key])
    if section == "gpu_device":
        document["domains"]["lab"]["machines"]["web"]["gpu_devices"] = [{"uuid": "GPU-1"}]
    before = effect(document, tmp_path / "infra.yml", catalog)
    part = document
    for step in PLACES[section]:
        part = part[step] if isinstance(part, list) else part.setdefault(step, {})
    if section == "gpu_device":
        part.clear()
    part[name] = value_of(section, name)
    assert part[name] is not None, f"VALUES has no value for {key}"
    assert effect(document, tmp_path / "infra.yml", catalog) != before


def test_a_key_that_becomes_one_of_incus_is_one_that_it_has() -> None:
    written = {info.incus for info in SECTIONS["machine"].infos().values()} - {""}
    assert written
    assert {key for key in written if config_keys().find(key) is None} == set()


def test_the_reference_has_every_table_as_declared() -> None:
    pages = [page.read_text("utf-8") for page in reference.PAGES]
    assert sorted(name for page in pages for name in reference.sections(page)) == sorted([*SECTIONS, *reference.OTHERS])
    assert [reference.written(page) for page in pages] == pages, "run: make reference"


@pytest.fixture(scope="module")
def editor() -> jsonschema.Draft202012Validator:
    """What an editor knows of an infra.yml."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_what_an_editor_shows_of_a_key_can_be_read_alone() -> None:
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    shown = {name: entry["description"] for section in sections for name, entry in section["properties"].items()}
    assert len(shown) > 50
    assert not {name: text for name, text in shown.items() if text.startswith("see ") or "](" in text}
    assert not {name: text for name, text in shown.items() if len(text.split()) < 2}


@pytest.mark.parametrize("file", [file for file in FILES if file.name.startswith("valid-")], ids=lambda file: file.stem)
def test_editors_find_nothing_wrong_in_a_valid_file(file: Path, editor: jsonschema.Draft202012Validator) -> None:
    assert [error.message for error in editor.iter_errors(yaml.safe_load(file.read_text("utf-8")))] == []


@pytest.mark.parametrize("code", ["unknown-key", "missing-key", "wrong-type"])
def test_editors_find_what_is_wrong_with_one_key(
    code: str, editor: jsonschema.Draft202012Validator, catalog: Catalog
) -> None:
    with_it = [file for file in FILES if {code} == {error.code for error in check_infra(file, catalog).errors}]
    missed = [file.name for file in with_it if editor.is_valid(yaml.safe_load(file.read_text("utf-8")))]
    assert len(with_it) > 3
    assert set(missed) <= {"invalid-older-form-no-subnet-id.yml"}  # which the other form does not need
