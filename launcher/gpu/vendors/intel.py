"""Intel: a card's render node is all that Vulkan and Level Zero need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.vendors.vendor import VIDEO, Diagnosis, Vendor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["VENDOR"]


def _diagnose(_lines: Sequence[str]) -> Diagnosis:
    return Diagnosis(
        "engine-on-cpu",
        "nothing in the image finds a way to compute on this Intel card: it has no Vulkan driver that knows the card",
        "ls -l /dev/dri in the machine shows what it was given; a newer image may know the card",
    )


VENDOR = Vendor("Intel", "8086", _diagnose, opened_by=VIDEO)
