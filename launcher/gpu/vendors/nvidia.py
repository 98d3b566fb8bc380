"""NVIDIA: the driver's libraries are brought into a container by its own tool, which LXC's hook calls.

Incus asks for both at an instance's start: internal/server/instance/drivers/driver_lxc.go (`nvidia.runtime`).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from anklume_images.incus.values import is_true
from launcher.gpu.cards import NVIDIA, describe
from launcher.gpu.vendors.vendor import Diagnosis, Extras, Obstacle, Vendor
from launcher.infra.merge import merged_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.infra.model import Domain, Machine

__all__ = ["LOST", "OLDEST_DRIVER", "RUNTIME", "VENDOR", "has_hook", "has_tool", "is_lost"]

RUNTIME = "nvidia.runtime"
CAPABILITIES = "nvidia.driver.capabilities"
OLDEST_DRIVER = 535  # Ollama's CUDA 12 libraries need it
_COMPUTE = "compute,utility"  # CUDA, and nvidia-smi
# Incus' own packages of Zabbly live in /opt/incus.
_PLACES = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "opt/incus/bin")
_HOOKS = ("usr/share/lxc/hooks/nvidia", "opt/incus/share/lxc/hooks/nvidia")
# 999 is CUDA's cudaErrorUnknown. After a suspend every program gets it until the module is loaded anew.
_SUSPENDED = re.compile(
    r"failed to initialize CUDA: unknown error|CUDA error(?: 999)?: unknown error"
    r"|cuda\w* driver[^:]*(?:: |failure: |context )999",
    re.IGNORECASE,
)
# What nvidia-smi and the driver say of a card that no longer answers (Xid 79 in the kernel's log).
_LOST = re.compile(
    r"GPU is lost|fallen off the bus|unable to determine the device handle for GPU|RmInitAdapter failed", re.IGNORECASE
)


LOST = Diagnosis(
    "gpu-lost",
    "the card has left the PCI bus: it got too hot or too little power, or its driver failed",
    "read the kernel's log on the host (dmesg, lines with NVRM and Xid), then restart the host; if it comes again, "
    "look at the card's power supply, its slot and its firmware",
)


def has_tool(root: Path) -> bool:
    """Whether the host has the tool; `root` is where the daemon's files are."""
    return any(os.path.lexists(root / place / "nvidia-container-cli") for place in _PLACES)


def has_hook(root: Path) -> bool:
    """Whether the host has LXC's hook for it."""
    return any(os.path.lexists(root / hook) for hook in _HOOKS)


def is_lost(text: str) -> bool:
    """Whether nvidia-smi or a driver speaks of a card that no longer answers."""
    return _LOST.search(text) is not None


def _wants_runtime(machine: Machine, domain: Domain) -> bool:
    """Whether the file leaves the runtime on: `nvidia.runtime: "false"` in config switches it off."""
    return is_true(merged_config(machine, domain).get(RUNTIME, "true"))


def _extras(machine: Machine, domain: Domain) -> Extras:
    if not _wants_runtime(machine, domain):
        return Extras()
    written = merged_config(machine, domain)
    ours = {RUNTIME: "true", CAPABILITIES: _COMPUTE}
    return Extras(config={key: value for key, value in ours.items() if key not in written})


def _obstacles(machine: Machine, domain: Domain, grants: Sequence[Grant], root: Path | None) -> Iterator[Obstacle]:
    if _wants_runtime(machine, domain):
        yield from _for_runtime(machine, domain, [grant.card for grant in grants], root)
    elif any(grant.mode == "mig" for grant in grants):
        remedy = f"remove {RUNTIME} from the machine's config"
        yield Obstacle(machine.name, f"a MIG device needs {RUNTIME}, which is switched off", remedy)


