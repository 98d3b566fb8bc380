"""Reading a host's driver: trees of stub libraries, laid out as distributions and installers do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from launcher.gpu.cards import cards_of
from launcher.gpu.driver import CardInformation, Driver, LibraryFolder, read_driver, read_information
from launcher.gpu.host import completed
from launcher.gpu.memory import read_memory
from launcher.observe.rooted import followed
from launcher.private_incus.stub_library import stub_library
from tests.unit.gpu_host import address, amd, host, nvidia

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = "535.183.01", "550.54.15"
TRIPLET = "/usr/lib/x86_64-linux-gnu"
CURRENT = f"{TRIPLET}/nvidia/current"
NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  12.2.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (root@host)\nGCC version:  13.3.0\n"


def write(root: Path, path: str, content: str | bytes = "") -> None:
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def link(root: Path, path: str, target: str) -> None:
    (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
    (root / path.lstrip("/")).symlink_to(target)


def libraries(root: Path, folder: str, version: str, *names: str, machine: str = "x86_64") -> None:
    """Stubs of a driver's libraries, with the links that ldconfig makes."""
    for name in names or ("libcuda.so", "libnvidia-ml.so", "libEGL_nvidia.so"):
        end = "0" if "EGL" in name else "1"
        write(root, f"{folder}/{name}.{version}", stub_library(f"{name}.{end}", machine))
        if not os.path.lexists(root / folder.lstrip("/") / f"{name}.{end}"):
            link(root, f"{folder}/{name}.{end}", f"{name}.{version}")


def cache(root: Path, *paths: str) -> None:
    """The dynamic linker's cache: its header, entries of no matter, and the strings."""
    strings = b"\0".join(path.encode() for path in paths) + b"\0"
    write(root, "/etc/ld.so.cache", b"glibc-ld.so.cache1.1" + bytes(28 + 24 * len(paths)) + strings)


def debian(root: Path) -> None:
    libraries(root, CURRENT, NEW, "libcuda.so", "libnvidia-ml.so", "libEGL_nvidia.so")
    write(root, f"{TRIPLET}/libnvidia-eglcore.so.{NEW}", stub_library(f"libnvidia-eglcore.so.{NEW}", "x86_64"))
    write(root, f"{TRIPLET}/libc.so.6", stub_library("libc.so.6", "x86_64"))
    link(root, f"{TRIPLET}/libcuda.so.1", "/etc/alternatives/glx--libcuda.so.1")
    link(root, "/etc/alternatives/glx--libcuda.so.1", f"{CURRENT}/libcuda.so.1")
    link(root, "/usr/bin/nvidia-smi", "/etc/alternatives/nvidia--nvidia-smi")
    link(root, "/etc/alternatives/nvidia--nvidia-smi", "/usr/lib/nvidia/current/nvidia-smi")
    write(root, "/usr/lib/nvidia/current/nvidia-smi", "#!/bin/sh\n")


def ubuntu(root: Path) -> None:
    libraries(root, TRIPLET, NEW)
    write(root, f"{TRIPLET}/libc.so.6", stub_library("libc.so.6", "x86_64"))
    link(root, "/lib", "usr/lib")
    cache(root, "/lib/x86_64-linux-gnu/libcuda.so.1")


def appliance(root: Path) -> None:
    libraries(root, "/usr/local/nvidia/lib64", NEW)
    write(root, "/usr/local/nvidia/bin/nvidia-smi", "#!/bin/sh\n")


def installer(root: Path) -> None:
    libraries(root, "/usr/lib64", NEW)
    libraries(root, "/usr/lib", NEW, machine="i686")


def odd_place(root: Path) -> None:
    libraries(root, "/opt/vendor/gl", NEW)
    cache(root, "/opt/vendor/gl/libcuda.so.1")


