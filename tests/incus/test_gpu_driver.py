"""The host's driver in a container, on each version of Incus: stub libraries stand in for NVIDIA's.

The images are real, and so is what links the driver in them at their start.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.errors import IncusError
from launcher.observe.daemon import daemon_root
from launcher.private_incus import fake_gpu as fakegpu
from tests.support.instances import start_instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.incus.client import Result
    from launcher.private_incus.daemon import PrivateIncus
    from tests.support.launching import Launcher

CARD = fakegpu.cards(2)[0].pci
HEAD = "project_name: {name}\nglobal:\n  addressing: {{base_octet: 10, zone_base: {zone}}}\n"
BOX = (
    """\
domains:
  lab:
    machines:
      box: {image: IMAGE, ephemeral: true, gpu: true, gpu_devices: [{pci: "%s"}]MORE}
"""
    % CARD
)
NEWER = "560.35.03"
SECONDS = 60.0


def box(image: str = "debian", more: str = "") -> str:
    return BOX.replace("IMAGE", image).replace("MORE", more)


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


def linked(launcher: Launcher) -> str:
    """Where the linker finds libcuda."""
    told = inside(launcher, "sh", "-c", "readlink -f $(ldconfig -p | sed -n 's/.*libcuda.so.1 .*=> //p')")
    return told.stdout.decode().strip()


def findings(launcher: Launcher) -> dict[str, dict[str, Any]]:
    words = launcher.argv("doctor", "--json")
    del words
    with contextlib.suppress(AssertionError):
        return {entry["code"]: entry for entry in launcher.json("doctor")["findings"]}
    return {entry["code"]: entry for entry in launcher.json("doctor", code=1)["findings"]}


def test_driver_is_linked_and_an_update_followed_without_the_launcher(launcher: Launcher, root: Path) -> None:
    launcher.write(box())
    launcher("apply")
    devices = launcher.json("plan")  # nothing to do
    assert devices["steps"] == []
    launcher.settled()
    assert inside(launcher, "nvidia-smi").stdout.startswith(
        f"stand-in for nvidia-smi, driver {fakegpu.DRIVER}".encode()
    )
    assert linked(launcher) == f"/usr/lib/host-driver/lib/libcuda.so.{fakegpu.DRIVER}"
    icd = inside(launcher, "cat", "/etc/vulkan/icd.d/nvidia_icd.json").stdout
    assert b'"library_path": "libEGL_nvidia.so.0"' in icd
    assert inside(launcher, "touch", "/usr/lib/host-driver/lib/new").code != 0
    said = inside(launcher, "journalctl", "-t", "gpu-driver", "-o", "cat").stdout.decode()
    assert f"driver {fakegpu.DRIVER}" in said
    assert "nvidia-smi-not-found" not in findings(launcher)

    fakegpu.install_driver(root, NEWER)
    restart(launcher)
    assert linked(launcher) == f"/usr/lib/host-driver/lib/libcuda.so.{NEWER}"
    assert f"driver {NEWER}".encode() in inside(launcher, "nvidia-smi").stdout
    files = inside(launcher, "ls", "/usr/local/lib/gpu-driver").stdout.decode().split()
    assert not [name for name in files if fakegpu.DRIVER in name]
    launcher.settled()


def test_driver_updated_and_not_loaded(launcher: Launcher, root: Path) -> None:
    launcher.write(box())
    launcher("apply")
    fakegpu.install_driver(root, NEWER, module=fakegpu.DRIVER)
    restart(launcher)
    failed = inside(launcher, "nvidia-smi")
    assert (failed.code, b"version mismatch" in failed.stderr) == (18, True)
    found = findings(launcher)
    assert {"driver-not-reloaded", "nvidia-smi-fails"} <= set(found)
    assert "driver-not-reloaded" in found["nvidia-smi-fails"]["remedy"]
    refused = launcher("plan", code=4).stderr
    assert NEWER in refused
    assert "restart the host" in refused


def test_driver_that_is_gone_is_told_at_the_start(launcher: Launcher, root: Path) -> None:
    launcher.write(box())
    launcher("apply")
    fakegpu.remove_driver(root)
    with pytest.raises(IncusError, match="nvidia-smi"):
        restart(launcher)
    # It goes the other way by itself, in a step that the plan shows.
    changes = str(launcher.json("plan", code=3))
    assert "nvidia.runtime" in changes
    assert "host-driver" in changes
