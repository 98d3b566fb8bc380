"""What a valid file becomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import InvalidFileError
from launcher.infra.host import HostFacts
from launcher.infra.load import RefusedFileError, load_infra
from launcher.infra.model import (
    GpuSelector,
    Infra,
    PersistentData,
    Policy,
    Profile,
    ResourcePolicy,
    Settings,
    SharedMount,
    StorageVolume,
)

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.catalog import Catalog

HEAD = "project_name: p\nglobal: {addressing: {}}\n"


def load(tmp_path: Path, catalog: Catalog, text: str) -> Infra:
    file = tmp_path / "infra.yml"
    file.write_text(text)
    infra, _ = load_infra(file, catalog, host=HostFacts())
    return infra


def test_defaults(tmp_path: Path, catalog: Catalog):
    infra = load(tmp_path, catalog, HEAD + "domains: {lab: {machines: {web: {}}}}\n")
    assert infra.settings == Settings()
    assert infra.settings.nesting_prefix
    lab, web = infra.domains["lab"], infra.domains["lab"].machines["web"]
    assert (lab.subnet, lab.gateway, lab.enabled) == ("10.120.0.0/24", "10.120.0.254", True)
    assert (web.type, web.ephemeral, web.gpu, web.weight, web.profiles) == ("lxc", False, False, 1, ("default",))
    assert (web.keys, web.target) == ({}, None)
    assert web.where == f"{tmp_path}/infra.yml:3:28"
    assert infra.file == str(tmp_path / "infra.yml")


def test_every_key_arrives(tmp_path: Path, catalog: Catalog):
    infra = load(
        tmp_path,
        catalog,
        """
project_name: everything
global:
  addressing: {zone_base: 60, zone_step: 3}
  gpu_policy: shared
  default_os_image: images:debian/12
  image_channel: prod
  storage_pool: fast
  nesting_prefix: false
  firewall_mode: vm
  ai_vram_flush: true
  ai_access_default: lab
  shared_volumes_base: /mnt/shares/
  persistent_data_base: /mnt/data
  resource_policy: {host_reserve: {cpu: 1.5, memory: 2 GiB}, mode: equal, overcommit: true}
domains:
  lab:
    description: A laboratory
    ephemeral: true
    trust_level: trusted
    profiles:
      cuda: {config: {nvidia.runtime: true}, devices: {gpu: {type: gpu, pci: "01:00.0", uid: 0}}}
    machines:
      ai:
        description: Thinks
        gpu: true
        profiles: [default, cuda, default]
        weight: 3
        boot_autostart: false
        boot_priority: 7
        snapshots_schedule: " 0  2 * * *"
        snapshots_expiry: 24h
        config: {limits.cpu: 4, limits.memory.swap: false, user.ratio: 0.5}
        devices: {web: {type: proxy, nat: true}}
        roles: [ollama_server, base_system]
        storage_volumes: {models: {path: /root/.ollama/, size: 100 GiB}, more: {path: /more, pool: slow}}
        persistent_data: {notes: {path: /n, readonly: true}}
        gpu_devices: [{pci: "0000:0A:00.0"}, {uuid: GPU-1}]
        gpu_memory: 8GiB
        target: "@gpu"
        ephemeral: false
      db: {snapshots_expiry: 60m}
network_policies:
  - {description: ask, from: lab, to: ai, ports: [443, 80, 443], protocol: udp, bidirectional: true}
  - {from: host, to: lab, ports: all}
shared_volumes:
  docs: {consumers: {lab: ro, ai: rw}}