@pytest.mark.parametrize(
    ("layout", "folders", "smi"),
    [
        (debian, (LibraryFolder(CURRENT), LibraryFolder(TRIPLET, shared=True)), "/usr/bin/nvidia-smi"),
        (ubuntu, (LibraryFolder(TRIPLET, shared=True),), ""),
        (appliance, (LibraryFolder("/usr/local/nvidia/lib64"),), "/usr/local/nvidia/bin/nvidia-smi"),
        (installer, (LibraryFolder("/usr/lib64"),), ""),
        (odd_place, (LibraryFolder("/opt/vendor/gl"),), ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_where_libraries_are_found(
    tmp_path: Path, layout: Callable[[Path], None], folders: tuple[LibraryFolder, ...], smi: str
) -> None:
    layout(tmp_path)
    found = read_driver(tmp_path, "x86_64")
    assert (found.libraries, found.folders, found.smi, found.pinned) == ((NEW,), folders, smi, ())


def test_host_without_a_driver(tmp_path: Path) -> None:
    assert read_driver(tmp_path, "x86_64") == Driver()
    libraries(tmp_path, TRIPLET, "6.0", "libc.so")
    assert read_driver(tmp_path, "x86_64") == Driver()


def test_folder_of_32_bit_libraries_first_in_the_cache(tmp_path: Path) -> None:
    libraries(tmp_path, "/usr/lib/i386-linux-gnu", NEW, machine="i686")
    libraries(tmp_path, "/opt/gl", NEW)
    cache(tmp_path, "/usr/lib/i386-linux-gnu/libcuda.so.1", "/opt/gl/libcuda.so.1")
    found = read_driver(tmp_path, "x86_64")
    assert found.folders == (LibraryFolder("/opt/gl"),)
    assert f"/usr/lib/i386-linux-gnu/libcuda.so.{NEW}" in "".join(found.passed_over)
    assert read_driver(tmp_path, "aarch64").folders == ()


def test_architecture_of_the_libraries(tmp_path: Path) -> None:
    libraries(tmp_path, "/usr/lib/aarch64-linux-gnu", NEW, machine="aarch64")
    assert read_driver(tmp_path, "aarch64").folders == (LibraryFolder("/usr/lib/aarch64-linux-gnu"),)
    assert read_driver(tmp_path, "x86_64").folders == ()


@pytest.mark.parametrize(("module", "counts"), [(OLD, OLD), (NEW, NEW), ("", NEW), ("560.35.03", NEW)])
def test_of_two_versions_the_running_modules_counts(tmp_path: Path, module: str, counts: str) -> None:
    libraries(tmp_path, "/usr/local/nvidia/lib64", OLD)
    libraries(tmp_path, CURRENT, NEW)
    if module:
        write(tmp_path, "/proc/driver/nvidia/version", NVRM.format(module))
    found = read_driver(tmp_path, "x86_64")
    assert (found.module, found.libraries, found.version) == (module, (NEW, OLD), counts)
    assert found.folders == (LibraryFolder(CURRENT if counts == NEW else "/usr/local/nvidia/lib64"),)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/driver/nvidia/version", NVRM),
        ("/proc/driver/nvidia/version", OPEN),
        ("/sys/module/nvidia/version", "{}\n"),
    ],
)
def test_version_of_the_module(tmp_path: Path, path: str, text: str) -> None:
    write(tmp_path, path, text.format("580.159.04"))
    assert read_driver(tmp_path, "x86_64").module == "580.159.04"


def test_links_that_lead_out_of_the_folder_are_followed_and_told_where_they_end(tmp_path: Path) -> None:
    """As on NixOS: a folder of links, each to a file whose folder names the version."""
    store = f"/nix/store/0x1-nvidia-x11-{NEW}/lib"
    libraries(tmp_path, store, NEW)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        link(tmp_path, f"/nix/store/9z-graphics/lib/{name}", f"{store}/{name}")
    link(tmp_path, "/run/opengl-driver", "/nix/store/9z-graphics")
    found = read_driver(tmp_path, "x86_64")
    assert found.folders == (LibraryFolder(store),)
    assert found.pinned == (store,)


def test_path_that_lasts_is_preferred_to_one_with_the_version(tmp_path: Path) -> None:
    libraries(tmp_path, f"/opt/nvidia/{NEW}/lib64", NEW)
    link(tmp_path, "/usr/local/nvidia", f"/opt/nvidia/{NEW}")
    cache(tmp_path, f"/opt/nvidia/{NEW}/lib64/libcuda.so.1")
    found = read_driver(tmp_path, "x86_64")
    assert (found.folders, found.pinned) == ((LibraryFolder("/usr/local/nvidia/lib64"),), ())


def test_link_to_nothing_is_told(tmp_path: Path) -> None:
    link(tmp_path, f"{TRIPLET}/libcuda.so.1", "/gone/libcuda.so.1")
    found = read_driver(tmp_path, "x86_64")
    assert (found.folders, found.passed_over) == ((), (f"{TRIPLET}/libcuda.so.1 is a link to nothing",))


def test_libraries_without_libcuda_are_no_driver(tmp_path: Path) -> None:
    libraries(tmp_path, TRIPLET, NEW, "libnvidia-ml.so")
    assert read_driver(tmp_path, "x86_64").folders == ()


@pytest.mark.parametrize("broken", [b"", b"\x7fELF", b"not a library", stub_library("libcuda.so.1", "x86_64")[:19]])
def test_file_that_is_no_library_is_none(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path, f"{TRIPLET}/libcuda.so.{NEW}", broken)
    write(tmp_path, "/etc/ld.so.cache", broken)
    assert read_driver(tmp_path, "x86_64").libraries == ()


def test_node_of_uvm(tmp_path: Path) -> None:
    assert not read_driver(tmp_path, "x86_64").uvm
    write(tmp_path, "/dev/nvidia-uvm")
    assert read_driver(tmp_path, "x86_64").uvm


# Links below another root


def test_paths_are_followed_within_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "/etc/real")
    link(root, "/a/absolute", "/etc/real")
    link(root, "/a/above", "../../../../etc/real")
    link(root, "/a/chain", "absolute")
    link(root, "/folder", "/a")
    link(root, "/a/loop", "loop")
    write(tmp_path, "/etc/outside")
    link(root, "/a/outside", f"{tmp_path}/etc/outside")
    for path in ("/a/absolute", "/a/above", "/folder/chain", "etc/./real", "/a/../../etc/real"):
        assert followed(root, path) == "/etc/real", path
    for path in ("/a/loop", "/a/outside", "/none", "/etc/real/below"):
        assert followed(root, path) is None, path
    assert followed(root, "/") == "/"


