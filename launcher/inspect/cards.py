"""What nvidia-smi says inside a machine, beside the cards of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.gpu.cards import Card
    from launcher.gpu.nvidia_smi import Figures

__all__ = ["QUERY", "strangers"]

# What `nvidia_smi` of launcher/apply reads.
QUERY = (
    "nvidia-smi",
    "--query-gpu=pci.bus_id,uuid,name,memory.total,memory.used,driver_version",
    "--format=csv",
)


def strangers(inner: Iterable[Figures], host: Iterable[Card]) -> tuple[Figures, ...]:
    """The cards inside that are none of the host's, by UUID where the host tells it, else by PCI address."""
    host = tuple(host)
    uuids = {card.nvidia.uuid for card in host if card.nvidia and card.nvidia.uuid}
    addresses = {card.pci for card in host}
    return tuple(card for card in inner if card.uuid not in uuids and (uuids or card.pci not in addresses))
