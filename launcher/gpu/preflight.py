"""What must be on the host for a granted card to work in a machine, looked at before anything is touched.

Incus asks for the same at an instance's start, and then it is late: its config and hook are in
internal/server/instance/drivers/driver_lxc.go (`nvidia.runtime`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.incus.values import is_true
from launcher.gpu.cards import describe
from launcher.gpu.config import RUNTIME, wants_runtime
from launcher.infra.merge import merged_config

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.infra.model import Domain, Machine

__all__ = ["OLDEST_DRIVER", "Obstacle", "preflight"]

OLDEST_DRIVER = 535  # Ollama's CUDA 12 libraries need it
# Incus' own packages of Zabbly live in /opt/incus.
_TOOLS = tuple(f"{folder}/nvidia-container-cli" for folder in ("usr/bin", "usr/local/bin", "usr/sbin", "opt/incus/bin"))
_HOOKS = ("usr/share/lxc/hooks/nvidia", "opt/incus/share/lxc/hooks/nvidia")


@dataclass(frozen=True)
class Obstacle:
    """One thing in the way: its cause and its remedy. One that is not `fatal` is only to be known."""

    machine: str
    cause: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.machine}: {self.cause} ({self.remedy})"


def preflight(
    machine: Machine, domain: Domain, grants: Iterable[Grant], daemon_root: Path | None
) -> tuple[Obstacle, ...]:
    """What is in the way of a machine's cards; `daemon_root` is where the daemon's files are, None if out of reach."""
    cards = [grant.card for grant in grants]
    nvidia = [card for card in cards if card.is_nvidia]
    found: list[Obstacle] = []
    if machine.type == "vm":
        found += _for_vm(machine, cards, daemon_root)
    elif nvidia and wants_runtime(machine, domain):
        found += _for_runtime(machine, domain, nvidia, daemon_root)
    elif any(grant.mode == "mig" for grant in grants):
        remedy = f"remove {RUNTIME} from the machine's config"
        found.append(Obstacle(machine.name, f"a MIG device needs {RUNTIME}, which is switched off", remedy))
    lacks_kfd = daemon_root is not None and not os.path.lexists(daemon_root / "dev/kfd")
    if machine.type == "lxc" and lacks_kfd and any(card.is_amd for card in cards):
        cause = "the host has no /dev/kfd, by which ROCm computes"
        found.append(Obstacle(machine.name, cause, "load the amdgpu module: modprobe amdgpu"))
    return tuple(found)


def _for_vm(machine: Machine, cards: list[Card], daemon_root: Path | None) -> Iterator[Obstacle]:
    if not cards or daemon_root is None:
        return
    groups = daemon_root / "sys/kernel/iommu_groups"
    if not groups.is_dir() or not any(groups.iterdir()):
        yield Obstacle(
            machine.name,
            "a VM's card needs an IOMMU, and the kernel has none",
            "switch on VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on on Intel",
        )


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
    if not any(os.path.lexists(daemon_root / tool) for tool in _TOOLS):
        yield Obstacle(
            machine.name,
            "the host has no nvidia-container-cli, which brings the driver's libraries into the container",
            f"install NVIDIA's libnvidia-container-tools on the host, {off}",
        )
    if not any(os.path.lexists(daemon_root / hook) for hook in _HOOKS):
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
