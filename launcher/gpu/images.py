"""Whether an image can compute on the cards that its machine gets, by what its spec says (`gpus`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.cards import describe
from launcher.gpu.vendors import vendors_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from launcher.gpu.cards import Card

__all__ = ["makers", "unusable", "why_unusable"]


def makers(cards: Sequence[Card]) -> frozenset[str]:
    """The makers of these cards as specs name them."""
    return frozenset(vendor.name.lower() for vendor in vendors_of(cards))


def unusable(gpus: Collection[str] | None, cards: Iterable[Card]) -> tuple[Card, ...]:
    """The cards on which an image cannot compute; `gpus` are the makers in its spec, None where it does not say."""
    return tuple(card for card in cards if gpus is not None and not makers([card]) <= set(gpus))


def why_unusable(image: str, cards: Sequence[Card]) -> str:
    """A sentence about cards that an image cannot use."""
    names = " and ".join(vendor.name for vendor in vendors_of(cards))
    listed = ", ".join(describe(card) for card in cards)
    return f"the image {image} has nothing for cards of {names}, so it computes on the CPU beside {listed}"
