"""AMD: ROCm computes by /dev/kfd, which all its cards share; Vulkan needs the render node alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.vendors.vendor import VIDEO, Diagnosis, Extras, Obstacle, Vendor, render_nodes
from launcher.infra.merge import merged_devices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.infra.model import Domain, Machine

__all__ = ["KFD", "VENDOR"]

KFD = "/dev/kfd"
_ROCM = "hip"  # what specs call it


def _extras(
    machine: Machine, domain: Domain, _grants: Sequence[Grant], host: HostFiles | None, ways: Sequence[str] | None
) -> Extras:
    """ROCm's node, where the image wants it; where nobody knows that, if the host has it."""
    wanted = _ROCM in ways if ways is not None else host is None or host.kfd
    devices = merged_devices(machine, domain)
    if not wanted or any(KFD in (device.get("source"), device.get("path")) for device in devices.values()):
        return Extras()
    name = next(name for name in ("kfd", "gpu-kfd") if name not in devices)
    return Extras(devices={name: {"type": "unix-char", "source": KFD, "path": KFD, **VIDEO}})


def _obstacles(
    machine: Machine, _domain: Domain, _grants: Sequence[Grant], host: HostFiles | None, ways: Sequence[str] | None
) -> Iterator[Obstacle]:
    if _ROCM in (ways or ()) and host is not None and not host.kfd:
        cause = f"the host has no {KFD}, by which ROCm computes"
        remedy = "load the amdgpu module: modprobe amdgpu; or name an image that computes by Vulkan, which needs none"
        yield Obstacle(machine.name, cause, remedy)


def _nodes(card: Card, ways: Sequence[str] | None) -> tuple[str, ...]:
    return (*render_nodes(card, ways), *[KFD] * (_ROCM in (ways or ())))


def _diagnose(_lines: Sequence[str]) -> Diagnosis:
    return Diagnosis(
        "engine-on-cpu",
        "nothing in the image finds a way to compute on this AMD card: it has no Vulkan driver and no ROCm that knows "
        "the card",
        "ls -l /dev/dri in the machine shows what it was given; a newer image may know the card",
    )


VENDOR = Vendor(
    "AMD",
    "1002",
    _diagnose,
    extras=_extras,
    obstacles=_obstacles,
    nodes=_nodes,
    shared_node=KFD,
    opened_by=VIDEO,
)
