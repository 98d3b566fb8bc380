"""Cards and holders on a real Incus of each version, with simulated cards."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.errors import IncusError
from anklume_images.ship.publish import ImageFiles, publish
from launcher.gpu.claims import Claimant, claim, release
from launcher.gpu.config import gpu_config
from launcher.gpu.holders import holders
from launcher.gpu.host import read_cards
from launcher.gpu.host_files import HostFiles, read_host_files
from launcher.gpu.policy import decide
from launcher.gpu.preflight import preflight
from launcher.infra.model import GpuSelector, Profile
from launcher.observe.daemon import daemon_root
from launcher.private_incus import fake_gpu as fakegpu
from launcher.trial.neighbours import neighbours_of_host
from tests.support import preloaded
from tests.support.instances import create_instance, delete_instance, start_instance
from tests.unit.gpu_host import gpu, infra, machine, place

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from launcher.private_incus.daemon import PrivateIncus

FIRST, SECOND = (card.pci for card in fakegpu.cards(2))
UUID = "7d6ce9b8-0000-4000-8000-000000000001"
CLAIMANT = Claimant("default", "c2", "test")
PROJECT = {"features.images": "false", "features.profiles": "true"}


def instances(client: Incus) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.within(None).get("instances", recursion=1, **{"all-projects": "true"})
    return found


@pytest.fixture
def project(client: Incus) -> Iterator[Incus]:
    """A project `ai` with a profile, and a connection to it."""
    client.send("post", "projects", {"name": "ai", "config": PROJECT})
    own = client.within("ai")
    own.send("put", "profiles/default", {"config": {}, "devices": client.get("profiles/default")["devices"]})
    yield own
    for found in own.get("instances", recursion=1):
        if found["status"] == "Running":
            own.stop(found["name"], force=True)
        delete_instance(own, found["name"])
    for found in own.get("profiles", recursion=1):
        if found["name"] != "default":
            own.send("delete", f"profiles/{found['name']}")
    client.send("delete", "projects/ai")


def test_cards_of_a_real_server(client: Incus) -> None:
    cards = read_cards(client)
    assert [card.pci for card in cards] == [FIRST, SECOND]
    assert [card.drm for card in cards] == [card.drm for card in fakegpu.cards(2)]
    for card, fake in zip(cards, fakegpu.cards(2), strict=True):
        assert card.is_nvidia
        assert card.nvidia is not None
        assert (card.nvidia.uuid, card.nvidia.node, card.nvidia.cuda_version) == (
            fake.uuid,
            f"nvidia{fake.index}",
            fakegpu.CUDA,
        )
        assert (card.driver, card.driver_version, card.model) == ("nvidia", fakegpu.DRIVER, fakegpu.MODEL)


@pytest.mark.parametrize(
    ("devices", "config", "held"),
    [
        ({"gpu": gpu()}, {}, [FIRST, SECOND]),
        ({"gpu": gpu(pci=SECOND)}, {}, [SECOND]),
        ({"gpu": gpu(id="1")}, {}, [SECOND]),
        ({"gpu": gpu(vendorid="10de", productid="2684")}, {}, [FIRST, SECOND]),
        ({"gpu": gpu(gputype="mig", pci=FIRST, mig_uuid=f"MIG-{UUID}")}, {"nvidia.runtime": "true"}, [FIRST]),
        ({"gpu": gpu(gputype="mig", pci=FIRST, mig_uuid=UUID)}, {"nvidia.runtime": "true"}, [FIRST]),
        ({"gpu": gpu(gputype="mig", pci=FIRST, mig_gi="3", mig_ci="0")}, {"nvidia.runtime": "true"}, [FIRST]),
        ({"node": {"type": "unix-char", "path": "/dev/nvidia1"}}, {}, [SECOND]),
        ({"node": {"type": "unix-char", "source": "/dev/dri/renderD128", "path": "/dev/gpu"}}, {}, [FIRST]),
        ({"node": {"type": "unix-char", "path": "/dev/nvidiactl"}}, {}, []),
        ({"dri": {"type": "disk", "source": "/dev/dri", "path": "/dev/dri"}}, {}, [FIRST, SECOND]),
        ({}, {"raw.lxc": "lxc.mount.entry = /dev/nvidia0 dev/nvidia0 none bind,optional,create=file"}, [FIRST]),
        ({}, {"raw.lxc": "lxc.cgroup2.devices.allow = c 195:1 rwm"}, [SECOND]),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else None,
)
def test_every_way_to_hold_a_card_is_found(
    client: Incus, image: ImageFiles, devices: dict[str, dict[str, str]], config: dict[str, str], held: list[str]
) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint, devices=devices, config=config)
    found = holders(read_cards(client), instances(client))
    assert [(holder.card.pci, holder.instance, holder.running) for holder in found] == [
        (pci, "c1", False) for pci in held
    ]


def test_what_unix_char_gives_is_what_is_counted(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    node = {"type": "unix-char", "path": "/dev/nvidia1"}
    create_instance(client, "c1", fingerprint=image.fingerprint, devices={"node": node})
    start_instance(client, "c1")
    assert client.execute("c1", ["ls", "/dev/nvidia1"]).code == 0
    (holder,) = holders(read_cards(client), instances(client))
    assert (holder.card.pci, holder.state) == (SECOND, "running")


def test_unknown_gputype_gives_the_card_where_it_is_accepted(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    device = gpu(gputype="no-such-type", pci=FIRST)
    try:
        create_instance(client, "c1", fingerprint=image.fingerprint, devices={"gpu": device})
    except IncusError:
        assert client.server.release >= (7, 0)  # 6.0 takes it
        return
    start_instance(client, "c1")
    assert client.execute("c1", ["ls", "/dev/nvidia0"]).code == 0
    assert [holder.card.pci for holder in holders(read_cards(client), instances(client))] == [FIRST]


def test_holders_in_other_projects_and_through_profiles(client: Incus, project: Incus, image: ImageFiles) -> None:
    publish(image, client)
    project.send("post", "profiles", {"name": "nvidia", "devices": {"card": gpu(pci=FIRST)}})
    create_instance(
        project,
        "c1",
        fingerprint=image.fingerprint,
        profiles=("default", "nvidia"),
        config={"boot.autostart": "true"},
    )
    (holder,) = holders(read_cards(client), instances(client))
    assert (holder.project, holder.instance, holder.by, holder.state) == (
        "ai",
        "c1",
        "device card",
        "stopped, starts with Incus",
    )


@pytest.mark.both_versions
def test_granted_card_is_all_that_a_container_gets(
    incus: PrivateIncus, client: Incus, project: Incus, image: ImageFiles
) -> None:
    publish(image, client)
    # A profile as in the guide: its device names no card, so that Incus alone would pass both.
    project.send("post", "profiles", {"name": "nvidia", "devices": {"gpu": gpu(gputype="physical")}})
    entry = machine("c1", pci=SECOND, profiles=("default", "nvidia"), gpu_driver="runtime")
    profiles = {"nvidia": Profile("nvidia", devices={"gpu": gpu(gputype="physical")})}
    file = infra(entry, profiles=profiles)
    decision = decide(file, read_cards(client), instances(client), place)
    decision.check()
    devices, config = gpu_config(entry, file.domains["ai"], decision.grants["c1"])
    assert preflight(entry, file.domains["ai"], decision.grants["c1"], files_of(incus)) == ()
    create_instance(
        project, "c1", fingerprint=image.fingerprint, profiles=("default", "nvidia"), devices=devices, config=config
    )
    start_instance(project, "c1")
    nodes = set(project.execute("c1", ["sh", "-c", "cd /dev; ls -d nvidia* dri/*"]).stdout.decode().split())
    assert "nvidia1" in nodes
    assert nodes & {"nvidia0", "dri/card0", "dri/renderD128"} == set()
    assert {f"dri/{node}" for node in fakegpu.cards(2)[1].drm} <= nodes
    assert fakegpu.DRIVER in project.execute("c1", ["nvidia-smi"]).stdout.decode()  # the stand-in of the hook
    # And what it has is what is counted.
    assert [holder.card.pci for holder in holders(read_cards(client), instances(client))] == [SECOND]
    assert decide(file, read_cards(client), instances(client), place).grants == decision.grants


def test_bare_profile_would_pass_both_cards(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint, devices={"gpu": gpu(gputype="physical")})
    start_instance(client, "c1")
    nodes = client.execute("c1", ["sh", "-c", "cd /dev; ls -d nvidia*"]).stdout.decode().split()
    assert {"nvidia0", "nvidia1"} <= set(nodes)


def files_of(incus: PrivateIncus) -> HostFiles:
    root = daemon_root(str(incus.socket))
    assert root is not None
    return read_host_files(root)


def test_preflight_sees_the_daemons_files_and_not_the_callers(incus: PrivateIncus, client: Incus) -> None:
    entry = machine("c1", pci=FIRST, gpu_driver="runtime")
    file = infra(entry)
    grants = decide(file, read_cards(client), [], place).grants["c1"]
    assert preflight(entry, file.domains["ai"], grants, files_of(incus)) == ()
    incus.run(["mv", "/usr/bin/nvidia-container-cli", "/usr/bin/gone"], check=True)
    try:
        (found,) = preflight(entry, file.domains["ai"], grants, files_of(incus))
        assert "nvidia-container-cli" in found.cause
        # Nobody asks for it where the host's own driver is given; Incus alone then tells no UUID.
        assert preflight(machine("c1", pci=FIRST), file.domains["ai"], grants, files_of(incus)) == ()
        assert [card.nvidia and card.nvidia.uuid for card in read_cards(client)] == [
            card.uuid for card in fakegpu.cards(2)
        ]
    finally:
        incus.run(["mv", "/usr/bin/gone", "/usr/bin/nvidia-container-cli"], check=True)


def test_driver_of_the_host_as_it_is_read(incus: PrivateIncus) -> None:
    driver = files_of(incus).driver
    assert (driver.module, driver.version, driver.libraries) == (fakegpu.DRIVER, fakegpu.DRIVER, (fakegpu.DRIVER,))
    assert ([folder.path for folder in driver.folders], driver.smi) == ([fakegpu.LIBRARIES], fakegpu.SMI)
    assert driver.uvm


def test_privileged_container_with_the_runtime_is_refused_by_incus_as_by_us(client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    config = {"nvidia.runtime": "true", "security.privileged": "true"}
    with pytest.raises(IncusError, match="privileged"):
        create_instance(client, "c1", fingerprint=image.fingerprint, config=config)
    entry = machine("c1", pci=FIRST, config={"security.privileged": "true"})
    file = infra(entry)
    grants = decide(file, read_cards(client), [], place).grants["c1"]
    assert [found.fatal for found in preflight(entry, file.domains["ai"], grants, None)] == [True, False]


# The command


def gpu_command(incus: PrivateIncus, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "INCUS_SOCKET": str(incus.socket)}
    environment.pop("INCUS_REMOTE", None)
    result = preloaded.run("launcher", ["gpu", *arguments], env=environment)
    assert "Traceback" not in result.stderr, result.stderr
    return result


def test_command_shows_cards_and_holders(incus: PrivateIncus, client: Incus, image: ImageFiles) -> None:
    publish(image, client)
    create_instance(client, "c1", fingerprint=image.fingerprint, devices={"gpu0": gpu(pci=SECOND)})
    shown = gpu_command(incus)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["card", "model", "driver", "cuda", "memory", "holders"]
    assert lines[1].startswith(FIRST)
    assert lines[1].endswith("free")
    assert lines[2].endswith("default/c1")
    assert fakegpu.DRIVER in lines[1]
    assert "device gpu0" in lines[-1]
    cards = read_cards(client)
    claim(client, decide(infra(machine("c2", pci=FIRST)), cards, [], place).grants["c2"][0], CLAIMANT, cards)
    assert gpu_command(incus).stdout.splitlines()[-1] == f"{FIRST}: claimed by default/c2, which does not have it"
    document = json.loads(gpu_command(incus, "--json").stdout)
    release(client, CLAIMANT)
    assert document["cards"][0]["claims"] == [{"project": "default", "instance": "c2"}]
    free, held = document["cards"]
    assert (free["pci"], free["free"], free["holders"], free["memory_total"]) == (FIRST, True, [], None)
    assert held["holders"] == [
        {
            "project": "default",
            "instance": "c1",
            "by": "device gpu0",
            "mode": "physical",
            "part": None,
            "running": False,
            "autostart": False,
        }
    ]
    assert held["nodes"] == ["/dev/nvidia1", "/dev/dri/card1", "/dev/dri/renderD129"]


INFRA = """\
project_name: test
global: {gpu_policy: POLICY}
domains:
  ai:
    subnet_id: 1
    machines:
      first: {gpu: true, gpu_devices: [{pci: "0000:01:00.0"}]}
      second: {gpu: true, gpu_devices: [{pci: "0000:02:00.0"}]}
