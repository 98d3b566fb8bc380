"""The memory of cards and their version of CUDA: by nvidia-smi, of which this has a stand-in, and by trees of sysfs."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from launcher.gpu import host as gpu_host
from launcher.gpu.cards import cards_of
from launcher.gpu.host import read_figures, sysfs_figures, with_cuda
from launcher.gpu.nvidia_smi import ask_cuda
from launcher.gpu.policy import decide
from launcher.private_incus import fake_gpu
from tests.unit.gpu_host import address, amd, host, infra, intel, machine, nvidia, place
from tests.unit.test_gpu_driver import write

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = address(0), address(1)
GIB = 1 << 30
INCUS: Any = SimpleNamespace(address="/run/incus/unix.socket", server=SimpleNamespace(name="one"))
REMOTE: Any = SimpleNamespace(address="https://10.0.0.1:8443", server=SimpleNamespace(name="one"))
LOCAL_MEMORY = {"mem_info_vram_total": f"{16 * GIB}\n", "mem_info_vram_used": f"{GIB}\n"}
TILES = {"tile0/physical_vram_size_bytes": f"{4 * GIB}\n", "tile1/physical_vram_size_bytes": f"{4 * GIB}\n"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root folder of the daemon's host, with an nvidia-smi in the path that sees two cards."""
    program = tmp_path / "bin/nvidia-smi"
    write(tmp_path, "/bin/nvidia-smi", fake_gpu.nvidia_smi(2, fake_gpu.DRIVER, dev=f"{tmp_path}/dev"))
    program.chmod(0o755)
    for card in fake_gpu.cards(2):
        write(tmp_path, f"/dev/nvidia{card.index}")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(gpu_host, "daemon_root", lambda _address: tmp_path)
    return tmp_path


def sysfs(root: Path, pci: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        write(root, f"/sys/bus/pci/devices/{pci}/{name}", text)


def untold(index: int) -> dict[str, Any]:
    """A card of which Incus has no version of CUDA, as where NVIDIA's container tool is not there."""
    return nvidia(index, nvidia={**nvidia(index)["nvidia"], "cuda_version": ""})


@pytest.mark.usefixtures("root")
def test_version_of_cuda_is_asked_for() -> None:
    assert ask_cuda() == fake_gpu.CUDA


def test_without_the_tool_there_is_no_version(root: Path) -> None:
    (root / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert ask_cuda() == ""
    assert read_figures(INCUS, host(nvidia(0))) == ({}, {})


@pytest.mark.usefixtures("root")
def test_cuda_is_told_where_incus_does_not_tell_it() -> None:
    cards = host(untold(0), nvidia(1, nvidia={**nvidia(1)["nvidia"], "cuda_version": "11.8"}))
    figures, parts = read_figures(INCUS, cards)
    assert (set(figures), parts) == ({FIRST, SECOND}, {})
    assert figures[FIRST].memory_total == 24564 << 20
    assert [card.nvidia and card.nvidia.cuda_version for card in with_cuda(cards, figures)] == [fake_gpu.CUDA, "11.8"]
    assert with_cuda(cards, {}) == cards


@pytest.mark.usefixtures("root")
def test_cuda_is_not_asked_for_where_incus_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_host, "ask_cuda", lambda: pytest.fail("asked"))
    figures, _ = read_figures(INCUS, host(nvidia(0), nvidia(1)))
    assert {entry.cuda_version for entry in figures.values()} == {""}


def test_each_maker_tells_its_memory_in_its_way(root: Path) -> None:
    sysfs(root, address(2), LOCAL_MEMORY)
    sysfs(root, address(3), TILES)
    cards = host(nvidia(0), amd(2), intel(3))
    figures, _ = read_figures(INCUS, cards)
    assert {pci: (entry.memory_total, entry.memory_used) for pci, entry in figures.items()} == {
        FIRST: (24564 << 20, 1 << 20),
        address(2): (16 * GIB, GIB),
        address(3): (8 * GIB, None),
    }
    assert set(sysfs_figures(INCUS, cards)) == {address(2), address(3)}


def test_of_another_hosts_cards_nothing_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs(root, FIRST, LOCAL_MEMORY)
    elsewhere = cards_of({"gpu": {"cards": [amd(0), nvidia(1)]}}, "two")
    assert read_figures(INCUS, elsewhere) == ({}, {})
    monkeypatch.setattr(gpu_host, "daemon_root", lambda _address: None)
    assert read_figures(REMOTE, host(amd(0), nvidia(1))) == ({}, {})
    assert sysfs_figures(REMOTE, host(amd(0))) == {}


@pytest.mark.parametrize(
    ("entry", "files", "gibibytes"),
    [(nvidia(0), {}, 24), (amd(0), LOCAL_MEMORY, 16), (intel(0), TILES, 8)],
    ids=["nvidia", "amd", "intel"],
)
def test_more_than_a_card_has_is_refused(
    root: Path, entry: dict[str, Any], files: dict[str, str], gibibytes: int
) -> None:
    """By what the card's maker tells of it: nvidia-smi, or sysfs."""
    sysfs(root, FIRST, files)
    cards = host(entry)
    figures, mig = read_figures(INCUS, cards)
    sizes = {pci: found.memory_total for pci, found in figures.items() if found.memory_total is not None}

    def codes(size: int) -> list[str]:
        file = infra(machine("a", pci=FIRST, gpu_memory=size))
        decision = decide(file, cards, [], place, memory=sizes, mig=mig)
        assert decision.warnings == ()
        return [refusal.code for refusal in decision.refusals]

    assert codes((gibibytes - 1) * GIB) == []
    assert codes((gibibytes + 1) * GIB) == ["gpu-memory"]
