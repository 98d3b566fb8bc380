"""Reading the cards of a server: one request, in a cluster one for each member."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.plan.cards import Card, cards_of

if TYPE_CHECKING:
    from anklume_images.incus import Incus

__all__ = ["read_cards"]


def read_cards(incus: Incus) -> tuple[Card, ...]:
    """The cards of the server, or of all members of its cluster that are online."""
    if not incus.get("")["environment"].get("server_clustered"):
        return cards_of(incus.get("resources"))
    members = [member for member in incus.get("cluster/members", recursion=1) if member.get("status") == "Online"]
    found: list[Card] = []
    for name in sorted(member["server_name"] for member in members):
        found += cards_of(incus.get("resources", target=name), name)
    return tuple(found)
