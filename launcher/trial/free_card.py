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
from launcher.gpu.images import makers
from launcher.gpu.memory import read_memory
from launcher.gpu.preflight import preflight
from launcher.gpu.sysfs import cards_in_sysfs
from launcher.infra.model import GpuSelector, ImageChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from anklume_images.console import Console
    from anklume_images.specs.catalog import Catalog
    from launcher.gpu.host_files import HostFiles
    from launcher.infra.model import Infra, Machine

__all__ = ["with_free_card"]

_LEAST = 1 << 30  # bytes of a card's own memory; less is what firmware sets aside for a processor's graphics
_BY = "vulkan"  # the way to compute that fits any card of a maker


def with_free_card(
    infra: Infra,
    name: str,
    root: Path,
    neighbours: Callable[[], Iterable[Mapping[str, Any]]],
    console: Console,
    catalog: Catalog,
    in_reach: Callable[[str], bool],
) -> tuple[Infra, Card | None]:
    """The file with a free card of the host for this machine, and the card; as it was where there is none.

    `root` is the host's root folder; `neighbours`, asked where there is a card, gives the instances of its own Incus.
    The machine keeps its image where that computes on the card, else gets one that does the same and does; `in_reach`
    says of such an image whether it can be had.
    """
    host = read_host_files(root)
    machine = next(machine for machine in infra.machines() if machine.name == name)
    domain = infra.domains[machine.domain]
    cards = (*_nvidia(root, host), *_others(root))
    held = {holder.card.pci for holder in holders(cards, neighbours())} if cards else set()
    for card in cards:
        image = _image_for(card, machine, catalog, in_reach)
        asking = replace(machine, gpu=True, gpu_devices=(GpuSelector(pci=card.pci),), image=image or machine.image)
        gpus = catalog.gpus(asking.image.store) if asking.image.store else None
        obstacles = [entry for entry in preflight(asking, domain, [Grant(card, "gpu0")], host, gpus) if entry.fatal]
        if card.pci in held:
            console.note(f"a machine of the host's own Incus has card {card.pci} ({card.model})")
        elif obstacles:
            console.note(f"card {card.pci} ({card.model}) is left out: {obstacles[0].cause}")
        elif image is None:
            console.note(f"card {card.pci} ({card.model}) is left out: no image for it is in reach")
        else:
            machines = {**domain.machines, name: asking}
            return replace(infra, domains={**infra.domains, domain.name: replace(domain, machines=machines)}), card
    return infra, None


def _nvidia(root: Path, host: HostFiles) -> tuple[Card, ...]:
    information = read_information(root)
    module = host.driver.module
    cards = [Card(pci, NVIDIA, driver="nvidia" if module else "", driver_version=module) for pci in information]
    return tuple(sorted(completed(cards, information), key=lambda card: card.pci))


def _others(root: Path) -> tuple[Card, ...]:
    """Cards of other makers that have memory of their own: a processor's graphics may well be slower than itself."""
    cards = [card for card in cards_in_sysfs(root) if not card.is_nvidia]
    return tuple(card for card in cards if (read_memory(root, card)[0] or 0) >= _LEAST)


def _image_for(card: Card, machine: Machine, catalog: Catalog, in_reach: Callable[[str], bool]) -> ImageChoice | None:
    """The machine's image where it computes on the card, else one that provides the same; None where there is none."""
    maker, own = next(iter(makers([card]))), machine.image.store
    if own is None or maker in (catalog.gpus(own) or ()):
        return machine.image
    wanted = set(catalog.get(own).provides)
    for name in catalog.names():
        ways = (catalog.get(name).gpus or {}).get(maker, ())
        if _BY in ways and wanted <= set(catalog.get(name).provides) and in_reach(name):
            return ImageChoice(name, reason=f"it computes on {card.model}")
    return None
