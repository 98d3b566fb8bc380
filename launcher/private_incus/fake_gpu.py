"""Simulated cards for a private Incus, NVIDIA's if not said otherwise, to try GPU policy on a machine without any.

What Incus reads (/sys/class/drm, /sys/bus/pci/devices, /proc/driver/nvidia, nodes in /dev, `nvidia-container-cli`) is
covered in the private mount namespace only. Every node is the null device, so nothing can be computed. The
container's own /dev/nvidia<N> is made by Incus with NVIDIA's real numbers (195:N).

The driver's libraries are stubs, in the folder where Debian has the real ones, and nvidia-smi is a stand-in. It works
where a library of the module's version is in the linker's path, and says what the real one says where not.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images import linux
from launcher.private_incus.stub_library import stub_library

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CUDA",
    "DRIVER",
    "LIBRARIES",
    "MAXIMUM",
    "MODEL",
    "SMI",
    "FakeCard",
    "cards",
    "install",
    "install_driver",
    "nvidia_smi",
    "remove_driver",
]

MAXIMUM = 8
MODEL = "NVIDIA GeForce RTX 4090"
DRIVER = "550.54.15"
CUDA = "12.4"
LIBRARIES = f"/usr/lib/{platform.machine()}-linux-gnu/nvidia/current"
SMI = "/usr/bin/nvidia-smi"
# The names that matter to linking, each with the name that it calls itself: `V` stands for the version.
_STUBS = {
    "libcuda.so": "libcuda.so.1",
    "libnvidia-ml.so": "libnvidia-ml.so.1",
    "libEGL_nvidia.so": "libEGL_nvidia.so.0",
    "libnvidia-ptxjitcompiler.so": "libnvidia-ptxjitcompiler.so.1",
    "libnvidia-eglcore.so": "libnvidia-eglcore.so.V",
}
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
    for card in cards(count):
        _describe(card, stuff)
    linux.mount(stuff / "class", root / "sys/class", flags=linux.BIND | linux.REC)
    linux.mount(stuff / "pci", root / "sys/bus/pci/devices", flags=linux.BIND)
    linux.mount(stuff / "proc", root / "proc/driver", flags=linux.BIND)
    _cover_dev(root / "dev", stuff, count)
    _write_stand_in(root / "usr/bin/nvidia-container-cli", count)
    install_driver(root)


def install_driver(root: Path, version: str = DRIVER, *, module: str | None = None) -> None:
    """Put stubs of this version in place of those that are there, as a package would; `module` runs, if not the same.

    `root` is the private Incus' root folder, from wherever it is seen.
    """
    remove_driver(root)
    module = version if module is None else module
    (root / _STUFF / "driver/nvidia/module/version").write_text(f"{module}\n", encoding="utf-8")
    (root / _STUFF / "proc/nvidia/version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {module}  Tue Mar  5 22:23:56 UTC 2024\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
        encoding="utf-8",
    )
    folder = root / LIBRARIES[1:]
    folder.mkdir(parents=True, exist_ok=True)
    for name, stem in _STUBS.items():
        soname = stem.replace("V", version)
        (folder / f"{name}.{version}").write_bytes(stub_library(soname))
        if soname != f"{name}.{version}":
            (folder / soname).symlink_to(f"{name}.{version}")
    count = len(list((root / _STUFF / "proc/nvidia/gpus").iterdir()))
    program = root / SMI[1:]
    program.write_text(nvidia_smi(count, version, module), encoding="utf-8")
    program.chmod(0o755)


def remove_driver(root: Path) -> None:
    """Take the stubs and nvidia-smi away; the module goes on running."""
    for file in (*(root / LIBRARIES[1:]).glob("lib*"), root / SMI[1:]):
        file.unlink(missing_ok=True)


def _driven_by(function: Path, stuff: Path, driver: str) -> None:
    (stuff / "driver" / driver).mkdir(exist_ok=True)
    (function / "driver").unlink(missing_ok=True)
    (function / "driver").symlink_to(f"/{_STUFF}/driver/{driver}")


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
    _driven_by(function, stuff, "nvidia")
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
    smi.write_text(nvidia_smi(count, DRIVER), encoding="utf-8")
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


def nvidia_smi(count: int, version: str, module: str = "", dev: str = "/dev") -> str:
    """A shell program that answers `-L`, `-q -d COMPUTE`, one query of cards (those with a node in `dev`), and a name.

    With `module` it first looks for its library as the real one does, by the linker's cache where there is one.
    """
    known = [
        f"  test ! -e {dev}/nvidia{card.index} || $show {card.index} {card.uuid} 0000{card.pci.upper()}"
        for card in cards(count)
    ]
    return f"""#!/bin/sh
list() {{ echo "GPU $1: {MODEL} (UUID: $2)"; }}
query() {{ echo "$3, $2, {MODEL}, {_MEMORY} MiB, 1 MiB, {version}"; }}
compute() {{ printf 'GPU %s\n    %-51s: Default\n' "$3" 'Compute Mode'; }}
each() {{
  show=$1
{chr(10).join(known)}
}}
{_library_check(module) if module else ""}
case "$1" in
  -L) each list;;
  --query-gpu=pci.bus_id,uuid,name,memory.total,memory.used,driver_version)
    echo "pci.bus_id, uuid, name, memory.total [MiB], memory.used [MiB], driver_version"
    each query;;
  -q)
    test "$2 $3" = "-d COMPUTE" || {{ echo "the stand-in for nvidia-smi does not know $*" >&2; exit 2; }}
    printf '\n==============NVSMI LOG==============\n\n'
    printf '%-55s: %s\n' 'Driver Version' {version} 'CUDA Version' {CUDA} 'Attached GPUs' "$(each list | wc -l)"
    each compute;;
  "") echo "stand-in for nvidia-smi, driver {version}"; each list;;
  *) echo "the stand-in for nvidia-smi does not know $1" >&2; exit 2;;
esac
"""


def _library_check(module: str) -> str:
    return f"""\
if test -x /usr/sbin/ldconfig; then
  library=$(/usr/sbin/ldconfig -p | grep -F 'libnvidia-ml.so.1 ' | head -n 1)
  library=$(readlink -f "${{library##* }}")
  if ! test -e "$library"; then
    echo "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system." >&2
    exit 12
  fi
  if test "${{library##*.so.}}" != {module}; then
    echo "Failed to initialize NVML: Driver/library version mismatch" >&2
    exit 18
  fi
fi"""
