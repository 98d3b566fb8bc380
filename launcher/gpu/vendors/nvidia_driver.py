"""How NVIDIA's driver gets into a container: as folders of the host, or by Incus' `nvidia.runtime`; and what is wrong.

By folders (`host`): those with the driver's libraries, read-only, at FOLDER; a boot step of the image
(image_specs/_partials/_gpu-driver.sh) links what is of the running version into its linker's path. Nothing is copied,
so that the next start finds what an update of the host's driver left.

By `nvidia.runtime` (`runtime`): libnvidia-container's tool, which LXC's hook calls, mounts single files; Incus asks for
both at an instance's start: internal/server/instance/drivers/driver_lxc.go. MIG devices need it: gpu_mig.go there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from anklume_images.incus.values import is_true
from launcher.gpu.cards import ANYWHERE, describe
from launcher.gpu.driver import by_version
from launcher.gpu.vendors.vendor import Extras, Obstacle
from launcher.infra.merge import merged_config
from launcher.infra.security import is_privileged

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.driver import Driver
    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.infra.model import Domain, Machine

__all__ = [
    "BOOT_STEP",
    "FOLDER",
    "NO_VULKAN",
    "OLDEST_DRIVER",
    "RUNTIME",
    "UNIT",
    "Way",
    "driver_troubles",
    "extras",
    "gives_driver",
    "has_hook",
    "has_tool",
    "obstacles",
    "way_of",
]

Way = Literal["host", "runtime", "none"]

OLDEST_DRIVER = 535  # Ollama's CUDA 12 libraries need it
FOLDER = "/usr/lib/host-driver"
"""Where the host's folders are in a container: lib, lib-2 …, bin/nvidia-smi. Not below /run, which is mounted later."""
BOOT_STEP = "/usr/lib/anklume/gpu-driver"
UNIT = "gpu-driver"
NO_VULKAN = "no Vulkan on this card"
"""What the boot step says where the host's driver came without its part for Vulkan."""
RUNTIME = "nvidia.runtime"
_CAPABILITIES = "nvidia.driver.capabilities"
_COMPUTE = "compute,utility"  # CUDA, and nvidia-smi
_DEVICE = "host-driver"
_LIBRARY_PATH = "environment.LD_LIBRARY_PATH"
# Incus' own packages of Zabbly live in /opt/incus.
_PLACES = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "opt/incus/bin")
_HOOKS = ("usr/share/lxc/hooks/nvidia", "opt/incus/share/lxc/hooks/nvidia")


def has_tool(root: Path) -> bool:
    """Whether the host has the tool of `nvidia.runtime`; `root` is where the daemon's files are."""
    return any(os.path.lexists(root / place / "nvidia-container-cli") for place in _PLACES)


def has_hook(root: Path) -> bool:
    """Whether the host has LXC's hook for it."""
    return any(os.path.lexists(root / hook) for hook in _HOOKS)


def gives_driver(device: Mapping[str, str]) -> bool:
    """Whether a device gives a folder of the host's driver, which only a start makes usable."""
    return f"{device.get('path', '')}/".startswith(f"{FOLDER}/")


# Which way


def way_of(machine: Machine, domain: Domain, grants: Sequence[Grant], host: HostFiles | None) -> Way:
    """How a container gets the driver: as the file says, and where it leaves that open, by what the host has.

    `nvidia.runtime` in its config decides, but for a `false` beside gpu_driver: host.
    """
    written = merged_config(machine, domain).get(RUNTIME)
    if written is not None and is_true(written):
        return "runtime"
    if machine.gpu_driver == "host":
        return "host"
    if written is not None:
        return "none"
    if machine.gpu_driver == "runtime" or any(grant.mode == "mig" for grant in grants):
        return "runtime"
    if host is None or not _reached(grants, host) or not host.driver.folders:
        return "runtime"
    # In an image that does not link the driver, the tool does more for it, where the host has it.
    does_more = not _has_boot_step(machine) and host.container_tool and host.lxc_hook
    return "runtime" if does_more else "host"


def _reached(grants: Sequence[Grant], host: HostFiles) -> bool:
    return all(grant.card.member in (ANYWHERE, host.member) for grant in grants)


def extras(
    machine: Machine,
    domain: Domain,
    grants: Sequence[Grant],
    host: HostFiles | None,
    _ways: Sequence[str] | None,
) -> Extras:
    """The devices or the config of the way that is taken; nothing where the way cannot be gone."""
    written = merged_config(machine, domain)
    way = way_of(machine, domain, grants, host)
    if way == "runtime":
        ours = {RUNTIME: "true", _CAPABILITIES: _COMPUTE}
    elif way == "host" and host is not None:
        ours = {} if _has_boot_step(machine) else _environment(host.driver)
    else:
        ours = {}
    devices = _devices(machine, host.driver) if way == "host" and host is not None else {}
    return Extras(devices, {key: value for key, value in ours.items() if key not in written})


