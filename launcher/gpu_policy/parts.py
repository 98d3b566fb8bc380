"""How a card is held: as a whole, or one of the parts that its hardware keeps apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DIVIDED", "SELECTORS", "Mode", "collide", "mig_part", "mig_uuid", "mode_of", "part_keys"]

Mode = Literal["physical", "mig", "sriov", "mdev", "node", "pci", "raw"]
SELECTORS = ("pci", "id", "vendorid", "productid")  # keys of a gpu device that select cards
DIVIDED: tuple[Mode, ...] = ("mig", "sriov", "mdev")
_IN_PARTS: tuple[Mode, ...] = (*DIVIDED, "pci")


def collide(first: tuple[Mode, str | None], second: tuple[Mode, str | None]) -> bool:
    """Whether two holds (mode and part, None for the whole) of one card are in each other's way.

    Different parts that the hardware keeps apart are not. A MIG device named by UUID and one named by its numbers may
    be the same.
    """
    return not part_keys(*first)[0].isdisjoint(part_keys(*second)[1])


def part_keys(mode: Mode, part: str | None) -> tuple[frozenset[object], frozenset[object]]:
    """Under which keys a hold is found, and under which keys it finds those in its way."""
    if part is None:
        return frozenset({"all", "whole"}), frozenset({"all"})
    numbers = mode == "mig" and "/" in part
    keys = frozenset({"all", mode, (mode, numbers), (mode, numbers, part)})
    others = {other for other in _IN_PARTS if other != mode}
    return keys, frozenset({"whole", *others, (mode, not numbers), (mode, numbers, part)})


def mode_of(device: Mapping[str, str]) -> Mode:
    """How a gpu device gives its card; Incus 6.0 takes a gputype that it does not know for physical."""
    for mode in DIVIDED:
        if device.get("gputype") == mode:
            return mode
    return "physical"


def mig_part(device: Mapping[str, str]) -> str:
    """The name of a gpu device's MIG device on its card: a UUID, or `<gpu instance>/<compute instance>`."""
    if not (uuid := mig_uuid(device.get("mig.uuid", ""))):
        return f"{device.get('mig.gi', '')}/{device.get('mig.ci', '')}"
    return uuid.partition("/")[2] or uuid  # drivers before R470 say GPU-<uuid of the card>/<gi>/<ci>


def mig_uuid(text: str) -> str:
    """A MIG device's UUID in one form: Incus takes it with and without `MIG-`."""
    return text.removeprefix("MIG-").lower()
