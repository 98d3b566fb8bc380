"""A card of the host that nobody has, for who wants one without naming it: found without an Incus."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launcher.gpu.cards import NVIDIA, Card
from launcher.gpu.driver import read_information
from launcher.gpu.grants import Grant
from launcher.gpu.holders import holders
from launcher.gpu.host import completed
from launcher.gpu.host_files import read_host_files
from launcher.gpu.preflight import preflight
from launcher.infra.model import GpuSelector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from anklume_images.console import Console
    from launcher.infra.model import Infra

__all__ = ["with_free_card"]


def with_free_card(
    infra: Infra, name: str, root: Path, neighbours: Callable[[], Iterable[Mapping[str, Any]]], console: Console
) -> tuple[Infra, Card | None]:
    """The file with a free card of the host for this machine, and the card; as it was where there is none.

    `root` is the host's root folder; `neighbours`, asked where there is a card, gives the instances of its own Incus.
    Only NVIDIA's cards are looked at.
    """
    host = read_host_files(root)
    machine = next(machine for machine in infra.machines() if machine.name == name)
    domain = infra.domains[machine.domain]
    information = read_information(root)
    module = host.driver.module
    cards = completed(
        [Card(pci, NVIDIA, driver="nvidia" if module else "", driver_version=module) for pci in information],
        information,
    )
    held = {holder.card.pci for holder in holders(cards, neighbours())} if cards else set()
    for card in sorted(cards, key=lambda card: card.pci):
        asking = replace(machine, gpu=True, gpu_devices=(GpuSelector(pci=card.pci),))
        obstacles = [entry for entry in preflight(asking, domain, [Grant(card, "gpu0")], host) if entry.fatal]
        if card.pci in held:
            console.note(f"a machine of the host's own Incus has card {card.pci} ({card.model})")
        elif obstacles:
            console.note(f"card {card.pci} ({card.model}) is left out: {obstacles[0].cause}")
        else:
            machines = {**domain.machines, name: asking}
            return replace(infra, domains={**infra.domains, domain.name: replace(domain, machines=machines)}), card
    return infra, None
