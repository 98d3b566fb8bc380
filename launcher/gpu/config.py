"""The devices and config that give an instance its granted cards, and nothing of any other card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.incus.values import is_true
from launcher.gpu.grants import gpu_devices_of
from launcher.gpu.nodes import KFD
from launcher.infra.merge import merged_config, merged_devices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.gpu.grants import Grant
    from launcher.infra.model import Domain, Machine

__all__ = ["CAPABILITIES", "RUNTIME", "gpu_config", "wants_runtime"]

RUNTIME = "nvidia.runtime"
CAPABILITIES = "nvidia.driver.capabilities"
_COMPUTE = "compute,utility"  # CUDA, and nvidia-smi
_NOTHING = {"type": "none"}  # hides a profile's device of the same name


def gpu_config(
    machine: Machine, domain: Domain, grants: Iterable[Grant]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Devices and config to lay over the machine's own.

    Each granted card is a gpu device by its PCI address; a device of the file that names none is replaced by name, or
    hidden where there are fewer cards than such devices. NVIDIA containers get the NVIDIA runtime unless the file
    says `nvidia.runtime`, AMD ones /dev/kfd.
    """
    grants = tuple(grants)
    if not grants:
        return {}, {}
    devices = {grant.device: grant.keys for grant in grants}
    for name in gpu_devices_of(machine, domain):
        devices.setdefault(name, dict(_NOTHING))
    config: dict[str, str] = {}
    if machine.type == "lxc":
        if any(grant.card.is_amd for grant in grants) and not _has_kfd(machine, domain):
            name = next(name for name in ("kfd", "gpu-kfd") if name not in merged_devices(machine, domain))
            devices[name] = {"type": "unix-char", "source": KFD, "path": KFD}
        if any(grant.card.is_nvidia for grant in grants):
            config = _runtime(machine, domain)
    return devices, config


def wants_runtime(machine: Machine, domain: Domain) -> bool:
    """Whether the file leaves the NVIDIA runtime on: `nvidia.runtime: "false"` in config switches it off."""
    return is_true(merged_config(machine, domain).get(RUNTIME, "true"))


def _runtime(machine: Machine, domain: Domain) -> dict[str, str]:
    said = merged_config(machine, domain)
    if not wants_runtime(machine, domain):
        return {}
    return {key: value for key, value in ((RUNTIME, "true"), (CAPABILITIES, _COMPUTE)) if key not in said}


def _has_kfd(machine: Machine, domain: Domain) -> bool:
    return any(KFD in (device.get("source"), device.get("path")) for device in merged_devices(machine, domain).values())