def _has_boot_step(machine: Machine) -> bool:
    """Whether its image is one of the store's, which link the driver themselves."""
    return machine.image.store is not None


def _devices(machine: Machine, driver: Driver) -> dict[str, dict[str, str]]:
    devices = {
        f"{_DEVICE}{end}": _read_only(folder.path, f"{FOLDER}/lib{end}")
        for folder, end in zip(driver.folders, _ends(driver), strict=True)
    }
    if driver.smi:
        # An image that has no boot step has nothing that would link it.
        place = FOLDER if _has_boot_step(machine) else "/usr/local"
        devices[f"{_DEVICE}-smi"] = _read_only(driver.smi, f"{place}/bin/nvidia-smi")
    return devices


def _read_only(source: str, path: str) -> dict[str, str]:
    return {"type": "disk", "source": source, "path": path, "readonly": "true"}


def _ends(driver: Driver) -> list[str]:
    return ["" if number == 1 else f"-{number}" for number, _ in enumerate(driver.folders, 1)]


def _environment(driver: Driver) -> dict[str, str]:
    """The folders of which a program may take any library: with the host's libc, nothing would start."""
    usable = [
        f"{FOLDER}/lib{end}" for folder, end in zip(driver.folders, _ends(driver), strict=True) if not folder.shared
    ]
    return {_LIBRARY_PATH: ":".join(usable)} if usable else {}


# What is in the way


def obstacles(
    machine: Machine,
    domain: Domain,
    grants: Sequence[Grant],
    host: HostFiles | None,
    _ways: Sequence[str] | None,
) -> Iterator[Obstacle]:
    """What is in the way of the driver, by the way that is taken."""
    way = way_of(machine, domain, grants, host)
    if way == "none":
        if any(grant.mode == "mig" for grant in grants):
            remedy = f"remove {RUNTIME} from the machine's config"
            yield Obstacle(machine.name, f"a MIG device needs {RUNTIME}, which is switched off", remedy)
        return
    for grant in grants:
        yield from _of_card(machine.name, grant.card)
    if host is not None and _reached(grants, host):
        yield from (trouble for trouble in _of_driver(machine.name, host.driver))
    yield from (_for_host if way == "host" else _for_runtime)(machine, domain, grants, host)


def driver_troubles(cards: Sequence[Card], driver: Driver | None) -> tuple[Obstacle, ...]:
    """What is wrong with the driver of a host's NVIDIA cards, each kind once; `driver` is None where out of reach."""
    found = [trouble for card in cards if card.is_nvidia for trouble in _of_card("", card)]
    if driver is not None and any(card.is_nvidia for card in cards):
        found += _of_driver("", driver)
    return tuple({trouble.code: trouble for trouble in reversed(found)}.values())[::-1]


def _of_card(name: str, card: Card) -> Iterator[Obstacle]:
    if card.nvidia is None or card.driver != "nvidia":
        yield Obstacle(
            name,
            f"NVIDIA's driver does not run card {describe(card)}" + (f", {card.driver} does" * bool(card.driver)),
            f"install NVIDIA's driver {OLDEST_DRIVER} or newer on the host, and load it: modprobe nvidia",
            code="driver-missing",
        )
    elif (version := by_version(card.driver_version)) and version[0] < OLDEST_DRIVER:
        yield Obstacle(
            name,
            f"the driver of card {describe(card)} is {card.driver_version}, older than {OLDEST_DRIVER}",
            "update NVIDIA's driver on the host",
            code="driver-old",
        )


def _of_driver(name: str, driver: Driver) -> Iterator[Obstacle]:
    """Where the module that runs and the libraries on disk are not of one version, CUDA and nvidia-smi refuse."""
    if driver.module and driver.libraries and driver.module not in driver.libraries:
        there = driver.libraries[0]
        if by_version(there) > by_version(driver.module):
            cause = f"the host's driver was updated to {there}, but the module that runs is still {driver.module}"
            remedy = (
                "restart the host; or stop what uses the cards, then modprobe -r nvidia_uvm nvidia_drm nvidia_modeset "
                "nvidia && modprobe nvidia"
            )
            yield Obstacle(name, cause, remedy, code="driver-not-reloaded")
        else:
            cause = f"the libraries of the host's driver are {there}, and the module that runs is {driver.module}"
            remedy = f"install the libraries of {driver.module} (or the module of {there}, and restart the host)"
            yield Obstacle(name, cause, remedy, code="driver-mismatch")
    if driver.module and not driver.uvm:
        yield Obstacle(
            name,
            "the host has no /dev/nvidia-uvm, by which CUDA gets at a card's memory",
            "load the module and make its nodes: modprobe nvidia-uvm && nvidia-modprobe -u -c 0; then restart the "
            "machine",
            fatal=False,
            code="uvm-missing",
        )


