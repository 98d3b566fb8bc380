"""The cards of a host by its own sysfs, for who has no Incus to ask: those that their driver gives a render node.

/sys/bus/pci/devices/<address>/{vendor,device,drm/}: Documentation/ABI/testing/sysfs-bus-pci of the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.incus.values import pci_address
from launcher.gpu.cards import Card
from launcher.gpu.vendors import VENDORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["cards_in_sysfs"]

_CARD, _RENDER = "card", "renderD"


def cards_in_sysfs(root: Path) -> tuple[Card, ...]:
    """The cards of makers that there is code for, by address; `root` is the host's root folder."""
    return tuple(sorted(_cards(root), key=lambda card: card.pci))


def _cards(root: Path) -> Iterator[Card]:
    makers = {vendor.pci_id: vendor.name for vendor in VENDORS}
    for device in (root / "sys/bus/pci/devices").glob("*"):
        address, vendor = pci_address(device.name), _text(device / "vendor").removeprefix("0x")
        nodes = [node for node in sorted((device / "drm").glob("*")) if node.name.startswith((_CARD, _RENDER))]
        names = tuple(node.name for node in nodes)
        if address is None or vendor not in makers or not any(name.startswith(_RENDER) for name in names):
            continue
        product = _text(device / "device").removeprefix("0x")
        yield Card(
            address,
            vendor,
            product,
            makers[vendor],
            f"{vendor}:{product}",  # names of products are in lists that a host need not have
            driver=(device / "driver").readlink().name if (device / "driver").is_symlink() else "",
            drm_id=next((name.removeprefix(_CARD) for name in names if name.startswith(_CARD)), None),
            drm=names,
            numbers=tuple(filter(None, (_text(node / "dev") for node in nodes))),
        )


def _text(file: Path) -> str:
    """What a file of sysfs says, such as `0x1002`; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8").strip().lower()
    except OSError:
        return ""
