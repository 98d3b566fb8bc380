"""What must be on the host for a granted card to work in a machine, looked at before anything is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.images import ways_on
from launcher.gpu.vendors import vendors_of
from launcher.gpu.vendors.vendor import Obstacle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.gpu.images import Gpus
    from launcher.infra.model import Domain, Machine

__all__ = ["Obstacle", "preflight"]


def preflight(
    machine: Machine, domain: Domain, grants: Iterable[Grant], host: HostFiles | None, gpus: Gpus = None
) -> tuple[Obstacle, ...]:
    """What is in the way of a machine's cards; `host` is what the daemon's files say, None if out of reach.

    `gpus` says how the machine's image computes on cards.
    """
    grants = tuple(grants)
    cards = [grant.card for grant in grants]
    if machine.type == "vm":
        return tuple(_for_vm(machine, cards, host))
    return tuple(
        obstacle
        for vendor in vendors_of(cards)
        for obstacle in vendor.obstacles(
            machine,
            domain,
            [grant for grant in grants if grant.card.vendor_id == vendor.pci_id],
            host,
            ways_on(gpus, vendor),
        )
    )


def _for_vm(machine: Machine, cards: list[Card], host: HostFiles | None) -> Iterator[Obstacle]:
    if cards and host is not None and not host.iommu:
        yield Obstacle(
            machine.name,
            "a VM's card needs an IOMMU, and the kernel has none",
            "switch on VT-d or AMD-Vi in the firmware, and boot with intel_iommu=on on Intel",
        )
