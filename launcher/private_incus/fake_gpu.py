"""Simulated NVIDIA cards for a private Incus, so that GPU policy can be tried on a machine without any.

What Incus reads (/sys/class/drm, /sys/bus/pci/devices, /proc/driver/nvidia, nodes in /dev, `nvidia-container-cli`) is
covered in the private mount namespace only. Every node is the null device, so nothing can be computed. The
container's own /dev/nvidia<N> is made by Incus with NVIDIA's real numbers (195:N).
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images import linux

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CUDA", "DRIVER", "MAXIMUM", "MODEL", "FakeCard", "cards", "install"]

MAXIMUM = 8
MODEL = "NVIDIA GeForce RTX 4090"
DRIVER = "550.54.15"
CUDA = "12.4"
_VENDOR, _PRODUCT, _CLASS = "10de", "2684", "030000"
_MEMORY = 24564  # MiB, as the real one has
_STUFF = "run/fakegpu"  # inside the new root
_NULL = os.makedev(1, 3)
_NULL_TEXT = "1:3\n"
_SHARED_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")
_DEV_MOUNTS = ("pts", "shm", "mqueue", "hugepages")


@dataclass(frozen=True)
class FakeCard:
    """One simulated card; `pci` is what a gpu device selects it by."""

    index: int

    @property
    def pci(self) -> str:
        """Its PCI address."""
        return f"0000:{self.index + 1:02x}:00.0"

    @property
    def uuid(self) -> str:
        """NVIDIA's name for it."""
        return f"GPU-00000000-0000-0000-0000-{self.index:012d}"

    @property
    def drm(self) -> tuple[str, str]:
        """Its nodes below /dev/dri: card and render node."""
        return f"card{self.index}", f"renderD{128 + self.index}"


def cards(count: int) -> list[FakeCard]:
    """The simulated cards, in the order in which Incus lists them."""
    return [FakeCard(index) for index in range(count)]


def install(root: Path, count: int) -> None:
    """Cover the new root's /sys, /proc and /dev, already mounted, with `count` simulated cards."""
    stuff = root / _STUFF
    for name in ("class", "pci", "proc/nvidia/gpus", "driver/nvidia/module", "dev-upper", "dev-work", "dev-kept"):
        (stuff / name).mkdir(parents=True)
    _keep_unmasked(stuff)
    _copy_classes(root / "sys/class", stuff / "class")
    shutil.copytree(root / "sys/bus/pci/devices", stuff / "pci", symlinks=True, dirs_exist_ok=True)
    (stuff / "driver/nvidia/module/version").write_text(f"{DRIVER}\n", encoding="utf-8")
    (stuff / "proc/nvidia/version").write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {DRIVER}\n", "utf-8")
    for card in cards(count):
        _describe(card, stuff)
    linux.mount(stuff / "class", root / "sys/class", flags=linux.BIND | linux.REC)
    linux.mount(stuff / "pci", root / "sys/bus/pci/devices", flags=linux.BIND)
    linux.mount(stuff / "proc", root / "proc/driver", flags=linux.BIND)
    _cover_dev(root / "dev", stuff, count)
    _write_stand_in(root / "usr/bin/nvidia-container-cli", count)


def _keep_unmasked(stuff: Path) -> None:
    # The kernel lets a container mount proc and sysfs only while a mount of each without anything over it is visible
    # (mount_too_revealing in fs/namespace.c).
    for name, fstype in (("proc", "proc"), ("sys", "sysfs")):
        place = stuff / "unmasked" / name
        place.mkdir(parents=True)
        linux.mount(fstype, place, fstype)


def _copy_classes(real: Path, copy: Path) -> None:
    for entry in real.iterdir():
        (copy / entry.name).mkdir()
        if entry.name != "drm":
            linux.mount(entry, copy / entry.name, flags=linux.BIND)
    (copy / "drm").mkdir(exist_ok=True)


