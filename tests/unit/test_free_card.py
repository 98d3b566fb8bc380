"""The quickstart's card: a free one, with a driver that works. Trees of stub libraries stand in for a host."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.infra.model import GpuSelector, ImageChoice
from launcher.trial.free_card import with_free_card
from tests.unit.gpu_host import infra, machine
from tests.unit.test_gpu_driver import NEW, NVRM, appliance, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from launcher.gpu.cards import Card
    from launcher.infra.model import Infra

FIRST, SECOND = "0000:01:00.0", "0000:02:00.0"
THIRD, FOURTH = "0000:03:00.0", "0000:04:00.0"
CATALOG = Catalog.load([builtin_specs()])
LLM = replace(machine("llm", gpu=False), image=ImageChoice("llama-server"))
FILE = infra(LLM, machine("webui", gpu=False))


def host(root: Path, *cards: str, version: str = NEW) -> None:
    """A host with these cards, a driver of this version, and the node of its memory."""
    appliance(root)
    write(root, "/proc/driver/nvidia/version", NVRM.format(version))
    write(root, "/dev/nvidia-uvm")
    for number, pci in enumerate(cards):
        text = (
            f"Model: \t\t NVIDIA H100\nGPU UUID: \t GPU-{number}\nBus Location: \t {pci}\nDevice Minor: \t {number}\n"
        )
        write(root, f"/proc/driver/nvidia/gpus/{pci}/information", text)


def holder(pci: str) -> dict[str, Any]:
    device = {"type": "gpu", "gputype": "physical", "pci": pci}
    return {
        "name": "other",
        "project": "default",
        "status": "Running",
        "type": "container",
        "expanded_devices": {"gpu": device},
        "expanded_config": {},
    }


def sysfs(root: Path, pci: str, vendor: str, memory: int, **files: str) -> None:
    """A card as amdgpu shows it, or with other files."""
    place = f"/sys/bus/pci/devices/{pci}"
    for name, text in {"vendor": f"0x{vendor}\n", "device": "0x744c\n", **files}.items():
        write(root, f"{place}/{name}", text)
    for node, number in (("card1", "226:1"), ("renderD129", "226:129")):
        write(root, f"{place}/drm/{node}/dev", f"{number}\n")
    (root / place[1:] / "driver").symlink_to("../../../bus/pci/drivers/amdgpu")
    if memory:
        write(root, f"{place}/mem_info_vram_total", f"{memory}\n")


def chosen(
    root: Path,
    neighbours: Callable[[], Iterable[dict[str, Any]]] = list,
    in_reach: Callable[[str], bool] = lambda _image: True,
) -> tuple[Infra, Card | None]:
    return with_free_card(FILE, "llm", root, neighbours, Console(), CATALOG, in_reach)


@pytest.mark.parametrize(("held", "free"), [((), FIRST), ((FIRST,), SECOND), ((FIRST, SECOND), None)])
def test_the_first_card_that_nobody_has(tmp_path: Path, held: tuple[str, ...], free: str | None) -> None:
    host(tmp_path, SECOND, FIRST)
    file, card = chosen(tmp_path, lambda: map(holder, held))
    assert (card and card.pci) == free
    llm, webui = file.machines()
    assert llm.gpu_devices == ((GpuSelector(pci=free),) if free else ())
    assert (llm.gpu, webui.gpu) == (free is not None, False)
    assert llm.image.store == "llama-server"


def test_a_card_whose_driver_does_not_do_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host(tmp_path, FIRST, version="525.147.05")
    assert chosen(tmp_path) == (FILE, None)
    assert f"card {FIRST} (NVIDIA H100) is left out" in capsys.readouterr().err


def test_without_a_card_nobody_is_asked(tmp_path: Path) -> None:
    assert chosen(tmp_path, lambda: pytest.fail("asked")) == (FILE, None)


# Other makers' cards, of which only device files are needed


def test_a_card_of_amd_comes_with_an_image_that_computes_on_it(tmp_path: Path) -> None:
    sysfs(tmp_path, SECOND, "1002", 16 << 30)
    file, card = chosen(tmp_path)
    assert card is not None
    assert (card.pci, card.model, card.driver, card.drm_id) == (SECOND, "AMD 1002:744c", "amdgpu", "1")
    assert (card.drm, card.numbers) == (("card1", "renderD129"), ("226:1", "226:129"))
    llm, webui = file.machines()
    assert (llm.gpu_devices, llm.image.store) == ((GpuSelector(pci=SECOND),), "llama-server-mesa")
    assert webui.gpu is False
    assert chosen(tmp_path, lambda: [holder(SECOND)]) == (FILE, None)


def test_a_card_of_amd_for_rocm_needs_its_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sysfs(tmp_path, SECOND, "1002", 16 << 30)
    file = infra(replace(LLM, image=ImageChoice("llama-server-hip")))

    def found() -> Card | None:
        return with_free_card(file, "llm", tmp_path, list, Console(), CATALOG, lambda _image: True)[1]

    assert found() is None
    assert "/dev/kfd" in capsys.readouterr().err
    write(tmp_path, "/dev/kfd")
    assert getattr(found(), "pci", None) == SECOND


def test_a_card_of_intel_by_the_memory_of_its_tiles(tmp_path: Path) -> None:
    sysfs(tmp_path, SECOND, "8086", 0, **{"tile0/physical_vram_size_bytes": f"{8 << 30}\n"})
    file, card = chosen(tmp_path)
    assert (card and card.pci) == SECOND
    assert next(file.machines()).image.store == "llama-server-mesa"


def test_nvidias_cards_come_first_and_keep_the_image(tmp_path: Path) -> None:
    host(tmp_path, SECOND)
    sysfs(tmp_path, FIRST, "1002", 16 << 30)
    file, card = chosen(tmp_path)
    assert (card and card.pci, next(file.machines()).image.store) == (SECOND, "llama-server")


def test_a_processors_graphics_and_other_devices_are_no_cards_to_take(tmp_path: Path) -> None:
    sysfs(tmp_path, FIRST, "8086", 0)
    sysfs(tmp_path, SECOND, "1002", 512 << 20)
    sysfs(tmp_path, THIRD, "1a03", 16 << 30)
    write(tmp_path, f"/sys/bus/pci/devices/{FOURTH}/vendor", "0x1002\n")  # a bridge of AMD's
    assert chosen(tmp_path, lambda: pytest.fail("asked")) == (FILE, None)


def test_without_an_image_in_reach_a_card_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sysfs(tmp_path, FIRST, "1002", 16 << 30)
    assert chosen(tmp_path, in_reach=lambda image: image == "llama-server") == (FILE, None)
    assert f"card {FIRST} (AMD 1002:744c) is left out" in capsys.readouterr().err
