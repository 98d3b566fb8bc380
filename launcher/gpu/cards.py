"""The graphics cards of a host, as Incus lists them.

`GET /1.0/resources`, `gpu.cards[]`: https://linuxcontainers.org/incus/docs/main/rest-api-spec/. It has no figure of a
card's memory and no list of its MIG devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.incus.values import pci_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ANYWHERE",
    "NVIDIA",
    "Card",
    "Nvidia",
    "cards_of",
    "computing",
    "describe",
]

NVIDIA = "10de"
ANYWHERE = "none"  # what Incus calls the location of everything on a server that is no cluster
# Chips that only draw a server's console: ASPEED, Matrox, Cirrus, QEMU's own. Nobody means them by `gpu: true`.
_CONSOLES = frozenset({"1a03", "102b", "1013", "1234"})


@dataclass(frozen=True)
class Nvidia:
    """What NVIDIA's driver says of its card; `node` is `nvidia0`, `number` its device number (`195:0`)."""

    uuid: str
    model: str
    cuda_version: str
    node: str = ""
    number: str = ""


@dataclass(frozen=True)
class Card:
    """One card of one host.

    `pci` is in Incus' form, `0000:01:00.0`. `drm` are its nodes below /dev/dri, `numbers` their device numbers
    (`226:0`), `drm_id` is what a gpu device's `id` means. `virtual` are the addresses of its SR-IOV functions. `member`
    is the cluster member, ANYWHERE outside a cluster.
    """

    pci: str
    vendor_id: str = ""
    product_id: str = ""
    vendor: str = ""
    product: str = ""
    driver: str = ""
    driver_version: str = ""
    drm_id: str | None = None
    drm: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    nvidia: Nvidia | None = None
    virtual: tuple[str, ...] = ()
    member: str = ANYWHERE

    @property
    def model(self) -> str:
        """What a person calls it."""
        if self.nvidia is not None and self.nvidia.model:
            return self.nvidia.model
        return " ".join(word for word in (self.vendor, self.product) if word) or f"{self.vendor_id}:{self.product_id}"

    @property
    def is_nvidia(self) -> bool:
        """Whether NVIDIA made it."""
        return self.vendor_id == NVIDIA

    def at(self, location: str) -> bool:
        """Whether it is where an instance with this location runs."""
        return ANYWHERE in (self.member, location) or not location or self.member == location


def cards_of(resources: Mapping[str, Any], member: str = ANYWHERE) -> tuple[Card, ...]:
    """The cards in the metadata of `GET /1.0/resources`, by address; those that are on no PCI bus are left out."""
    entries = (resources.get("gpu") or {}).get("cards") or ()
    cards = [_card(entry, member) for entry in entries if entry.get("pci_address")]
    return tuple(sorted(cards, key=lambda card: card.pci))


def _card(entry: Mapping[str, Any], member: str) -> Card:
    drm = entry.get("drm") or {}
    kinds = ("card", "render", "control")
    return Card(
        pci=pci_address(entry["pci_address"]) or str(entry["pci_address"]),
        vendor_id=str(entry.get("vendor_id") or (NVIDIA if entry.get("nvidia") else "")).lower(),
        product_id=str(entry.get("product_id") or "").lower(),
        vendor=str(entry.get("vendor") or ""),
        product=str(entry.get("product") or ""),
        driver=str(entry.get("driver") or ""),
        driver_version=str(entry.get("driver_version") or ""),
        drm_id=str(drm.get("id", 0)) if drm else None,  # 0 is left out of the JSON by some versions
        drm=tuple(str(drm[f"{kind}_name"]) for kind in kinds if drm.get(f"{kind}_name")),
        numbers=tuple(str(drm[f"{kind}_device"]) for kind in kinds if drm.get(f"{kind}_device")),
        nvidia=_nvidia(entry.get("nvidia")),
        virtual=tuple(_virtual(entry.get("sriov"))),
        member=member,
    )


def _nvidia(entry: Mapping[str, Any] | None) -> Nvidia | None:
    if not entry:
        return None
    keys = ("uuid", "model", "cuda_version", "card_name", "card_device")
    return Nvidia(*(str(entry.get(key) or "") for key in keys))


def _virtual(sriov: Mapping[str, Any] | None) -> Iterable[str]:
    for entry in (sriov or {}).get("vfs") or ():
        if address := pci_address(str(entry.get("pci_address") or "")):
            yield address


def computing(cards: Iterable[Card]) -> tuple[Card, ...]:
    """The cards that one may mean without naming one: all but a server's console chip."""
    return tuple(card for card in cards if card.vendor_id not in _CONSOLES)


def describe(card: Card) -> str:
    """A card in a sentence: `0000:01:00.0 (NVIDIA GeForce RTX 4090)`, with the member in a cluster."""
    place = "" if card.member == ANYWHERE else f" on {card.member}"
    return f"{card.pci} ({card.model}){place}"