def _for_host(machine: Machine, _domain: Domain, grants: Sequence[Grant], host: HostFiles | None) -> Iterator[Obstacle]:
    instead = "or let gpu_driver be runtime"
    if any(grant.mode == "mig" for grant in grants):
        yield Obstacle(
            machine.name,
            f"Incus gives a MIG device only with {RUNTIME}, and gpu_driver is host",
            f"remove it, {instead}",
        )
    if host is None or not _reached(grants, host):
        yield Obstacle(
            machine.name,
            "gpu_driver is host, and the host's files cannot be seen from here, so where its driver is neither",
            f"run this on that host itself, with rights to its Incus' socket, {instead}",
        )
        return
    driver = host.driver
    if not driver.folders:
        seen = f" ({'; '.join(driver.passed_over[:3])})" if driver.passed_over else ""
        yield Obstacle(
            machine.name,
            f"the host has no libraries of NVIDIA's driver where they are looked for{seen}",
            f"install the driver's libraries (Debian: libcuda1, libnvidia-ml1, libegl-nvidia0), run ldconfig there, "
            f"{instead}",
        )
        return
    if not driver.smi:
        yield Obstacle(
            machine.name,
            "the host has no nvidia-smi, so the machine has none",
            "install it on the host (Debian: nvidia-smi), then restart the machine",
            fatal=False,
        )
    for path in driver.pinned:
        yield Obstacle(
            machine.name,
            f"the folder of the driver's libraries names their version: {path}",
            "after an update of the host's driver, launch again",
            fatal=False,
            note=True,
        )
    if not _has_boot_step(machine):
        yield from _for_others_image(machine, driver)


def _for_others_image(machine: Machine, driver: Driver) -> Iterator[Obstacle]:
    told = _environment(driver)
    cause = f"its image is none of the store's, so nothing in it links the host's driver, which is at {FOLDER}"
    if told:
        cause += f"; commands run with incus exec find it by {_LIBRARY_PATH.partition('.')[2]}, services do not"
    remedy = (
        f"in the image, at boot: link {FOLDER}/lib*/lib*.so.{driver.version} into a folder of its linker's path, and "
        'run ldconfig; for Vulkan, a file in /etc/vulkan/icd.d with "library_path": "libEGL_nvidia.so.0"'
    )
    yield Obstacle(machine.name, cause, remedy, fatal=False, note=True)


def _for_runtime(
    machine: Machine, domain: Domain, grants: Sequence[Grant], host: HostFiles | None
) -> Iterator[Obstacle]:
    off = f'or set {RUNTIME}: "false" in its config and bring the driver\'s libraries yourself'
    if is_privileged(merged_config(machine, domain)):
        yield Obstacle(
            machine.name,
            f"a privileged container cannot have {RUNTIME}: Incus refuses it",
            f"remove security.privileged, {off}",
        )
    if host is None or not _reached(grants, host):
        yield Obstacle(
            machine.name,
            "whether the host has nvidia-container-cli and LXC's hook for it cannot be seen from here",
            "on the host: which nvidia-container-cli; ls /usr/share/lxc/hooks/nvidia",
            fatal=False,
        )
        return
    if machine.gpu_driver == "auto" and not host.driver.folders and not any(grant.mode == "mig" for grant in grants):
        off = f"or the driver's libraries (Debian: libcuda1, libnvidia-ml1), which would do without it; {off}"
    elif host.driver.folders and not any(grant.mode == "mig" for grant in grants):
        off = f"or let gpu_driver be host, which does without it; {off}"
    if not host.container_tool:
        yield Obstacle(
            machine.name,
            "the host has no nvidia-container-cli, which brings the driver's libraries into the container",
            f"install NVIDIA's libnvidia-container-tools on the host, {off}",
        )
    if not host.lxc_hook:
        yield Obstacle(
            machine.name,
            "the host has no LXC hook /usr/share/lxc/hooks/nvidia",
            f"install LXC's hooks on the host (Debian: lxc or liblxc-common), {off}",
        )
