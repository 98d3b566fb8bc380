"""The memory of cards whose drivers tell it in sysfs, and models that are larger than it.

AMD: mem_info_vram_total and mem_info_vram_used (Documentation/gpu/amdgpu/driver-misc.rst of the kernel). Intel: each
tile's physical_vram_size_bytes (drivers/gpu/drm/xe/xe_tile_sysfs.c), or lmem_total_bytes of i915 with local memory;
not every version of these drivers has them, and none says how much is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.console import human_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.infra.models import MachineModels

__all__ = ["read_memory", "too_large"]


def read_memory(root: Path, card: Card) -> tuple[int | None, int | None]:
    """All of a card's memory and what is used of it, in bytes; None where its driver does not say."""
    device = root / "sys/bus/pci/devices" / card.pci
    total = _sum((device / "mem_info_vram_total",))
    if total is not None:
        return total, _sum((device / "mem_info_vram_used",))
    tiles = _sum(sorted(device.glob("tile*/physical_vram_size_bytes")))
    return (tiles if tiles is not None else _sum((device / "drm").glob("card*/lmem_total_bytes"))), None


def too_large(
    grants: Mapping[str, Sequence[Grant]], models: Mapping[str, MachineModels], sizes: Mapping[str, int]
) -> list[str]:
    """Models that have more bytes than the cards of their machine, where these are known; both are by machine.

    A part of a card is not judged: how much memory it has is for the card to say.
    """
    notices = []
    for machine, own in grants.items():
        known = [sizes[grant.card.pci] for grant in own if grant.mode == "physical" and grant.card.pci in sizes]
        if len(known) != len(own) or machine not in models:
            continue
        room = sum(known)
        notices += [
            f"{machine}: {model.name} has {human_size(model.size)}, and its card {human_size(room)}: what does not fit "
            "is computed by the CPU, slowly"
            for model in models[machine].models
            if model.size > room
        ]
    return notices


def _sum(files: Iterable[Path]) -> int | None:
    """The numbers in these files together; None where there is none, and for 0: a processor's own graphics."""
    sizes = []
    for file in files:
        try:
            sizes.append(int(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
    return sum(sizes) or None