""",
    )
    assert infra.settings == Settings(
        gpu_policy="shared",
        default_os_image="images:debian/12",
        image_channel="prod",
        storage_pool="fast",
        nesting_prefix=False,
        shared_volumes_base="/mnt/shares",
        persistent_data_base="/mnt/data",
        resource_policy=ResourcePolicy("1.5", "2GiB", mode="equal", overcommit=True),
    )
    lab = infra.domains["lab"]
    assert lab.description == "A laboratory"
    gpu = {"type": "gpu", "pci": "0000:01:00.0", "uid": "0"}
    assert lab.profiles == {"cuda": Profile("cuda", {"nvidia.runtime": "true"}, {"gpu": gpu})}
    ai, db = lab.machines["ai"], lab.machines["db"]
    assert (ai.address, db.address) == ("10.63.0.1", "10.63.0.2")
    assert (ai.ephemeral, db.ephemeral) == (False, True)
    assert ai.profiles == ("default", "cuda")
    assert ai.weight == 3
    assert ai.keys == {
        "boot.autostart": "false",
        "boot.autostart.priority": "7",
        "snapshots.schedule": "0 2 * * *",
        "snapshots.expiry": "24H",
    }
    assert db.keys == {"snapshots.expiry": "60M"}
    assert ai.config == {"limits.cpu": "4", "limits.memory.swap": "false", "user.ratio": "0.5"}
    assert ai.devices == {"web": {"type": "proxy", "nat": "true"}}
    assert ai.volumes == (
        StorageVolume("models", "/root/.ollama", "fast", "100GiB"),
        StorageVolume("more", "/more", "slow"),
    )
    assert ai.persistent_data == (PersistentData("notes", "/mnt/data/lab/ai/notes", "/n", readonly=True),)
    assert ai.gpu_devices == (GpuSelector(pci="0000:0a:00.0"), GpuSelector(uuid="GPU-1"))
    assert (ai.gpu, ai.gpu_memory, ai.target, ai.tags) == (True, 8 << 30, "@gpu", ("llm",))
    assert (ai.image.ref, db.image.ref) == ("ollama@prod", "debian-12@prod")
    assert ai.shares == (SharedMount("docs", "/mnt/shares/docs", "/shared/docs", readonly=False),)
    assert db.shares == (SharedMount("docs", "/mnt/shares/docs", "/shared/docs", readonly=True),)
    assert infra.policies == (
        Policy("lab", "ai", (80, 443), "udp", bidirectional=True, description="ask"),
        Policy("host", "lab"),
    )


def test_a_disabled_domain_is_there_and_its_machines_are_not(tmp_path: Path, catalog: Catalog):
    infra = load(
        tmp_path, catalog, HEAD + "domains:\n  a: {enabled: false, machines: {x: {}}}\n  b: {machines: {y: {}}}\n"
    )
    assert [machine.name for machine in infra.machines()] == ["y"]
    assert infra.machine("x") is None
    assert infra.domains["a"].machines["x"].address == "10.120.0.1"


def test_shares_are_propagated_to_those_that_nest(tmp_path: Path, catalog: Catalog):
    text = "domains:\n  lab:\n    machines:\n      a: {config: {security.nesting: true}}\n      b: {}\n      c: {}\n"
    text += "shared_volumes:\n  docs: {propagate: true, consumers: {c: ro}}\n  more: {consumers: {c: ro}}\n"
    machines = load(tmp_path, catalog, HEAD + text).domains["lab"].machines
    assert {name: [(s.name, s.readonly) for s in machine.shares] for name, machine in machines.items()} == {
        "a": [("docs", False)],
        "b": [],
        "c": [("docs", True), ("more", True)],
    }


def test_a_domains_name_comes_before_a_machines(tmp_path: Path, catalog: Catalog):
    text = "domains:\n  web: {machines: {a: {}, b: {}}}\n  lab: {machines: {web: {}}}\n"
    domains = load(tmp_path, catalog, HEAD + text + "shared_volumes: {docs: {consumers: {web: ro}}}\n").domains
    assert [len(domains[d].machines[m].shares) for d, m in (("web", "a"), ("web", "b"), ("lab", "web"))] == [1, 1, 0]


def test_exclusive_access_makes_the_frameworks_policy(tmp_path: Path, catalog: Catalog):
    text = "project_name: p\nglobal: {addressing: {}, ai_access_policy: exclusive, ai_access_default: pro}\n"
    infra = load(tmp_path, catalog, text + "domains: {ai-tools: {}, pro: {}}\n")
    (policy,) = infra.policies
    assert (policy.source, policy.destination, policy.ports, policy.bidirectional) == ("pro", "ai-tools", (), True)


def test_what_is_wrong_is_raised_all_at_once(tmp_path: Path, catalog: Catalog):
    with pytest.raises(InvalidFileError) as caught:
        load(tmp_path, catalog, HEAD + "domains: {lab: {machines: {web: {type: x, roles: [y]}}}}\nextra: 1\n")
    assert [problem.code for problem in caught.value.problems] == ["wrong-value", "role-without-image", "unknown-key"]
    assert caught.value.exit_code == 2


def test_nothing_but_the_gpu_policy_against_it_is_a_refusal(tmp_path: Path, catalog: Catalog):
    machines = "domains: {lab: {machines: {a: {gpu: true}, b: {gpu: true%s}}}}\n"
    with pytest.raises(RefusedFileError) as caught:
        load(tmp_path, catalog, HEAD + machines % "")
    assert caught.value.exit_code == 4
    with pytest.raises(InvalidFileError) as other:
        load(tmp_path, catalog, HEAD + machines % ", type: x")
    assert other.value.exit_code == 2


def test_warnings_come_with_it(tmp_path: Path, catalog: Catalog):
    file = tmp_path / "infra.yml"
    file.write_text(HEAD + "domains: {lab: {machines: {web: {ip: 10.120.0.100}}}}\n")
    _, warnings = load_infra(file, catalog, host=HostFacts())
    assert [str(warning) for warning in warnings] == [
        f"{file}:3:38: 10.120.0.100 is given out by DHCP (10.120.0.1 to 10.120.0.99 are for machines)"
    ]