def _describe(card: FakeCard, stuff: Path) -> None:
    function = stuff / "pci" / card.pci
    for node in card.drm:
        (function / "drm" / node).mkdir(parents=True)
        (function / "drm" / node / "dev").write_text(_NULL_TEXT, encoding="utf-8")
        (stuff / "class/drm" / node).mkdir()
        (stuff / "class/drm" / node / "dev").write_text(_NULL_TEXT, encoding="utf-8")
        (stuff / "class/drm" / node / "device").symlink_to(f"/sys/bus/pci/devices/{card.pci}")
    identity = f"{_VENDOR}:{_PRODUCT}".upper()
    for name, text in (
        ("vendor", f"0x{_VENDOR}\n"),
        ("device", f"0x{_PRODUCT}\n"),
        ("class", f"0x{_CLASS}\n"),
        ("numa_node", "0\n"),
        ("uevent", f"DRIVER=nvidia\nPCI_CLASS=30000\nPCI_ID={identity}\nPCI_SLOT_NAME={card.pci}\n"),
    ):
        (function / name).write_text(text, encoding="utf-8")
    (function / "subsystem").symlink_to("/sys/bus/pci")
    (function / "driver").symlink_to(f"/{_STUFF}/driver/nvidia")
    information = stuff / "proc/nvidia/gpus" / card.pci
    information.mkdir()
    (information / "information").write_text(
        f"Model: \t\t {MODEL}\nIRQ:   \t\t 100\nGPU UUID: \t {card.uuid}\n"
        f"Bus Location: \t {card.pci}\nDevice Minor: \t {card.index}\n",
        encoding="utf-8",
    )


def _cover_dev(dev: Path, stuff: Path, count: int) -> None:
    kept = [name for name in _DEV_MOUNTS if os.path.ismount(dev / name)]
    for name in kept:
        (stuff / "dev-kept" / name).mkdir()
        linux.mount(dev / name, stuff / "dev-kept" / name, flags=linux.BIND)
    here = os.getcwd()
    os.chdir(stuff)
    linux.mount("fakegpu", dev, "overlay", data=f"lowerdir={dev},upperdir=dev-upper,workdir=dev-work")
    os.chdir(here)
    for name in kept:
        linux.mount(stuff / "dev-kept" / name, dev / name, flags=linux.BIND)
    (dev / "dri").mkdir(exist_ok=True)
    nodes = list(_SHARED_NODES)
    for card in cards(count):
        nodes += [f"nvidia{card.index}", *(f"dri/{node}" for node in card.drm)]
    for node in nodes:
        (dev / node).unlink(missing_ok=True)
        os.mknod(dev / node, stat.S_IFCHR | 0o666, _NULL)
        (dev / node).chmod(0o666)


def _write_stand_in(program: Path, count: int) -> None:
    """A stand-in for libnvidia-container's tool: `info --csv` for Incus, `configure … ROOTFS` for LXC's hook.

    It must be in /usr/bin: LXC runs hooks with a PATH of its own. What it puts into a container is a stand-in for
    nvidia-smi.
    """
    listing = "\n".join(
        f"{card.index},{card.index},{MODEL},GeForce,{card.uuid},0000{card.pci},8.9" for card in cards(count)
    )
    smi = program.parent.parent / "share/nvidia-smi-stand-in"
    smi.write_text(_nvidia_smi(count), encoding="utf-8")
    program.write_text(
        f"""#!/bin/sh
for word in "$@"; do
  case "$word" in
    info)
      cat <<'END'
NVRM version,CUDA version
{DRIVER},{CUDA}

Device Index,Device Minor,Model,Brand,GPU UUID,Bus Location,Architecture
{listing}
END
      exit 0;;
    configure)
      for rootfs in "$@"; do :; done
      cat /usr/share/{smi.name} > "$rootfs/usr/bin/nvidia-smi"
      chmod 755 "$rootfs/usr/bin/nvidia-smi"
      exit 0;;
  esac
done
exit 1
""",
        encoding="utf-8",
    )
    program.chmod(0o755)


def _nvidia_smi(count: int) -> str:
    """A shell program that answers `-L`, one query of a container's cards (those with a node there), and a name."""
    known = [
        f"  test ! -e /dev/nvidia{card.index} || $show {card.index} {card.uuid} 0000{card.pci.upper()}"
        for card in cards(count)
    ]
    return f"""#!/bin/sh
list() {{ echo "GPU $1: {MODEL} (UUID: $2)"; }}
query() {{ echo "$3, $2, {MODEL}, {_MEMORY} MiB, 1 MiB, {DRIVER}"; }}
each() {{
  show=$1
{chr(10).join(known)}
}}
case "$1" in
  -L) each list;;
  --query-gpu=pci.bus_id,uuid,name,memory.total,memory.used,driver_version)
    echo "pci.bus_id, uuid, name, memory.total [MiB], memory.used [MiB], driver_version"
    each query;;
  "") echo "stand-in for nvidia-smi, driver {DRIVER}"; each list;;
  *) echo "the stand-in for nvidia-smi does not know $1" >&2; exit 2;;
esac
"""
