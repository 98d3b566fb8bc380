"""Which cards a device node, a device number or a PCI address means.

Nodes that belong to no single card (`nvidiactl`, `nvidia-uvm`, `nvidia-caps/…`) mean none.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from anklume_images.incus.values import pci_address, pci_addresses_in
from launcher.gpu.vendors import VENDORS, of_vendor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.gpu.cards import Card

__all__ = ["by_address", "by_node", "by_number", "by_selector", "mentioned"]

_DRM_MAJOR = "226"  # Documentation/admin-guide/devices.txt of the kernel
_NUMBER_NODE = re.compile(r"/dev/char/(\d+):(\d+)", re.ASCII)


def by_selector(cards: Iterable[Card], device: Mapping[str, str]) -> tuple[Card, ...]:
    """The cards that a gpu device's keys select; without any, all (`gpuSelected` of Incus' source)."""

    def selects(card: Card) -> bool:
        pairs = (
            (device.get("vendorid"), card.vendor_id),
            (device.get("productid"), card.product_id),
            (device.get("id"), card.drm_id),
        )
        pci = device.get("pci")
        if pci and (pci_address(pci) or pci) != card.pci:
            return False
        return all(not value or value.lower() == has for value, has in pairs)

    return tuple(card for card in cards if selects(card))


def by_address(cards: Iterable[Card], address: str) -> tuple[tuple[Card, str | None], ...]:
    """The card at a PCI address, with that address again where it is one of the card's virtual functions."""
    pci = pci_address(address)
    whole: list[tuple[Card, str | None]] = []
    for card in cards:
        if card.pci == pci:
            whole.append((card, None))
        elif pci in card.virtual:
            whole.append((card, pci))
    return tuple(whole)


def by_node(cards: Iterable[Card], path: str) -> tuple[Card, ...]:
    """The cards whose node is at `path`, or in it where it is a folder of nodes."""
    cards, path = tuple(cards), posixpath.normpath(f"/{path.strip().lstrip('/')}")
    for vendor in VENDORS:
        if vendor.node is not None and (match := vendor.node.fullmatch(path)):
            return by_number(cards, vendor.major, match[1])
    if match := _NUMBER_NODE.fullmatch(path):
        return by_number(cards, match[1], match[2])
    return tuple(card for card in cards if path == "/dev" or path in _paths(card))


def _paths(card: Card) -> set[str]:
    """Where a card's nodes below /dev/dri are, the folders included."""
    if not card.drm:
        return set()
    named = {f"/dev/dri/{name}" for name in card.drm}
    sorted_by_path = {f"/dev/dri/by-path/pci-{card.pci}-{kind}" for kind in ("card", "render")}
    return {"/dev/dri", "/dev/dri/by-path"} | named | sorted_by_path


def by_number(cards: Iterable[Card], major: str, minor: str) -> tuple[Card, ...]:
    """The cards with this device number; `*` stands for every minor, and for every major."""
    cards = tuple(cards)
    matching: list[Card] = []
    for vendor in VENDORS:
        if vendor.major and major in (vendor.major, "*"):
            vendor_cards = of_vendor(cards, vendor)
            matching += [card for place, card in enumerate(vendor_cards) if minor in ("*", vendor.minor(card, place))]
    if major in (_DRM_MAJOR, "*"):
        matching += [card for card in cards if card.drm and (minor == "*" or f"{_DRM_MAJOR}:{minor}" in card.numbers)]
    return tuple(card for card in cards if card in matching)


def mentioned(cards: Iterable[Card], text: str) -> tuple[Card, ...]:
    """The cards whose PCI address, in a long or short form, is anywhere in a text."""
    named = pci_addresses_in(text)
    return tuple(card for card in cards if card.pci in named or not named.isdisjoint(card.virtual))
