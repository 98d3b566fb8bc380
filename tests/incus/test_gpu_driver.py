"""The host's driver in a container, on each version of Incus: stub libraries stand in for NVIDIA's.

The images are real, and so is what links the driver in them at their start.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import IncusError
from launcher.gpu.driver import Driver, LibraryFolder, borrowed_driver, read_driver
from launcher.observe.daemon import daemon_root
from launcher.private_incus import fake_gpu as fakegpu
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.init import HOME
from launcher.private_incus.stub_library import stub_library
from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.instances import start_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.incus.client import Result
    from tests.support.launching import Launcher

CARD = fakegpu.cards(2)[0].pci
BOX = f"""\
domains:
  lab:
    machines:
      box: {{image: debian, ephemeral: true, gpu: true, gpu_devices: [{{pci: "{CARD}"}}]}}
"""
NEWER, NEWEST = "560.35.03", "565.57.01"
ICD = "/etc/vulkan/icd.d/software.json"
DRIVER_FILE = """\
{"file_format_version": "1.0.1", "ICD": {"library_path": "libvulkan_lvp_gone.so", "api_version": "1.4.354"}}
"""
# llama.cpp passes over devices that are no cards, unless they are named.
SETTINGS = f"[Service]\nEnvironment=GGML_VK_VISIBLE_DEVICES=0 VK_DRIVER_FILES={ICD}\n"
# The CPU compiles the programs for such a card: those for the last layer alone in an eighth of the time.
ARGUMENTS = 'llama-server-mesa, vars: {llama_server_extra_args: [--no-warmup, --gpu-layers, "1"]}'
SECONDS = 60.0


@pytest.fixture
def root(incus: PrivateIncus) -> Iterator[Path]:
    """The root folder of the private Incus, whose driver is put back afterwards."""
    found = daemon_root(str(incus.socket))
    assert found is not None
    yield found
    fakegpu.install_driver(found)


def inside(launcher: Launcher, *command: str) -> Result:
    return launcher.execute("lab", "box", *command)


def restart(launcher: Launcher) -> None:
    """Without the launcher, as after a restart of the host."""
    with launcher.incus.client("lab") as client:
        client.stop("box", force=True)
        start_instance(client, "box")
    end = time.monotonic() + SECONDS
    while inside(launcher, "systemctl", "is-system-running").stdout != b"running\n":
        assert time.monotonic() < end, inside(launcher, "systemctl", "--failed").stdout.decode()
        time.sleep(0.1)


def push(launcher: Launcher, content: bytes, path: str) -> None:
    assert launcher.incus.home is not None
    (launcher.incus.home / "pushed").write_bytes(content)
    argv = ["incus", "file", "push", "--quiet", "--create-dirs", "--mode=0644", "--project", "lab"]
    launcher.incus.run([*argv, f"{HOME}/pushed", f"box{path}"], check=True, capture_output=True)


def linked(launcher: Launcher) -> str:
    """Where the linker finds libcuda."""
    told = inside(launcher, "sh", "-c", "readlink -f $(ldconfig -p | sed -n 's/.*libcuda.so.1 .*=> //p')")
    return told.stdout.decode().strip()


def findings(launcher: Launcher, code: int = 0) -> dict[str, dict[str, Any]]:
    return {entry["code"]: entry for entry in launcher.json("doctor", code=code)["findings"]}


@pytest.mark.both_versions
def test_driver_is_linked_and_followed_without_the_launcher(launcher: Launcher, root: Path) -> None:
    launcher.write(BOX)
    launcher("apply")
    launcher.settled()
    assert inside(launcher, "nvidia-smi").stdout.startswith(
        f"stand-in for nvidia-smi, driver {fakegpu.DRIVER}".encode()
    )
    assert linked(launcher) == f"/usr/lib/host-driver/lib/libcuda.so.{fakegpu.DRIVER}"
    icd = inside(launcher, "cat", "/etc/vulkan/icd.d/nvidia_icd.json").stdout
    assert b'"library_path": "libEGL_nvidia.so.0"' in icd
    assert inside(launcher, "touch", "/usr/lib/host-driver/lib/new").code != 0
    assert f"driver {fakegpu.DRIVER}".encode() in inside(launcher, "journalctl", "-t", "gpu-driver").stdout
    assert "nvidia-smi-not-found" not in findings(launcher)

    fakegpu.install_driver(root, NEWER)
    restart(launcher)
    assert linked(launcher) == f"/usr/lib/host-driver/lib/libcuda.so.{NEWER}"
    assert f"driver {NEWER}".encode() in inside(launcher, "nvidia-smi").stdout
    files = inside(launcher, "ls", "/usr/local/lib/gpu-driver").stdout.decode().split()
    assert not [name for name in files if fakegpu.DRIVER in name]
    launcher.settled()

    # Updated once more, and the module not loaded since.
    fakegpu.install_driver(root, NEWEST, module=NEWER)
    restart(launcher)
    failed = inside(launcher, "nvidia-smi")
    assert (failed.code, b"version mismatch" in failed.stderr) == (18, True)
    found = findings(launcher, code=1)
    assert {"driver-not-reloaded", "nvidia-smi-fails"} <= set(found)
    assert "driver-not-reloaded" in found["nvidia-smi-fails"]["remedy"]
    refused = launcher("plan", code=4).stderr
    assert NEWEST in refused
    assert "restart the host" in refused

    # Gone: Incus names the path, and the next apply goes the other way, in a step that the plan shows.
    fakegpu.remove_driver(root)
    with pytest.raises(IncusError, match=rf"nvidia-smi|{fakegpu.LIBRARIES}") as caught:
        restart(launcher)
    assert "next apply" in str(caught.value.hint)
    changes = str(launcher.json("plan", code=3))
    assert "nvidia.runtime" in changes
    assert "host-driver" in changes


def list_on_the_host(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the host's nvidia-smi, which lists the servers that run on it as if they held a card's memory."""
    found = [file.parent.name for file in Path("/proc").glob("[0-9]*/cmdline") if serves(file)]
    assert found
    listed = "".join(f"echo {pid}, 334 MiB\n" for pid in found)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncase $1 in --query-compute-apps=*) ;; *) exit 2 ;; esac\n{listed}", "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def serves(command_line: Path) -> bool:
    try:
        return command_line.read_bytes().startswith(b"/usr/bin/llama-server\0")
    except OSError:  # it has ended
        return False


