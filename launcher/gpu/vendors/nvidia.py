"""NVIDIA: what it numbers its cards by, what its driver says of troubles; how that gets in is `nvidia_driver`'s."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.gpu.cards import NVIDIA
from launcher.gpu.vendors.nvidia_driver import extras, obstacles
from launcher.gpu.vendors.vendor import Diagnosis, Vendor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.gpu.cards import Card

__all__ = ["LOST", "VENDOR", "is_lost"]

# 999 is CUDA's cudaErrorUnknown. After a suspend every program gets it until the module is loaded anew.
_SUSPENDED = re.compile(
    r"failed to initialize CUDA: unknown error|CUDA error(?: 999)?: unknown error"
    r"|cuda\w* driver[^:]*(?:: |failure: |context )999",
    re.IGNORECASE,
)
# The engine has no machine code for the card, and the driver does not know what it is to compile (cudaError 222).
_TOO_NEW = re.compile(r"provided PTX was compiled with an unsupported toolchain", re.IGNORECASE)
# What nvidia-smi and the driver say of a card that no longer answers (Xid 79 in the kernel's log).
_LOST = re.compile(
    r"GPU is lost|fallen off the bus|unable to determine the device handle for GPU|RmInitAdapter failed", re.IGNORECASE
)


LOST = Diagnosis(
    "gpu-lost",
    "the card has left the PCI bus: it got too hot or too little power, or its driver failed",
    "read the kernel's log on the host (dmesg, lines with NVRM and Xid), then restart the host; if it comes again, "
    "look at the card's power supply, its slot and its firmware",
)


def is_lost(text: str) -> bool:
    """Whether nvidia-smi or a driver speaks of a card that no longer answers."""
    return _LOST.search(text) is not None


def _diagnose(lines: Sequence[str]) -> Diagnosis:
    if any(is_lost(line) for line in lines):
        return LOST
    if any(_SUSPENDED.search(line) for line in lines):
        return Diagnosis(
            "gpu-after-suspend",
            "the host was suspended, and the driver's module nvidia_uvm gives programs no memory since: nvidia-smi "
            "works, CUDA does not",
            "stop what uses the card, then on the host: modprobe -r nvidia_uvm && modprobe nvidia_uvm; then start the "
            "machine again",
        )
    if any(_TOO_NEW.search(line) for line in lines):
        return Diagnosis(
            "cuda-newer-than-driver",
            "the image's CUDA is newer than the host's driver, which cannot compile its programs for this card",
            "update the host's driver (CUDA 12.4 takes 550 or newer) and restart the host; or take an image that "
            "computes by Vulkan",
        )
    if any("ggml_vulkan" in line for line in lines):
        return Diagnosis(
            "engine-on-cpu",
            "the card is there, but the driver's part for Vulkan does not work with it",
            "see that all libraries of the host's driver are of one version, then restart the machine; with "
            "VK_LOADER_DEBUG=all in the service's environment its journal tells what Vulkan tries",
        )
    return Diagnosis(
        "engine-on-cpu",
        "the card is there, but the runner cannot use it: mostly a driver older than the runner's CUDA",
        "update the host's driver, then restart the machine",
    )


def _minor(card: Card, place: int) -> str:
    """NVIDIA's tool tells Incus which card has which minor; without it they count in the order of their addresses."""
    known = card.nvidia.node.removeprefix("nvidia") if card.nvidia is not None else ""
    return known or str(place)


def _visible(cards: Sequence[Card], value: str) -> tuple[Card, ...]:
    """What NVIDIA's hook is told to show: `all`, `none`, `void`, or indexes and UUIDs; anything else counts as all."""
    words = [word.strip() for word in value.split(",") if word.strip()]
    if not words or words[0] in ("none", "void"):
        return ()
    visible: list[Card] = []
    for word in words:
        matching = [
            card
            for place, card in enumerate(cards)
            if word == str(place) or (card.nvidia is not None and word.lower() == card.nvidia.uuid.lower())
        ]
        if not matching:
            return tuple(cards)
        visible += matching
    return tuple(visible)


VENDOR = Vendor(
    "NVIDIA",
    NVIDIA,
    _diagnose,
    extras=extras,
    obstacles=obstacles,
    major="195",  # NVIDIA's own number
    node=re.compile(r"/dev/nvidia(\d+)", re.ASCII),
    minor=_minor,
    selected_by={"NVIDIA_VISIBLE_DEVICES": _visible},
)