"""


def test_command_says_what_a_file_would_get(
    incus: PrivateIncus, client: Incus, image: ImageFiles, tmp_path: Path
) -> None:
    publish(image, client)
    file = tmp_path / "infra.yml"
    file.write_text(INFRA.replace("POLICY", "exclusive"))
    shown = gpu_command(incus, str(file))
    assert shown.returncode == 0, shown.stderr
    assert [line.split() for line in shown.stdout.splitlines()[-2:]] == [
        ["first", FIRST, "gpu0", "host"],
        ["second", SECOND, "gpu0", "host"],
    ]
    create_instance(client, "by-hand", fingerprint=image.fingerprint, devices={"gpu": gpu()})
    refused = gpu_command(incus, str(file), "--json")
    assert refused.returncode == 4
    document = json.loads(refused.stdout)
    assert document["granted"] == {}
    assert [(found["machine"], found["code"]) for found in document["refusals"]] == [
        ("first", "gpu-held"),
        ("second", "gpu-held"),
    ]
    assert "by-hand of project default" in refused.stderr
    file.write_text(INFRA.replace("POLICY", "shared"))
    shared = gpu_command(incus, str(file))
    assert shared.returncode == 0, shared.stderr
    assert shared.stderr.count("it does not keep their memory apart") == 2


def test_a_try_counts_the_machines_of_the_hosts_own_incus(
    project: Incus, image: ImageFiles, incus: PrivateIncus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even one that is called as the file's own would be, and whatever the client's default remote is."""
    publish(image, project.within("default"))
    create_instance(project, "c1", fingerprint=image.fingerprint, devices={"gpu": gpu(pci=FIRST)})
    monkeypatch.setenv("INCUS_SOCKET", str(incus.socket))
    monkeypatch.setenv("INCUS_CONF", str(tmp_path))
    (tmp_path / "config.yml").write_text("default-remote: far\nremotes: {far: {addr: 'https://127.0.0.1:9'}}\n")
    neighbours = neighbours_of_host(Console())
    file = infra(machine("c1", gpu=True, gpu_devices=(GpuSelector(pci=FIRST),)))
    (refusal,) = decide(file, read_cards(project), neighbours, place).refusals
    assert refusal.code == "gpu-held"
    assert f"ai of {incus.socket}" in refusal.message


def test_a_try_says_when_the_hosts_own_incus_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INCUS_SOCKET", "/nowhere/unix.socket")
    assert neighbours_of_host(Console()) == []
    assert "is not known" in capsys.readouterr().err
