"""What nvidia-smi says inside a machine, beside the cards of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.engines.probe import SHOWN, Outcome, failed
from launcher.gpu.nvidia_smi import nvidia_smi
from launcher.inspect.guest import NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.engines.probe import GuestLike
    from launcher.gpu.cards import Card
    from launcher.gpu.nvidia_smi import Figures

__all__ = ["QUERY", "check_cards", "strangers"]

# What `nvidia_smi` of launcher/gpu reads.
QUERY = (
    "nvidia-smi",
    "--query-gpu=pci.bus_id,uuid,name,memory.total,memory.used,driver_version",
    "--format=csv",
)


def check_cards(inside: GuestLike, cards: Sequence[Card]) -> Outcome:
    """nvidia-smi inside shows cards, and they are the host's, `cards`."""
    if cards and not any(card.is_nvidia for card in cards):
        return Outcome("skipped", "the host has no NVIDIA card; nvidia-smi knows no other")
    result = inside.run(*QUERY)
    output = (result.stderr or result.stdout).decode(errors="replace").strip()
    if result.code == NOT_FOUND:
        return failed("there is no nvidia-smi in the machine: anklume-launch doctor says why")
    if result.code:
        return failed(f"nvidia-smi ended with {result.code}: {output[:SHOWN]}")
    figures = nvidia_smi(result.stdout.decode(errors="replace"))
    if not figures:
        return failed(f"nvidia-smi lists no card: {output[:SHOWN]}")
    text = "; ".join(_described(card) for card in figures)
    if others := strangers(figures, cards):
        return failed(f"not a card of this host: {'; '.join(_described(card) for card in others)}")
    return Outcome("ok", f"{text}: the host's")


def _described(card: Figures) -> str:
    return f"{card.name}, {card.uuid}, {card.pci}, driver {card.driver_version}"


def strangers(inner: Iterable[Figures], host: Iterable[Card]) -> tuple[Figures, ...]:
    """The cards inside that are none of the host's, by UUID where the host tells it, else by PCI address."""
    host = tuple(host)
    uuids = {card.nvidia.uuid for card in host if card.nvidia and card.nvidia.uuid}
    addresses = {card.pci for card in host}
    return tuple(card for card in inner if card.uuid not in uuids and (uuids or card.pci not in addresses))
