"""What happens to simulated cards: one falls off its bus, one is another maker's."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from launcher.private_incus import fake_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def unplugged(root: Path, index: int) -> Iterator[None]:
    """A time in which one card is not there, as when it fell off its bus; its nodes in /dev stay."""
    card, stuff, aside = fake_gpu.FakeCard(index), root / fake_gpu._STUFF, root / fake_gpu._STUFF / f"unplugged-{index}"
    aside.mkdir()
    places = [stuff / "pci" / card.pci, stuff / "proc/nvidia/gpus" / card.pci]
    places += [stuff / "class/drm" / node for node in card.drm]
    for number, place in enumerate(places):
        place.rename(aside / f"{number}")
    try:
        yield
    finally:
        for number, place in enumerate(places):
            (aside / f"{number}").rename(place)
        aside.rmdir()


@contextlib.contextmanager
def made_by(root: Path, index: int, vendor: str, driver: str, **files: str) -> Iterator[None]:
    """A time in which a card is another maker's, by its number on the bus, as `driver` shows it in sysfs.

    `files` are those that this driver has beside, such as mem_info_vram_total; a `__` in their names is a folder's.
    """
    card, stuff = fake_gpu.FakeCard(index), root / fake_gpu._STUFF
    function, known = stuff / "pci" / card.pci, stuff / "proc/nvidia/gpus" / card.pci
    aside = stuff / f"aside-{index}"
    known.rename(aside)
    kept = {name: (function / name).read_text(encoding="utf-8") for name in ("vendor", "uevent")}
    (function / "vendor").write_text(f"0x{vendor}\n", encoding="utf-8")
    text = kept["uevent"].replace("nvidia", driver).replace(fake_gpu._VENDOR.upper(), vendor.upper())
    (function / "uevent").write_text(text, encoding="utf-8")
    fake_gpu._driven_by(function, stuff, driver)
    own = [function / name.replace("__", "/") for name in files]
    for file, content in zip(own, files.values(), strict=True):
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
    try:
        yield
    finally:
        for file in own:
            file.unlink()
        for name, content in kept.items():
            (function / name).write_text(content, encoding="utf-8")
        fake_gpu._driven_by(function, stuff, "nvidia")
        aside.rename(known)
