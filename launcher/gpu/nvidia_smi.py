"""What NVIDIA's own tool says of the cards of this very host: memory, and MIG devices, which Incus does not tell."""

from __future__ import annotations

import csv
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.incus.values import pci_address

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.gpu.cards import Card

__all__ = [
    "PROCESSES",
    "Figures",
    "ask",
    "ask_cuda",
    "ask_processes",
    "matching",
    "nvidia_smi",
    "parse_cuda",
    "parse_mig",
    "parse_processes",
]

PROCESSES = ("--query-compute-apps=pid,used_memory", "--format=csv,noheader")
"""The tool's arguments for the processes that compute."""

_FIELDS = "pci.bus_id,uuid,name,memory.total,memory.used,driver_version"
_SECONDS = 20.0  # a card that nobody uses takes some to wake up
_MEBIBYTE = 1 << 20
_CARD_LINE = re.compile(r"GPU \d+: .*\(UUID: (GPU-[^)]+)\)")
_CUDA_LINE = re.compile(r"^CUDA Version\s*:\s*(\d+\.\d+)", re.MULTILINE)
_MIG_LINE = re.compile(r"\s+MIG .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Figures:
    """One card; memory in bytes, None where the tool does not know. `cuda_version` is the newest that it can."""

    pci: str
    uuid: str
    name: str
    memory_total: int | None
    memory_used: int | None
    driver_version: str
    cuda_version: str = ""


def nvidia_smi(text: str) -> tuple[Figures, ...]:
    """Read what `nvidia-smi --query-gpu=… --format=csv` printed; lines that are no card are passed over."""
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    figures = []
    for line in lines:
        pci = pci_address(line[0]) if len(line) == 6 else None
        if pci is not None:
            figures.append(Figures(pci, line[1], line[2], _bytes(line[3]), _bytes(line[4]), line[5]))
    return tuple(figures)


def _bytes(cell: str) -> int | None:
    number, _, unit = cell.strip().partition(" ")
    if unit != "MiB" or not (number.isascii() and number.isdecimal()):
        return None  # `[N/A]`, `[Insufficient Permissions]`
    return int(number) * _MEBIBYTE


def parse_mig(text: str) -> dict[str, str]:
    """Read what `nvidia-smi -L` printed: the UUIDs of MIG devices, each with that of its card."""
    card, cards = "", {}
    for line in text.splitlines():
        if match := _CARD_LINE.match(line):
            card = match[1]
        elif match := _MIG_LINE.match(line):
            cards[match[1]] = card
    return cards


def parse_cuda(text: str) -> str:
    """The version of CUDA that `nvidia-smi -q` names, empty where it names none."""
    match = _CUDA_LINE.search(text)
    return match[1] if match else ""


def parse_processes(text: str) -> dict[int, int]:
    """Bytes of cards' memory by process; of one whose memory it does not know, nothing."""
    found: dict[int, int] = {}
    for line in csv.reader(text.splitlines(), skipinitialspace=True):
        held = _bytes(line[1]) if len(line) == 2 and line[0].isdecimal() else None
        if held is not None:
            found[int(line[0])] = found.get(int(line[0]), 0) + held
    return found


def matching(figures: Iterable[Figures], cards: Iterable[Card]) -> dict[str, Figures]:
    """The figures of these cards by PCI address; those of another host's cards at the same address are left out.

    A card whose UUID nobody has told so far is known by its address.
    """
    uuids = {card.pci: card.nvidia.uuid for card in cards if card.nvidia is not None}
    return {entry.pci: entry for entry in figures if uuids.get(entry.pci) in (entry.uuid, "")}


def ask() -> tuple[tuple[Figures, ...], dict[str, str]]:
    """Ask the tool for cards and MIG devices; nothing where it is missing or fails."""
    cards = _run(f"--query-gpu={_FIELDS}", "--format=csv")
    return nvidia_smi(cards), parse_mig(_run("-L")) if cards else {}


def ask_cuda() -> str:
    """Ask the tool for the driver's version of CUDA; empty where it is missing or fails."""
    return parse_cuda(_run("-q", "-d", "COMPUTE"))


def ask_processes() -> dict[int, int]:
    """Ask the tool for the processes that compute, as `parse_processes` has them; none where it is missing or fails."""
    return parse_processes(_run(*PROCESSES))


def _run(*arguments: str) -> str:
    try:
        result = subprocess.run(
            ["nvidia-smi", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            encoding="utf-8",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout if result.returncode == 0 else ""
