"""Reading the cards of a server: one request, in a cluster one for each member; and what the host's own files add.

Incus has a card's UUID and the version of CUDA from `nvidia-container-cli` only, and no card's memory at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from launcher.gpu.cards import ANYWHERE, Card, Nvidia, cards_of
from launcher.gpu.driver import read_information
from launcher.gpu.memory import read_memory
from launcher.gpu.nvidia_smi import Figures, ask, ask_cuda, matching
from launcher.observe.daemon import daemon_root

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anklume_images.incus.client import Incus
    from launcher.gpu.driver import CardInformation

__all__ = ["completed", "read_cards", "read_figures", "sysfs_figures", "with_cuda"]


def read_cards(incus: Incus) -> tuple[Card, ...]:
    """The cards of the server, or of all members of its cluster that are online."""
    members = incus.members()
    if members:
        cards = tuple(card for name in members for card in cards_of(incus.resources(name), name))
    else:
        cards = cards_of(incus.resources())
    root = daemon_root(incus.address) if any(card.is_nvidia for card in cards) else None
    return cards if root is None else completed(cards, read_information(root), incus.server.name)


def completed(cards: Sequence[Card], information: Mapping[str, CardInformation], member: str = "") -> tuple[Card, ...]:
    """The cards with what the driver's module says of them, where Incus did not; `member` is whose files these are."""
    result = []
    for card in cards:
        told = information.get(card.pci) if card.member in (ANYWHERE, member) else None
        if told is not None and card.is_nvidia:
            known = card.nvidia or Nvidia("", "", "")
            known = replace(
                known,
                uuid=known.uuid or told.uuid,
                model=known.model or told.model,
                node=known.node or told.node,
            )
            card = replace(card, nvidia=known)  # noqa: PLW2901 - the same card
        result.append(card)
    return tuple(result)


def with_cuda(cards: Sequence[Card], figures: Mapping[str, Figures]) -> tuple[Card, ...]:
    """The cards with the version of CUDA that nvidia-smi told, where Incus did not."""
    result = []
    for card in cards:
        told = figures[card.pci].cuda_version if card.pci in figures else ""
        if card.nvidia is not None and told and not card.nvidia.cuda_version:
            card = replace(card, nvidia=replace(card.nvidia, cuda_version=told))  # noqa: PLW2901 - the same card
        result.append(card)
    return tuple(result)


def sysfs_figures(incus: Incus, cards: Sequence[Card]) -> dict[str, Figures]:
    """The memory of this host's cards whose drivers tell it in sysfs, which NVIDIA's does not; by PCI address."""
    others = [card for card in cards if not card.is_nvidia and card.member in (ANYWHERE, incus.server.name)]
    root = daemon_root(incus.address) if others else None
    figures = {}
    for card in others:
        total, used = read_memory(root, card) if root is not None else (None, None)
        if total is not None:
            figures[card.pci] = Figures(card.pci, "", card.model, total, used, card.driver_version)
    return figures


def read_figures(incus: Incus, cards: Sequence[Card]) -> tuple[dict[str, Figures], dict[str, str]]:
    """The memory of cards, and which card each MIG device is of; nothing for another host's cards.

    NVIDIA's is what nvidia-smi says, which tells the version of CUDA too where Incus does not; other makers' is what
    their drivers say in sysfs.
    """
    if not incus.address.startswith("/"):
        return {}, {}
    figures = sysfs_figures(incus, cards)
    here = [card for card in cards if card.member in (ANYWHERE, incus.server.name)]
    if not any(card.is_nvidia for card in here):
        return figures, {}
    rows, parts = ask()
    found = matching(rows, here)
    if any(card.nvidia is not None and card.pci in found and not card.nvidia.cuda_version for card in here):
        cuda = ask_cuda()
        found = {pci: replace(entry, cuda_version=cuda) for pci, entry in found.items()}
    figures |= found
    by_uuid = {entry.uuid: pci for pci, entry in figures.items() if entry.uuid}
    return figures, {part: by_uuid[uuid] for part, uuid in parts.items() if uuid in by_uuid}
