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
        "the engine has no way to compute on this Intel card: the image brings no Vulkan driver for it",
        "use an image whose engine has one; ls /dev/dri in the machine shows what it was given",
    )


VENDOR = Vendor("Intel", "8086", _diagnose, opened_by=VIDEO)
