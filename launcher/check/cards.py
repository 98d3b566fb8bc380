"""What nvidia-smi says inside a machine, beside the cards of the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.plan.cards import normal_pci

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.plan.cards import Card

__all__ = ["QUERY", "InnerCard", "inner_cards", "strangers"]

# `nvidia-smi --help-query-gpu` lists the fields.
QUERY = (
    "nvidia-smi",
    "--query-gpu=uuid,pci.bus_id,name,driver_version,memory.total,memory.used",
    "--format=csv,noheader,nounits",
)
_MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class InnerCard:
    """A card as seen inside; memory in bytes, None where it was not told."""

    uuid: str
    pci: str
    model: str
    driver: str
    total: int | None
    used: int | None

    def __str__(self) -> str:
        return f"{self.model}, {self.uuid}, {self.pci}, driver {self.driver}"


def inner_cards(text: str) -> tuple[InnerCard, ...]:
    """The cards in the answer to QUERY; lines of another form are none."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]
    return tuple(
        InnerCard(row[0], normal_pci(row[1]) or row[1], row[2], row[3], _mebibytes(row[4]), _mebibytes(row[5]))
        for row in rows
        if len(row) == 6
    )


def _mebibytes(text: str) -> int | None:
    return int(text) * _MEBIBYTE if text.isdigit() else None


def strangers(inner: Iterable[InnerCard], host: Iterable[Card]) -> tuple[InnerCard, ...]:
    """The cards inside that are none of the host's, by UUID where the host tells it, else by PCI address."""
    host = tuple(host)
    uuids = {card.nvidia.uuid for card in host if card.nvidia and card.nvidia.uuid}
    addresses = {card.pci for card in host}
    return tuple(card for card in inner if card.uuid not in uuids and (uuids or card.pci not in addresses))
