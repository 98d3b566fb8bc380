"""Devices and config for granted cards, the preflight, and what nvidia-smi says."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from launcher.gpu.config import gpu_config
from launcher.gpu.nvidia_smi import Figures, ask, matching, nvidia_smi, parse_mig
from launcher.gpu.policy import decide
from launcher.gpu.preflight import preflight
from launcher.gpu.vendors.vendor import VIDEO
from launcher.infra.model import GpuSelector, Profile
from launcher.observe.daemon import daemon_root
from tests.unit.gpu_host import address, amd, gpu, host, infra, machine, nvidia, place

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.preflight import Obstacle
    from launcher.infra.model import Machine

FIRST, SECOND = address(0), address(1)
RUNTIME = {"nvidia.runtime": "true", "nvidia.driver.capabilities": "compute,utility"}
WITHOUT_CARD = gpu(gputype="physical")


def made(
    entry: Machine, cards: tuple[Card, ...] | None = None, **profiles: Profile
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    file = infra(entry, profiles=profiles)
    decision = decide(file, cards or host(nvidia(0), nvidia(1)), [], place)
    decision.check()
    return gpu_config(entry, file.domains[entry.domain], decision.grants.get(entry.name, ()))


# Devices and config


def test_nvidia_container_gets_its_card_and_the_runtime() -> None:
    devices, config = made(machine("a", pci=SECOND))
    assert devices == {"gpu0": {"type": "gpu", "gputype": "physical", "pci": SECOND}}
    assert config == RUNTIME


def test_machine_without_a_gpu_gets_nothing() -> None:
    assert made(machine("a", gpu=False)) == ({}, {})


@pytest.mark.parametrize("off", ["false", "0", "no", "False"])
def test_runtime_can_be_switched_off(off: str) -> None:
    _, config = made(machine("a", pci=FIRST, config={"nvidia.runtime": off}))
    assert config == {}


def test_what_the_file_says_is_left_as_it_is() -> None:
    own = {"nvidia.runtime": "true", "nvidia.driver.capabilities": "all"}
    assert made(machine("a", pci=FIRST, config=own))[1] == {}
    profile = Profile("p", config={"nvidia.driver.capabilities": "compute"})
    assert made(machine("a", pci=FIRST, profiles=("p",)), p=profile)[1] == {"nvidia.runtime": "true"}
    off = Profile("p", config={"nvidia.runtime": "false"})
    assert made(machine("a", pci=FIRST, profiles=("p",)), p=off)[1] == {}


def test_device_of_a_profile_that_names_no_card_is_replaced() -> None:
    profile = Profile("p", devices={"card": WITHOUT_CARD})
    devices, _ = made(machine("a", pci=SECOND, profiles=("p",)), p=profile)
    assert devices == {"card": {"type": "gpu", "gputype": "physical", "pci": SECOND}}


def test_devices_beyond_the_cards_are_hidden() -> None:
    profile = Profile("p", devices={"one": WITHOUT_CARD, "two": WITHOUT_CARD})
    devices, _ = made(machine("a", pci=SECOND, profiles=("p",)), p=profile)
    assert devices == {"one": {"type": "gpu", "gputype": "physical", "pci": SECOND}, "two": {"type": "none"}}


def test_device_that_names_none_beside_one_that_does_is_hidden() -> None:
    profile = Profile("p", devices={"all": WITHOUT_CARD})
    devices, _ = made(machine("a", profiles=("p",), devices={"mine": gpu(pci=SECOND)}), p=profile)
    assert devices == {"mine": {"type": "gpu", "gputype": "physical", "pci": SECOND}, "all": {"type": "none"}}


@pytest.mark.parametrize("device", [WITHOUT_CARD, gpu(), gpu(vendorid="10de"), gpu(id="0")])
def test_no_device_is_left_that_gives_more_than_one_card(device: dict[str, str]) -> None:
    profile = Profile("p", devices={"card": device})
    devices, _ = made(machine("a", profiles=("p",)), host(nvidia(0)), p=profile)
    assert [keys.get("pci") for keys in devices.values()] == [FIRST]


def test_mig_device() -> None:
    devices, config = made(machine("a", gpu_devices=(GpuSelector(mig="MIG-aa"),)), host(nvidia(0)))
    assert devices == {"gpu0": {"type": "gpu", "gputype": "mig", "pci": FIRST, "mig.uuid": "MIG-aa"}}
    assert config == RUNTIME


def test_amd_container_gets_kfd() -> None:
    devices, config = made(machine("a"), host(amd(0)))
    assert devices == {
        "gpu0": {"type": "gpu", "gputype": "physical", "pci": FIRST, **VIDEO},
        "kfd": {"type": "unix-char", "source": "/dev/kfd", "path": "/dev/kfd", **VIDEO},
    }
    assert config == {}
    own = {"rocm": {"type": "unix-char", "path": "/dev/kfd"}}
    assert set(made(machine("a", devices=own), host(amd(0)))[0]) == {"gpu0"}


def test_vm_gets_its_card_and_nothing_else() -> None:
    devices, config = made(machine("a", type="vm", pci=SECOND))
    assert devices == {"gpu0": {"type": "gpu", "gputype": "physical", "pci": SECOND}}
    assert config == {}


# Preflight


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host that has everything (its files are empty stand-ins)."""
    for name in (
        "usr/bin/nvidia-container-cli",
        "usr/share/lxc/hooks/nvidia",
        "dev/kfd",
        "sys/kernel/iommu_groups/0/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def obstacles(entry: Machine, root: Path | None, card: dict[str, Any] | None = None) -> tuple[Obstacle, ...]:
    file = infra(entry)
    decision = decide(file, host(card or nvidia(0)), [], place)
    return preflight(entry, file.domains["ai"], decision.grants[entry.name], root)


def test_nothing_is_in_the_way(root: Path) -> None:
    assert obstacles(machine("a"), root) == ()
    assert obstacles(machine("a", type="vm", pci=FIRST), root) == ()
    assert obstacles(machine("a"), root, amd(0)) == ()


@pytest.mark.parametrize(
    ("missing", "word"),
    [("usr/bin/nvidia-container-cli", "nvidia-container-cli"), ("usr/share/lxc/hooks/nvidia", "LXC hook")],
)
def test_missing_part_of_the_host(root: Path, missing: str, word: str) -> None:
    (root / missing).unlink()
    (found,) = obstacles(machine("a"), root)
    assert found.fatal
    assert word in found.cause
    assert "install" in found.remedy
    assert 'nvidia.runtime: "false"' in found.remedy
    assert obstacles(machine("a", config={"nvidia.runtime": "false"}), root) == ()


def test_tool_may_be_a_link_into_the_hosts_own_files(root: Path) -> None:
    tool = root / "usr/bin/nvidia-container-cli"
    tool.unlink()
    tool.symlink_to("/nix/store/somewhere/nvidia-container-cli")
    assert obstacles(machine("a"), root) == ()


def test_packages_of_incus_own_folder_count(root: Path) -> None:
    (root / "usr/share/lxc/hooks/nvidia").unlink()
    (root / "opt/incus/share/lxc/hooks").mkdir(parents=True)
    (root / "opt/incus/share/lxc/hooks/nvidia").touch()
    assert obstacles(machine("a"), root) == ()


def test_privileged_container(root: Path) -> None:
    (found,) = obstacles(machine("a", config={"security.privileged": "true"}), root)
    assert found.fatal
    assert "privileged" in found.cause


@pytest.mark.parametrize(
    ("version", "good"), [("535.54.03", True), ("534.9", False), ("470.256.02", False), ("", True)]
)
def test_age_of_the_driver(root: Path, version: str, good: bool) -> None:
    found = obstacles(machine("a"), root, nvidia(0, driver_version=version))
    assert (found == ()) == good
    assert all("535" in entry.cause for entry in found)


def test_other_driver_than_nvidias(root: Path) -> None:
    (found,) = obstacles(machine("a"), root, nvidia(0, driver="nouveau", nvidia=None))
    assert "nouveau does" in found.cause
    (found,) = obstacles(machine("a"), root, nvidia(0, driver="", nvidia=None))
    assert found.cause.endswith("(NVIDIA Corporation AD102 [GeForce RTX 4090])")


def test_remote_server_is_a_notice() -> None:
    (found,) = obstacles(machine("a"), None)
    assert not found.fatal
    assert "cannot be seen from here" in found.cause


def test_mig_needs_the_runtime(root: Path) -> None:
    entry = machine("a", gpu_devices=(GpuSelector(mig="MIG-aa"),), config={"nvidia.runtime": "false"})
    (found,) = obstacles(entry, root)
    assert "switched off" in found.cause


def test_vm_needs_an_iommu(root: Path) -> None:
    os.rename(root / "sys/kernel/iommu_groups/0", root / "elsewhere")
    (found,) = obstacles(machine("a", type="vm", pci=FIRST), root)
    assert "IOMMU" in found.cause


def test_amd_needs_kfd(root: Path) -> None:
    (root / "dev/kfd").unlink()
    (found,) = obstacles(machine("a"), root, amd(0))
    assert "/dev/kfd" in found.cause


def test_root_of_the_process_behind_a_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        root = daemon_root(path)
        assert root is not None
        assert root.parts[2] == str(os.getpid())
        assert (root / "usr").samefile("/usr")


@pytest.mark.parametrize("where", ["https://10.0.0.1:8443", "/nonexistent/unix.socket", ""])
def test_no_root_where_there_is_none_to_see(where: str) -> None:
    assert daemon_root(where) is None


# nvidia-smi

SMI = """\
pci.bus_id, uuid, name, memory.total [MiB], memory.used [MiB], driver_version
00000000:01:00.0, GPU-00000000-0000-0000-0000-000000000000, NVIDIA GeForce RTX 4090, 24564 MiB, 1018 MiB, 550.54.15
00000000:02:00.0, GPU-00000000-0000-0000-0000-000000000001, NVIDIA A100, [N/A], [Insufficient Permissions], 550.54.15
"""
LISTING = """\
GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-00000000-0000-0000-0000-000000000000)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-00000000-0000-0000-0000-000000000001)
  MIG 3g.40gb     Device  0: (UUID: MIG-7d6ce9b8-aaaa)
  MIG 1g.10gb     Device  1: (UUID: MIG-7d6ce9b8-bbbb)
"""


def test_figures_of_cards() -> None:
    first, second = nvidia_smi(SMI)
    uuid = "GPU-00000000-0000-0000-0000-000000000000"
    assert first == Figures(FIRST, uuid, "NVIDIA GeForce RTX 4090", 24564 << 20, 1018 << 20, "550.54.15")
    assert (second.pci, second.memory_total, second.memory_used) == (SECOND, None, None)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "a,b\n", 'Failed: "x\n', SMI.splitlines()[0]])
def test_no_figures(text: str) -> None:
    assert nvidia_smi(text) == ()


def test_mig_devices_and_their_cards() -> None:
    card = "GPU-00000000-0000-0000-0000-000000000001"
    assert parse_mig(LISTING) == {"MIG-7d6ce9b8-aaaa": card, "MIG-7d6ce9b8-bbbb": card}
    assert parse_mig("") == {}


def test_figures_of_another_hosts_card_do_not_count() -> None:
    assert set(matching(nvidia_smi(SMI), host(nvidia(0), nvidia(5, pci=SECOND)))) == {FIRST}


def test_tool_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"  # a stand-in
    tool.write_text(f"#!/bin/sh\nif [ $1 = -L ]; then cat <<'E'\n{LISTING}E\nelse cat <<'E'\n{SMI}E\nfi\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    figures, mig = ask()
    assert [entry.pci for entry in figures] == [FIRST, SECOND]
    assert len(mig) == 2
    tool.write_text("#!/bin/sh\necho broken\nexit 9\n")
    assert ask() == ((), {})


def test_missing_tool_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask() == ((), {})
