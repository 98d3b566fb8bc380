"""What must be on the host for a granted card to work in a machine, looked at before anything is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.vendors import vendors_of
from launcher.gpu.vendors.vendor import Obstacle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.infra.model import Domain, Machine

__all__ = ["Obstacle", "preflight"]


def preflight(
    machine: Machine, domain: Domain, grants: Iterable[Grant], daemon_root: Path | None
) -> tuple[Obstacle, ...]:
    """What is in the way of a machine's cards; `daemon_root` is where the daemon's files are, None if out of reach."""
    grants = tuple(grants)
    cards = [grant.card for grant in grants]
    if machine.type == "vm":
        return tuple(_for_vm(machine, cards, daemon_root))
    return tuple(
        obstacle
        for vendor in vendors_of(cards)
        for obstacle in vendor.obstacles(
            machine, domain, [grant for grant in grants if grant.card.vendor_id == vendor.pci_id], daemon_root
        )
    )


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
