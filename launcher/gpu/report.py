"""What `anklume-launch gpu` shows: the cards, who holds each, and what a file would get; as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.console import human_size, table
from launcher.gpu.cards import ANYWHERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.holders import Holder
    from launcher.gpu.policy import GpuDecision
    from launcher.gpu.vendors.nvidia_driver import Way

__all__ = ["Claimed", "Memory", "as_json", "as_text", "granted_text"]

Memory = tuple[int | None, int | None]  # of a card: all of it and what is used, in bytes where known
Claimed = tuple[str, str, str, str]  # a card's address and member, the claimant's project and instance


def as_text(
    cards: Sequence[Card], holders: Sequence[Holder], memory: Mapping[str, Memory], claims: Iterable[Claimed] = ()
) -> str:
    """A table of cards, and below it who holds them, and claims whose instance does not have the card."""
    if not cards:
        return "Incus sees no card on this host"
    members = any(card.member != ANYWHERE for card in cards)
    header = ["card", *["member"] * members, "model", "driver", "cuda", "memory", "holders"]
    rows = []
    for card in cards:
        mine = [holder for holder in holders if holder.card == card]
        rows.append(
            [
                card.pci,
                *[card.member] * members,
                card.model,
                f"{card.driver} {card.driver_version}".strip() or "-",
                (card.nvidia.cuda_version if card.nvidia else "") or "-",
                _memory(memory.get(card.pci)),
                ", ".join(sorted({f"{holder.project}/{holder.instance}" for holder in mine})) or "free",
            ]
        )
    lines = [table(rows, header)]
    if holders:
        lines += ["", table([_row(holder) for holder in holders], ["card", "project", "instance", "state", "by"])]
    have = {(holder.card.pci, holder.card.member, holder.project, holder.instance) for holder in holders}
    idle = [f"{pci}: claimed by {claim[0]}/{claim[1]}, which does not have it" for pci, _, *claim in set(claims) - have]
    return "\n".join([*lines, *([""] * bool(idle)), *sorted(idle)])


def granted_text(decision: GpuDecision, ways: Mapping[str, Way | None]) -> str:
    """Which card each machine of the file would get, and the way of the driver by machine."""
    rows = [
        [name, grant.card.pci, grant.device, ways.get(name) or "-"]
        for name, grants in decision.grants.items()
        for grant in grants
    ]
    header = ["machine", "would get", "as device", "driver by"]
    return "\n" + (table(rows, header) if rows else "no machine of the file gets a card")


def _row(holder: Holder) -> list[str]:
    card = holder.card.pci if holder.part is None else f"{holder.card.pci}, {holder.mode} {holder.part}"
    return [card, holder.project, holder.instance, holder.state, holder.by]


def _memory(figures: Memory | None) -> str:
    total, used = figures or (None, None)
    if total is None:
        return "-"
    return human_size(total) if used is None else f"{human_size(used)} of {human_size(total)}"


def as_json(
    cards: Iterable[Card],
    holders: Sequence[Holder],
    memory: Mapping[str, Memory],
    claims: Iterable[Claimed] = (),
    decision: GpuDecision | None = None,
    ways: Mapping[str, Way | None] | None = None,
) -> dict[str, Any]:
    """The same as a document; with a file also what its machines would get, and by which way the driver."""
    claims = tuple(claims)
    document: dict[str, Any] = {
        "cards": [_card(card, holders, memory.get(card.pci, (None, None)), claims) for card in cards]
    }
    if decision is not None:
        document["granted"] = {
            name: [
                {
                    "pci": grant.card.pci,
                    "member": _member(grant.card),
                    "device": grant.device,
                    "mode": grant.mode,
                    "driver": (ways or {}).get(name),
                }
                for grant in grants
            ]
            for name, grants in decision.grants.items()
        }
        document["refusals"] = [
            {
                "code": refusal.code,
                "machine": refusal.machine,
                "message": refusal.message,
                "hint": refusal.hint,
                "where": refusal.where,
            }
            for refusal in decision.refusals
        ]
        document["warnings"] = list(decision.warnings)
    return document


def _card(card: Card, holders: Iterable[Holder], memory: Memory, claims: Iterable[Claimed]) -> dict[str, Any]:
    mine = [holder for holder in holders if holder.card == card]
    return {
        "pci": card.pci,
        "member": _member(card),
        "model": card.model,
        "vendor_id": card.vendor_id,
        "product_id": card.product_id,
        "driver": card.driver or None,
        "driver_version": card.driver_version or None,
        "cuda_version": (card.nvidia.cuda_version or None) if card.nvidia else None,
        "uuid": (card.nvidia.uuid or None) if card.nvidia else None,
        "nodes": [f"/dev/{node}" for node in _nodes(card)],
        "memory_total": memory[0],
        "memory_used": memory[1],
        "free": not mine,
        "holders": [
            {
                "project": holder.project,
                "instance": holder.instance,
                "by": holder.by,
                "mode": holder.mode,
                "part": holder.part,
                "running": holder.running,
                "autostart": holder.autostart,
            }
            for holder in mine
        ],
        "claims": [
            {"project": project, "instance": instance}
            for pci, member, project, instance in claims
            if (pci, member) == (card.pci, card.member)
        ],
    }


def _nodes(card: Card) -> list[str]:
    nodes = [card.nvidia.node] if card.nvidia is not None and card.nvidia.node else []
    return [*nodes, *(f"dri/{name}" for name in card.drm)]


def _member(card: Card) -> str | None:
    return None if card.member == ANYWHERE else card.member
