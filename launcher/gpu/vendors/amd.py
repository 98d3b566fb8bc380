"""AMD: ROCm computes by /dev/kfd, which all its cards share; Vulkan needs the render node alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.vendors.vendor import VIDEO, Diagnosis, Extras, Obstacle, Vendor
from launcher.infra.merge import merged_devices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.infra.model import Domain, Machine

__all__ = ["KFD", "VENDOR"]

KFD = "/dev/kfd"


def _extras(machine: Machine, domain: Domain, _grants: Sequence[Grant], _host: HostFiles | None) -> Extras:
    devices = merged_devices(machine, domain)
    if any(KFD in (device.get("source"), device.get("path")) for device in devices.values()):
        return Extras()
    name = next(name for name in ("kfd", "gpu-kfd") if name not in devices)
    return Extras(devices={name: {"type": "unix-char", "source": KFD, "path": KFD, **VIDEO}})


def _obstacles(
    machine: Machine, _domain: Domain, _grants: Sequence[Grant], host: HostFiles | None
) -> Iterator[Obstacle]:
    if host is not None and not host.kfd:
        cause = f"the host has no {KFD}, by which ROCm computes"
        yield Obstacle(machine.name, cause, "load the amdgpu module: modprobe amdgpu")


def _diagnose(_lines: Sequence[str]) -> Diagnosis:
    return Diagnosis(
        "engine-on-cpu",
        "the engine has no way to compute on this AMD card: the image brings neither ROCm nor a Vulkan driver for it, "
        "or ROCm does not know the card",
        "use an image whose engine has one of them; ls /dev/kfd /dev/dri in the machine shows what it was given",
    )


VENDOR = Vendor("AMD", "1002", _diagnose, extras=_extras, obstacles=_obstacles, shared_node=KFD, opened_by=VIDEO)
