"""The cards of a machine, seen from inside: NVIDIA's by nvidia-smi, other makers' by their device nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.console import human_size
from launcher.engines.probe import SHOWN, Outcome, failed
from launcher.gpu.cards import computing, describe
from launcher.gpu.images import ways_on
from launcher.gpu.nodes import by_selector
from launcher.gpu.nvidia_smi import nvidia_smi
from launcher.gpu.vendors import vendors_of
from launcher.gpu.vendors.nvidia_driver import RUNTIME, gives_driver
from launcher.gpu.vendors.vendor import render_nodes
from launcher.inspect.guest import NOT_FOUND
from launcher.inspect.nodes import node_trouble, read_nodes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.engines.probe import GuestLike
    from launcher.gpu.cards import Card
    from launcher.gpu.images import Gpus
    from launcher.gpu.nvidia_smi import Figures
    from launcher.observe.instances import InstanceState

__all__ = ["QUERY", "asks_nvidia_smi", "check_cards", "nodes_of", "own_cards", "strangers"]

# What `nvidia_smi` of launcher/gpu reads.
QUERY = (
    "nvidia-smi",
    "--query-gpu=pci.bus_id,uuid,name,memory.total,memory.used,driver_version",
    "--format=csv",
)


def own_cards(seen: InstanceState, cards: Iterable[Card], granted: Sequence[Card] = ()) -> tuple[Card, ...]:
    """Those of the host's cards that the instance has by its gpu devices; without any, those that it is to have.

    These are what the file gives it (`granted`), or where that is not known, all that it could mean.
    """
    here = [card for card in cards if card.at(seen.location)]
    if not seen.gpus:
        return tuple(granted) or computing(here)
    return tuple(card for card in here if any(card in by_selector(here, device) for device in seen.gpus))


def asks_nvidia_smi(seen: InstanceState, own: Iterable[Card]) -> bool:
    """Whether nvidia-smi has to work in a machine that has these cards; where none is known, what it is given tells."""
    own = tuple(own)
    if own:
        return any(card.is_nvidia for card in own)
    return seen.config.get(RUNTIME) == "true" or any(map(gives_driver, seen.devices.values()))


def nodes_of(card: Card, gpus: Gpus) -> tuple[str, ...]:
    """The device nodes by which a machine gets at a card whose maker has no tool for it; `gpus` is its image's."""
    for vendor in vendors_of([card]):
        return vendor.nodes(card, ways_on(gpus, vendor))
    return render_nodes(card, None)


def check_cards(
    inside: GuestLike,
    seen: InstanceState,
    cards: Sequence[Card],
    *,
    unit: str = "",
    gpus: Gpus = None,
    figures: Mapping[str, Figures] | None = None,
) -> Outcome:
    """The machine can use the cards that it was given, of the host's `cards`; `unit` is its engine's.

    `figures` are those of cards whose memory the host knows, by PCI address.
    """
    if not seen.gpus:
        return failed("the instance has no gpu device: anklume-launch doctor says why")
    own = own_cards(seen, cards)
    outcomes = [_by_nvidia_smi(inside, own, cards)] if asks_nvidia_smi(seen, own) else []
    others = [card for card in own if not card.is_nvidia]
    if others and seen.machine.type == "vm":
        outcomes.append(Outcome("skipped", "a VM has a driver of its own for its card, and other names for its nodes"))
        others = []
    outcomes += [_by_nodes(inside, card, unit, gpus, figures or {}) for card in others]
    if not outcomes:
        return failed("its gpu devices mean no card that Incus lists: anklume-launch gpu shows those of the host")
    states = {outcome.state for outcome in outcomes}
    evidence = "; ".join(outcome.evidence for outcome in outcomes)
    return Outcome("failed" if "failed" in states else "skipped" if "skipped" in states else "ok", evidence)


def _by_nvidia_smi(inside: GuestLike, own: Sequence[Card], cards: Sequence[Card]) -> Outcome:
    """nvidia-smi inside shows the machine's own cards, and none that is not the host's."""
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
    if others := strangers(figures, [card for card in cards if card.is_nvidia]):
        return failed(f"not a card of this host: {'; '.join(_described(card) for card in others)}")
    if missing := [card for card in own if card.is_nvidia and len(strangers(figures, [card])) == len(figures)]:
        return failed(f"nvidia-smi does not list {', '.join(map(describe, missing))}, only {text}")
    return Outcome("ok", f"{text}: the host's")


def _described(card: Figures) -> str:
    return f"{card.name}, {card.uuid}, {card.pci}, driver {card.driver_version}"


def _by_nodes(inside: GuestLike, card: Card, unit: str, gpus: Gpus, figures: Mapping[str, Figures]) -> Outcome:
    """The card's nodes are there, and open for the engine."""
    nodes = nodes_of(card, gpus)
    if not nodes:
        return failed(f"{describe(card)}: its driver on the host ({card.driver or 'none'}) gives it no render node")
    tests = read_nodes(inside, unit, nodes)
    seen = [describe(card), *map(str, tests)]
    if card.pci in figures and (total := figures[card.pci].memory_total):
        used = figures[card.pci].memory_used
        seen.append(human_size(total) if used is None else f"{human_size(used)} of {human_size(total)} in use")
    return Outcome("failed" if node_trouble(tests) else "ok", ", ".join(seen))


def strangers(inner: Iterable[Figures], host: Iterable[Card]) -> tuple[Figures, ...]:
    """The cards inside that are none of the host's, by UUID where the host tells it, else by PCI address."""
    host = tuple(host)
    uuids = {card.nvidia.uuid for card in host if card.nvidia and card.nvidia.uuid}
    addresses = {card.pci for card in host}
    return tuple(card for card in inner if card.uuid not in uuids and (uuids or card.pci not in addresses))