def test_a_wrong_vulkan_driver_is_found_and_with_the_right_one_verify_is_green(
    launcher: Launcher, built: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads it is Vulkan's own loader; with the right one, Mesa's software driver is a card to the server."""
    built("llama-server-mesa")
    launcher.write(BOX.replace("debian", ARGUMENTS))
    launcher("apply", "--no-wait")
    push(launcher, tiny_gguf(), "/var/lib/models/tiny.gguf")
    push(launcher, DRIVER_FILE.encode(), ICD)
    push(launcher, SETTINGS.encode(), "/etc/systemd/system/llama-server.service.d/software.conf")
    restart(launcher)
    launcher("apply")  # it waits until the server answers

    checks = {check["name"]: check for check in launcher.json("verify", code=1)["checks"]}
    assert {name for name, check in checks.items() if check["outcome"] == "failed"} == {"gpu-compute"}
    found = findings(launcher, code=1)["vulkan-driver-missing"]
    assert f"{ICD}: libvulkan_lvp_gone.so, which is not there" in found["evidence"]
    assert "VK_DRIVER_FILES" in found["remedy"]

    inside(launcher, "sed", "-i", "s/_gone//", ICD)
    inside(launcher, "systemctl", "restart", "llama-server")
    end = time.monotonic() + SECONDS
    while b"- Vulkan0 : llvmpipe" not in inside(launcher, "journalctl", "-u", "llama-server", "-o", "cat").stdout:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert "vulkan-driver-missing" not in findings(launcher)

    while inside(launcher, "/usr/lib/anklume/healthcheck").code:
        assert time.monotonic() < end
        time.sleep(0.2)
    list_on_the_host(tmp_path, monkeypatch)
    checks = {check["name"]: check for check in launcher.json("verify", "--prompt", "a")["checks"]}
    assert {check["outcome"] for check in checks.values()} == {"ok"}
    said = checks["gpu-compute"]["evidence"]
    assert said.startswith("partly")
    assert re.search(r": tiny\.gguf: 1 of 3 layers on a card \(Vulkan0 [\d.]+ \w+\); nvidia-smi: ", said)
    assert said.endswith("llama-server has 334.0 MiB")


def test_a_private_incus_borrows_the_drivers_of_its_host(
    incus_tree: Callable[[str], Path], home: Path, tmp_path: Path
) -> None:
    """What a host has: a folder of its own for libcuda, one with a libc for the rest, and a program behind a link."""
    own, shared = tmp_path / "current", tmp_path / "multiarch"
    for folder, name in ((own, "libcuda.so"), (shared, "libnvidia-eglcore.so")):
        folder.mkdir()
        (folder / f"{name}.{NEWER}").write_bytes(stub_library(f"{name}.1"))
    (shared / "libc.so.6").touch()
    (tmp_path / "smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").symlink_to("smi")
    folders = LibraryFolder(str(own)), LibraryFolder(str(shared), shared=True)
    borrowed = borrowed_driver(Driver(libraries=(NEWER,), folders=folders, smi=str(tmp_path / "nvidia-smi")))
    with PrivateIncus(tree=incus_tree("incus-7"), home=home, borrowed=borrowed) as incus:
        seen = read_driver(Path(f"/proc/{incus.pid}/root"))
        assert (seen.libraries, seen.smi) == ((NEWER,), "/usr/local/nvidia/bin/nvidia-smi")
        assert [folder.shared for folder in seen.folders] == [False, True]
        assert [folder.path for folder in seen.folders] == ["/usr/local/nvidia/lib64", "/run/opengl-driver/lib"]
        touched = incus.run(["touch", "/usr/local/nvidia/lib64/new"], capture_output=True)
        assert b"Read-only file system" in touched.stderr
