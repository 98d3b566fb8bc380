"""The quickstart's card: a free one, with a driver that works. Trees of stub libraries stand in for a host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from launcher.infra.model import GpuSelector
from launcher.trial.free_card import with_free_card
from tests.unit.gpu_host import infra, machine
from tests.unit.test_gpu_driver import NEW, NVRM, appliance, write

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = "0000:01:00.0", "0000:02:00.0"
FILE = infra(machine("llm", gpu=False), machine("webui", gpu=False))


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


@pytest.mark.parametrize(("held", "free"), [((), FIRST), ((FIRST,), SECOND), ((FIRST, SECOND), None)])
def test_the_first_card_that_nobody_has(tmp_path: Path, held: tuple[str, ...], free: str | None) -> None:
    host(tmp_path, SECOND, FIRST)
    file, card = with_free_card(FILE, "llm", tmp_path, lambda: map(holder, held), Console())
    assert (card and card.pci) == free
    llm, webui = file.machines()
    assert llm.gpu_devices == ((GpuSelector(pci=free),) if free else ())
    assert (llm.gpu, webui.gpu) == (free is not None, False)


def test_a_card_whose_driver_does_not_do_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host(tmp_path, FIRST, version="525.147.05")
    assert with_free_card(FILE, "llm", tmp_path, list, Console()) == (FILE, None)
    assert f"card {FIRST} (NVIDIA H100) is left out" in capsys.readouterr().err


def test_without_a_card_nobody_is_asked(tmp_path: Path) -> None:
    assert with_free_card(FILE, "llm", tmp_path, lambda: pytest.fail("asked"), Console()) == (FILE, None)