# What the module and sysfs say of cards


INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 51
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.74.00.0d
Bus Location: \t 0000:01:00.0
Device Minor: \t 3
"""


@pytest.mark.parametrize(("uuid", "known"), [("GPU-abc", "GPU-abc"), ("GPU-????????-????-????-????-????????????", "")])
def test_cards_by_the_module(tmp_path: Path, uuid: str, known: str) -> None:
    write(tmp_path, "/proc/driver/nvidia/gpus/0000:01:00.0/information", INFORMATION.format(uuid=uuid))
    told = read_information(tmp_path)
    assert told == {address(0): CardInformation(address(0), known, "NVIDIA H100 80GB HBM3", "nvidia3")}
    without_tools = nvidia(0)
    without_tools["nvidia"] = {"nvrm_version": NEW, "card_name": "", "card_device": ""}
    (card,) = completed(host(without_tools), told)
    assert card.nvidia is not None
    assert (card.nvidia.uuid, card.model, card.nvidia.node) == (known, "NVIDIA H100 80GB HBM3", "nvidia3")


def test_what_incus_said_and_other_hosts_cards_stay(tmp_path: Path) -> None:
    write(tmp_path, "/proc/driver/nvidia/gpus/0000:01:00.0/information", INFORMATION.format(uuid="GPU-other"))
    told = read_information(tmp_path)
    assert completed(host(nvidia(0)), told) == host(nvidia(0))
    assert completed(host(nvidia(0, nvidia=None)), {}) == host(nvidia(0, nvidia=None))
    elsewhere = cards_of({"gpu": {"cards": [nvidia(0, nvidia=None)]}}, "two")
    assert completed(elsewhere, told, "one") == elsewhere
    assert completed(elsewhere, told, "two") != elsewhere


SYSFS = "/sys/bus/pci/devices/0000:01:00.0"


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({"mem_info_vram_total": "17163091968\n", "mem_info_vram_used": "1048576\n"}, (17163091968, 1048576)),
        ({"tile0/physical_vram_size_bytes": "8\n", "tile1/physical_vram_size_bytes": "8\n"}, (16, None)),
        ({"drm/card0/lmem_total_bytes": "12884901888\n"}, (12884901888, None)),
        ({"mem_info_vram_total": "0\n"}, (None, None)),
        ({"mem_info_vram_total": "many\n"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_memory_by_sysfs(tmp_path: Path, files: dict[str, str], memory: tuple[int | None, int | None]) -> None:
    for name, text in files.items():
        write(tmp_path, f"{SYSFS}/{name}", text)
    (card,) = host(amd(0))
    assert read_memory(tmp_path, card) == memory
