"""Reading the cards of a server: one request, in a cluster one for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.cards import Card, cards_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.incus.client import Incus
    from launcher.gpu.nvidia_smi import Figures

__all__ = ["read_cards", "read_figures"]


def read_cards(incus: Incus) -> tuple[Card, ...]:
    """The cards of the server, or of all members of its cluster that are online."""
    if not incus.get("")["environment"].get("server_clustered"):
        return cards_of(incus.get("resources"))
    members = [member for member in incus.get("cluster/members", recursion=1) if member.get("status") == "Online"]
    found: list[Card] = []
    for name in sorted(member["server_name"] for member in members):
        found += cards_of(incus.get("resources", target=name), name)
    return tuple(found)


def read_figures(incus: Incus, cards: Sequence[Card]) -> tuple[dict[str, Figures], dict[str, str]]:
    """What nvidia-smi says of the cards, and which card each MIG device is of; nothing for another host's cards."""
    from launcher.gpu.nvidia_smi import ask, matching

    if not incus.address.startswith("/") or not any(card.is_nvidia for card in cards):
        return {}, {}
    rows, parts = ask()
    figures = matching(rows, cards)
    by_uuid = {entry.uuid: pci for pci, entry in figures.items()}
    return figures, {part: by_uuid[uuid] for part, uuid in parts.items() if uuid in by_uuid}