def _for_runtime(machine: Machine, domain: Domain, cards: list[Card], daemon_root: Path | None) -> Iterator[Obstacle]:
    off = f'or set {RUNTIME}: "false" in its config and bring the driver\'s libraries yourself'
    if is_true(merged_config(machine, domain).get("security.privileged")):
        yield Obstacle(
            machine.name,
            f"a privileged container cannot have {RUNTIME}: Incus refuses it",
            f"remove security.privileged, {off}",
        )
    for card in cards:
        yield from _driver(machine, card)
    if daemon_root is None:
        yield Obstacle(
            machine.name,
            "whether the host has nvidia-container-cli and LXC's hook for it cannot be seen from here",
            "on the host: which nvidia-container-cli; ls /usr/share/lxc/hooks/nvidia",
            fatal=False,
        )
        return
    if not has_tool(daemon_root):
        yield Obstacle(
            machine.name,
            "the host has no nvidia-container-cli, which brings the driver's libraries into the container",
            f"install NVIDIA's libnvidia-container-tools on the host, {off}",
        )
    if not has_hook(daemon_root):
        yield Obstacle(
            machine.name,
            "the host has no LXC hook /usr/share/lxc/hooks/nvidia",
            f"install LXC's hooks on the host (Debian: lxc or liblxc-common), {off}",
        )


def _driver(machine: Machine, card: Card) -> Iterator[Obstacle]:
    if card.nvidia is None or card.driver != "nvidia":
        yield Obstacle(
            machine.name,
            f"NVIDIA's driver does not run card {describe(card)}" + (f", {card.driver} does" * bool(card.driver)),
            f"install NVIDIA's driver {OLDEST_DRIVER} or newer on the host, and load it: modprobe nvidia",
        )
        return
    major = card.driver_version.partition(".")[0]
    if major.isascii() and major.isdecimal() and int(major) < OLDEST_DRIVER:
        yield Obstacle(
            machine.name,
            f"the driver of card {describe(card)} is {card.driver_version}, older than {OLDEST_DRIVER}",
            "update NVIDIA's driver on the host",
        )


def _diagnose(lines: Sequence[str]) -> Diagnosis:
    if any(is_lost(line) for line in lines):
        return LOST
    if any(_SUSPENDED.search(line) for line in lines):
        return Diagnosis(
            "gpu-after-suspend",
            "the host was suspended, and the driver's module nvidia_uvm gives programs no memory since: nvidia-smi "
            "works, CUDA does not",
            "stop what uses the card, then on the host: modprobe -r nvidia_uvm && modprobe nvidia_uvm; then start the "
            "machine again",
        )
    return Diagnosis(
        "engine-on-cpu",
        "the card is there, but the runner cannot use it: mostly a driver older than the runner's CUDA",
        "update the host's driver, then restart the machine",
    )


def _minor(card: Card, place: int) -> str:
    """NVIDIA's tool tells Incus which card has which minor; without it they count in the order of their addresses."""
    known = card.nvidia.node.removeprefix("nvidia") if card.nvidia is not None else ""
    return known or str(place)


def _visible(cards: Sequence[Card], value: str) -> tuple[Card, ...]:
    """What NVIDIA's hook is told to show: `all`, `none`, `void`, or indexes and UUIDs; anything else counts as all."""
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not words or words[0] in ("none", "void"):
        return ()
    visible: list[Card] = []
    for word in words:
        matching = [
            card
            for place, card in enumerate(cards)
            if word == str(place) or (card.nvidia is not None and word.lower() == card.nvidia.uuid.lower())
        ]
        if not matching:
            return tuple(cards)
        visible += matching
    return tuple(visible)


VENDOR = Vendor(
    "NVIDIA",
    NVIDIA,
    _diagnose,
    extras=_extras,
    obstacles=_obstacles,
    major="195",  # NVIDIA's own number
    node=re.compile(r"/dev/nvidia(\d+)", re.ASCII),
    minor=_minor,
    selected_by={"NVIDIA_VISIBLE_DEVICES": _visible},
)
