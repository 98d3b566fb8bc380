"""Whether an image can compute on the cards that its machine gets, by what its spec says (`gpus`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from launcher.gpu.cards import describe
from launcher.gpu.vendors import vendors_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.vendors.vendor import Vendor

__all__ = ["Gpus", "makers", "unusable", "ways_on", "why_unusable"]

# How an image computes on cards, by their makers, as its spec says (`gpus`); None where nobody knows.
Gpus: TypeAlias = "Mapping[str, Sequence[str]] | None"


def makers(cards: Sequence[Card]) -> frozenset[str]:
    """The makers of these cards as specs name them."""
    return frozenset(vendor.name.lower() for vendor in vendors_of(cards))


def ways_on(gpus: Gpus, vendor: Vendor) -> tuple[str, ...] | None:
    """The ways by which an image computes on this maker's cards: none, or None where nobody knows."""
    return None if gpus is None else tuple(gpus.get(vendor.name.lower(), ()))


def unusable(gpus: Gpus, cards: Iterable[Card]) -> tuple[Card, ...]:
    """The cards on which an image cannot compute."""
    return tuple(card for card in cards if gpus is not None and not makers([card]) <= set(gpus))


def why_unusable(image: str, cards: Sequence[Card]) -> str:
    """A sentence about cards that an image cannot use."""
    names = " and ".join(vendor.name for vendor in vendors_of(cards))
    listed = ", ".join(describe(card) for card in cards)
    return f"the image {image} has nothing for cards of {names}, so it computes on the CPU beside {listed}"
