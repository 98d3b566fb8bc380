"""Devices and config for granted cards, the preflight, and what nvidia-smi says."""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from launcher.gpu.config import driver_way, gpu_config
from launcher.gpu.driver import Driver, LibraryFolder
from launcher.gpu.host_files import HostFiles, read_host_files
from launcher.gpu.nvidia_smi import Figures, ask, matching, nvidia_smi, parse_cuda, parse_mig
from launcher.gpu.policy import decide
from launcher.gpu.preflight import preflight
from launcher.gpu.vendors.vendor import VIDEO
from launcher.infra.model import GpuSelector, ImageChoice, Profile
from launcher.observe.daemon import daemon_root
from tests.unit.gpu_host import address, amd, gpu, host, infra, intel, machine, nvidia, place

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.images import Gpus
    from launcher.gpu.preflight import Obstacle
    from launcher.infra.model import Machine

FIRST, SECOND = address(0), address(1)
RUNTIME = {"nvidia.runtime": "true", "nvidia.driver.capabilities": "compute,utility"}
WITHOUT_CARD = gpu(gputype="physical")


def made(
    entry: Machine,
    cards: tuple[Card, ...] | None = None,
    files: HostFiles | None = None,
    gpus: Gpus = None,
    **profiles: Profile,
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    file = infra(entry, profiles=profiles)
    decision = decide(file, cards or host(nvidia(0), nvidia(1)), [], place)
    decision.check()
    return gpu_config(entry, file.domains[entry.domain], decision.grants.get(entry.name, ()), files, gpus)


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


# The driver of the host

CURRENT, SHARED = "/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib/x86_64-linux-gnu"
VERSION = "550.54.15"
DRIVER = Driver(
    VERSION,
    (VERSION,),
    (LibraryFolder(CURRENT), LibraryFolder(SHARED, shared=True)),
    smi="/usr/bin/nvidia-smi",
    uvm=True,
)
WITH_DRIVER = HostFiles(DRIVER)
WITHOUT = HostFiles(Driver(VERSION, uvm=True), container_tool=True, lxc_hook=True)


def folder(source: str, path: str) -> dict[str, str]:
    return {"type": "disk", "source": source, "path": path, "readonly": "true"}


def test_driver_comes_as_folders_of_the_host() -> None:
    devices, config = made(machine("a", pci=FIRST), files=WITH_DRIVER)
    assert devices == {
        "gpu0": {"type": "gpu", "gputype": "physical", "pci": FIRST},
        "host-driver": folder(CURRENT, "/usr/lib/host-driver/lib"),
        "host-driver-2": folder(SHARED, "/usr/lib/host-driver/lib-2"),
        "host-driver-smi": folder("/usr/bin/nvidia-smi", "/usr/lib/host-driver/bin/nvidia-smi"),
    }
    assert config == {}


@pytest.mark.parametrize(
    ("keys", "files", "way"),
    [
        ({}, WITH_DRIVER, "host"),
        ({}, WITHOUT, "runtime"),
        ({}, None, "runtime"),  # a remote
        ({"gpu_driver": "host"}, WITH_DRIVER, "host"),
        ({"gpu_driver": "runtime"}, WITH_DRIVER, "runtime"),
        ({"config": {"nvidia.runtime": "true"}}, WITH_DRIVER, "runtime"),
        ({"config": {"nvidia.runtime": "false"}}, WITH_DRIVER, "none"),
        ({"config": {"nvidia.runtime": "false"}, "gpu_driver": "host"}, WITH_DRIVER, "host"),
        ({"config": {"nvidia.runtime": "false"}, "gpu_driver": "runtime"}, WITH_DRIVER, "none"),
        ({"gpu_devices": (GpuSelector(mig="MIG-aa"),)}, WITH_DRIVER, "runtime"),
        ({"gpu_driver": "host"}, WITHOUT, "none"),
        ({"gpu_driver": "host"}, None, "none"),
        ({"type": "vm", "pci": FIRST}, WITH_DRIVER, "none"),
        ({"type": "vm", "pci": FIRST, "gpu_driver": "host"}, WITH_DRIVER, "none"),
    ],
)
def test_which_way_the_driver_takes(keys: dict[str, Any], files: HostFiles | None, way: str) -> None:
    devices, config = made(machine("a", **keys), host(nvidia(0)), files)
    written = {**keys.get("config", {}), **config}
    taken = "host" if "host-driver" in devices else "runtime" if written.get("nvidia.runtime") == "true" else "none"
    assert taken == way


def test_way_is_told_of_nvidias_cards_in_containers_only() -> None:
    for entry, card, way in (
        (machine("a"), nvidia(0), "host"),
        (machine("a", gpu_driver="runtime"), nvidia(0), "runtime"),
        (machine("a", type="vm", pci=FIRST), nvidia(0), None),
        (machine("a"), amd(0), None),
    ):
        file, cards = infra(entry), host(card)
        grants = decide(file, cards, [], place).grants["a"]
        assert driver_way(entry, file.domains["ai"], grants, WITH_DRIVER) == way


def test_a_card_of_another_member_of_a_cluster_is_not_of_this_host() -> None:
    elsewhere, here = (host(nvidia(0), member=name) for name in ("two", "one"))
    files = HostFiles(DRIVER, member="one")
    assert "host-driver" not in made(machine("a"), elsewhere, files)[0]
    assert "host-driver" in made(machine("a"), here, files)[0]


def test_own_device_of_such_a_name_stays() -> None:
    own = {"host-driver": {"type": "none"}}
    assert "host-driver" not in made(machine("a", devices=own, pci=FIRST), files=WITH_DRIVER)[0]


def others(**keys: Any) -> Machine:
    return dataclasses.replace(machine("a", **keys), image=ImageChoice(None, remote="images:debian/13"))


def test_image_of_others_has_the_variable_where_it_cannot_break_it() -> None:
    devices, config = made(others(pci=FIRST), files=WITH_DRIVER)
    assert devices["host-driver-smi"]["path"] == "/usr/local/bin/nvidia-smi"
    assert config == {"environment.LD_LIBRARY_PATH": "/usr/lib/host-driver/lib"}  # the other one has a libc
    only_shared = HostFiles(dataclasses.replace(DRIVER, folders=DRIVER.folders[1:]))
    assert made(others(pci=FIRST), files=only_shared)[1] == {}
    own = {"environment.LD_LIBRARY_PATH": "/opt/lib"}
    assert made(others(pci=FIRST, config=own), files=WITH_DRIVER)[1] == {}


def test_image_of_others_is_served_by_the_tool_where_the_host_has_it() -> None:
    both = dataclasses.replace(WITH_DRIVER, container_tool=True, lxc_hook=True)
    assert made(others(pci=FIRST), files=both)[1] == RUNTIME
    assert "host-driver" in made(others(pci=FIRST, gpu_driver="host"), files=both)[0]
    assert "host-driver" in made(machine("a", pci=FIRST), files=both)[0]


def test_image_of_others_has_a_note_in_the_plan() -> None:
    (found,) = told(others(pci=FIRST), WITH_DRIVER)
    assert (found.fatal, found.note) == (False, True)
    assert f"lib*.so.{VERSION}" in found.remedy
    assert told(machine("a", pci=FIRST), WITH_DRIVER) == ()


def told(entry: Machine, files: HostFiles | None, cards: tuple[Card, ...] | None = None) -> tuple[Obstacle, ...]:
    file = infra(entry)
    decision = decide(file, cards or host(nvidia(0)), [], place)
    return preflight(entry, file.domains["ai"], decision.grants[entry.name], files)


def test_no_tool_is_asked_for_where_the_folders_are_given() -> None:
    assert told(machine("a"), WITH_DRIVER) == ()
    asked = told(machine("a", gpu_driver="runtime"), WITH_DRIVER)
    assert [found.fatal for found in asked] == [True, True]
    assert all("gpu_driver be host" in found.remedy for found in asked)


def test_neither_libraries_nor_tool() -> None:
    found = told(machine("a"), HostFiles(Driver(VERSION, uvm=True)))
    assert [entry.fatal for entry in found] == [True, True]
    assert all("libcuda1" in entry.remedy for entry in found)


@pytest.mark.parametrize(
    ("files", "word"), [(None, "cannot be seen from here"), (WITHOUT, "no libraries of NVIDIA's driver")]
)
def test_the_hosts_driver_is_refused_where_it_cannot_be_given(files: HostFiles | None, word: str) -> None:
    (found,) = told(machine("a", gpu_driver="host"), files)
    assert found.fatal
    assert word in found.cause
    assert "runtime" in found.remedy


def test_mig_and_the_hosts_driver_do_not_go_together() -> None:
    (found,) = told(machine("a", gpu_driver="host", gpu_devices=(GpuSelector(mig="MIG-aa"),)), WITH_DRIVER)
    assert found.fatal
    assert "nvidia.runtime" in found.cause


@pytest.mark.parametrize(
    ("change", "code", "fatal"),
    [
        ({"module": "550.54.14"}, "driver-not-reloaded", True),
        ({"module": "560.35.03"}, "driver-mismatch", True),
        ({"uvm": False}, "uvm-missing", False),
        ({"module": ""}, None, None),  # not loaded: Incus knows no driver of the card then
    ],
)
def test_state_of_the_hosts_driver(change: dict[str, Any], code: str | None, fatal: bool | None) -> None:
    files = HostFiles(dataclasses.replace(DRIVER, **change), container_tool=True, lxc_hook=True)
    for way in ("host", "runtime"):
        found = told(machine("a", gpu_driver=way), files)
        assert [(entry.code, entry.fatal) for entry in found] == ([(code, fatal)] if code else [])
        assert all(entry.remedy for entry in found)


def test_folder_that_names_its_version_is_told() -> None:
    pinned = HostFiles(dataclasses.replace(DRIVER, pinned=("/nix/store/x-nvidia-550.54.15/lib",)))
    (found,) = told(machine("a"), pinned)
    assert (found.note, "launch again" in found.remedy) == (True, True)


def test_mig_device() -> None:
    devices, config = made(machine("a", gpu_devices=(GpuSelector(mig="MIG-aa"),)), host(nvidia(0)))
    assert devices == {"gpu0": {"type": "gpu", "gputype": "mig", "pci": FIRST, "mig.uuid": "MIG-aa"}}
    assert config == RUNTIME


# Other makers' cards, whose driver is in the kernel alone

ROCM, VULKAN = {"amd": ("hip",)}, {"amd": ("vulkan",), "intel": ("vulkan",)}
KFD = {"type": "unix-char", "source": "/dev/kfd", "path": "/dev/kfd", **VIDEO}


@pytest.mark.parametrize("card", [amd(0), intel(0)], ids=["amd", "intel"])
def test_a_cards_nodes_open_to_more_than_root(card: dict[str, Any]) -> None:
    """To the group that services of images are in, unless the file says otherwise."""
    expected = {"type": "gpu", "gputype": "physical", "pci": FIRST, "gid": "44", "mode": "0660"}
    assert made(machine("a"), host(card), gpus=VULKAN) == ({"gpu0": expected}, {})
    own = {"gpu0": gpu(gid="105", mode="0666")}
    (device,) = made(machine("a", devices=own), host(card), gpus=VULKAN)[0].values()
    assert (device["gid"], device["mode"]) == ("105", "0666")


@pytest.mark.parametrize(
    ("gpus", "files", "given"),
    [
        (ROCM, HostFiles(kfd=True), True),
        (ROCM, None, True),
        (ROCM, HostFiles(), True),  # which the preflight refuses
        (VULKAN, HostFiles(kfd=True), False),
        ({"nvidia": ("cuda",)}, HostFiles(kfd=True), False),
        (None, HostFiles(kfd=True), True),  # an image of others: it may be ROCm
        (None, HostFiles(), False),
        (None, None, True),
    ],
)
def test_rocms_node_is_for_images_that_compute_by_it(gpus: Gpus, files: HostFiles | None, given: bool) -> None:
    devices, config = made(machine("a"), host(amd(0)), files, gpus)
    assert devices.pop("gpu0") == {"type": "gpu", "gputype": "physical", "pci": FIRST, **VIDEO}
    assert (devices, config) == ({"kfd": KFD} if given else {}, {})
    own = {"rocm": {"type": "unix-char", "path": "/dev/kfd"}}
    assert set(made(machine("a", devices=own), host(amd(0)), files, gpus)[0]) == {"gpu0"}


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
        "dev/nvidia-uvm",
        "sys/kernel/iommu_groups/0/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def obstacles(
    entry: Machine, root: Path | None, card: dict[str, Any] | None = None, gpus: Gpus = None
) -> tuple[Obstacle, ...]:
    file = infra(entry)
    decision = decide(file, host(card or nvidia(0)), [], place)
    return preflight(entry, file.domains["ai"], decision.grants[entry.name], root and read_host_files(root), gpus)


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


def test_rocm_needs_kfd_and_nothing_else_does(root: Path) -> None:
    assert obstacles(machine("a"), root, amd(0), ROCM) == ()
    (root / "dev/kfd").unlink()
    (found,) = obstacles(machine("a"), root, amd(0), ROCM)
    assert (found.fatal, "/dev/kfd" in found.cause) == (True, True)
    for gpus in (VULKAN, None, {}, {"nvidia": ("vulkan",)}):
        assert obstacles(machine("a"), root, amd(0), gpus) == ()
    assert obstacles(machine("a"), root, intel(0), VULKAN) == ()
    assert obstacles(machine("a"), None, amd(0), ROCM) == ()


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


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("==============NVSMI LOG==============\n\nDriver Version   : 580.159.04\nCUDA Version     : 13.0\n", "13.0"),
        ("CUDA Version                              : Not Found\n", ""),
        ("", ""),
    ],
)
def test_version_of_cuda(text: str, version: str) -> None:
    assert parse_cuda(text) == version


def test_card_whose_uuid_nobody_told_is_known_by_its_address() -> None:
    untold = nvidia(0, nvidia={**nvidia(0)["nvidia"], "uuid": ""})
    assert set(matching(nvidia_smi(SMI), host(untold))) == {FIRST}


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
