"""The makers of cards, a module each: a new one is a module with a `Vendor`, and its line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.vendors import amd, intel, nvidia

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.vendors.vendor import Vendor

__all__ = ["VENDORS", "of_vendor", "vendors_of"]

VENDORS: tuple[Vendor, ...] = (nvidia.VENDOR, amd.VENDOR, intel.VENDOR)


def of_vendor(cards: Sequence[Card], vendor: Vendor) -> tuple[Card, ...]:
    """Those cards that it made, in their order."""
    return tuple(card for card in cards if card.vendor_id == vendor.pci_id)


def vendors_of(cards: Sequence[Card]) -> tuple[Vendor, ...]:
    """The makers of these cards, each once; a card of another maker has none."""
    return tuple(vendor for vendor in VENDORS if of_vendor(cards, vendor))
