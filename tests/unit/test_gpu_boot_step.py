"""The boot step that links the host's driver, upon trees of stub libraries; ldconfig is a stand-in that notes its call.

That the real ldconfig makes the links of sonames is seen in real machines (tests/incus/test_gpu_driver.py).
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from launcher.gpu.vendors.nvidia_driver import NO_VULKAN

SCRIPT = Path(__file__).resolve().parents[2] / "image_specs/_partials/_gpu-driver.sh"
OLD, NEW = "535.183.01", "550.54.15"
HOST, OWN = "usr/lib/host-driver", "usr/local/lib/gpu-driver"
SMI, ICD = "usr/local/bin/nvidia-smi", "etc/vulkan/icd.d/nvidia_icd.json"
NVRM = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\nGCC version:  gcc version 12.2.0\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ldconfig").write_text('#!/bin/sh\nprintf x >> "$2/ldconfig-calls"\n')
    (tools / "ldconfig").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def give(root: Path, version: str, *names: str, folder: str = "lib") -> None:
    """A host's folder with these libraries, and the links that it has of them."""
    for name in names or ("libcuda.so", "libnvidia-ml.so", "libEGL_nvidia.so"):
        write(root, f"{HOST}/{folder}/{name}.{version}")
        link = root / f"{HOST}/{folder}/{name}.1"
        link.unlink(missing_ok=True)
        link.symlink_to(f"{name}.{version}")


def run(root: Path) -> str:
    done = subprocess.run(["sh", SCRIPT, root], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def links(root: Path) -> dict[str, str]:
    folder = root / OWN
    found = folder.iterdir() if folder.is_dir() else ()
    return {file.name: os.readlink(file) for file in found if file.is_symlink()}


def test_libraries_of_the_version_are_linked_from_every_folder(root: Path) -> None:
    give(root, NEW)
    give(root, NEW, "libnvidia-eglcore.so", folder="lib-2")
    write(root, f"{HOST}/lib-2/libc.so.6")
    write(root, f"{HOST}/bin/nvidia-smi")
    said = run(root)
    assert links(root) == {
        f"libcuda.so.{NEW}": f"/{HOST}/lib/libcuda.so.{NEW}",
        f"libnvidia-ml.so.{NEW}": f"/{HOST}/lib/libnvidia-ml.so.{NEW}",
        f"libEGL_nvidia.so.{NEW}": f"/{HOST}/lib/libEGL_nvidia.so.{NEW}",
        f"libnvidia-eglcore.so.{NEW}": f"/{HOST}/lib-2/libnvidia-eglcore.so.{NEW}",
    }
    assert (os.readlink(root / SMI), os.readlink(root / ICD)) == (f"/{HOST}/bin/nvidia-smi", f"/{OWN}/nvidia_icd.json")
    assert '"library_path": "libEGL_nvidia.so.0"' in (root / OWN / "nvidia_icd.json").read_text()
    assert said.startswith(f"driver {NEW}")
    assert "4 libraries" in said


def test_once_more_changes_nothing(root: Path) -> None:
    give(root, NEW)
    write(root, f"{HOST}/bin/nvidia-smi")
    run(root)
    before = links(root)
    run(root)
    assert links(root) == before
    assert (root / SMI).is_symlink()
    assert (root / "ldconfig-calls").read_text() == "xx"


@pytest.mark.parametrize(
    ("module", "linked", "word"),
    [(OLD, OLD, "the module that runs"), (NEW, NEW, "the module that runs"), ("", NEW, "newest")],
)
def test_of_two_versions_the_running_modules_is_linked(root: Path, module: str, linked: str, word: str) -> None:
    give(root, OLD)
    give(root, NEW)
    if module:
        write(root, "proc/driver/nvidia/version", NVRM.format(module))
    said = run(root)
    assert {name.partition(".so.")[2] for name in links(root)} == {linked}
    assert word in said
    assert "<4>" not in said


def test_version_that_does_not_run_is_a_warning(root: Path) -> None:
    give(root, NEW)
    write(root, "proc/driver/nvidia/version", NVRM.format("560.35.03"))
    said = run(root)
    assert said.startswith("<4>")
    assert "560.35.03" in said
    assert f"libcuda.so.{NEW}" in links(root)  # so that nvidia-smi says what is wrong


def test_update_of_the_host_is_followed(root: Path) -> None:
    give(root, OLD)
    run(root)
    for file in (root / HOST / "lib").iterdir():
        file.unlink()
    give(root, NEW, "libcuda.so", "libnvidia-ml.so")
    said = run(root)
    assert set(links(root)) == {f"libcuda.so.{NEW}", f"libnvidia-ml.so.{NEW}"}
    assert not os.path.lexists(root / ICD)  # without its library
    assert NO_VULKAN in said


def test_machine_that_is_given_no_driver_any_more(root: Path) -> None:
    give(root, NEW)
    write(root, f"{HOST}/bin/nvidia-smi")
    run(root)
    for file in (*(root / HOST / "lib").iterdir(), root / HOST / "bin/nvidia-smi"):
        file.unlink()
    assert run(root) == "no driver is given\n"
    assert not any(os.path.lexists(root / path) for path in (OWN, SMI, ICD))


@pytest.mark.parametrize("name", ["libcuda.so.1", "libcuda.so", "libcuda.so.old", "libcudart.so.12.0"])
def test_folder_without_a_driver_is_a_warning(root: Path, name: str) -> None:
    write(root, f"{HOST}/lib/{name}")
    assert run(root).startswith("<4>no driver linked")
    assert links(root) == {}


def test_links_of_the_host_are_not_linked(root: Path) -> None:
    (root / HOST / "lib").mkdir(parents=True)
    (root / HOST / f"lib/libcuda.so.{NEW}").symlink_to("/etc/hostname")
    assert run(root).startswith("<4>no driver linked")


def test_what_is_not_ours_stays(root: Path) -> None:
    give(root, NEW)
    write(root, f"{HOST}/bin/nvidia-smi")
    for path in (SMI, ICD):
        write(root, path, "somebody else's")
    said = run(root)
    assert [(root / path).read_text() for path in (SMI, ICD)] == ["somebody else's"] * 2
    assert said.count("left as it is") == 2
