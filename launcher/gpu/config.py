"""The devices and config that give an instance its granted cards, and nothing of any other card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.gpu.grants import gpu_devices_of
from launcher.gpu.images import ways_on
from launcher.gpu.vendors import vendors_of
from launcher.gpu.vendors.nvidia_driver import way_of
from launcher.infra.merge import merged_devices

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.gpu.images import Gpus
    from launcher.gpu.vendors.nvidia_driver import Way
    from launcher.infra.model import Domain, Machine

__all__ = ["driver_way", "gpu_config"]

_NOTHING = {"type": "none"}  # hides a profile's device of the same name


def gpu_config(
    machine: Machine,
    domain: Domain,
    grants: Iterable[Grant],
    host: HostFiles | None = None,
    gpus: Gpus = None,
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Devices and config to lay over the machine's own.

    Each granted card is a gpu device by its PCI address; a device of the file that names none is replaced by name, or
    hidden where there are fewer cards than such devices. Containers get what the cards' makers want beside, by what
    `host` has and by how their image computes (`gpus`); a device of the file that has such a name stays.
    """
    grants = tuple(grants)
    if not grants:
        return {}, {}
    devices = {grant.device: grant.keys for grant in grants}
    for name in gpu_devices_of(machine, domain):
        devices.setdefault(name, dict(_NOTHING))
    config: dict[str, str] = {}
    if machine.type == "lxc":
        for vendor in vendors_of([grant.card for grant in grants]):
            mine = [grant for grant in grants if grant.card.vendor_id == vendor.pci_id]
            extras = vendor.extras(machine, domain, mine, host, ways_on(gpus, vendor))
            own = merged_devices(machine, domain)
            devices |= {name: dict(keys) for name, keys in extras.devices.items() if name not in own}
            config |= extras.config
    return devices, config


def driver_way(machine: Machine, domain: Domain, grants: Iterable[Grant], host: HostFiles | None) -> Way | None:
    """How a machine gets the driver of its cards; None for a VM, and for cards whose driver is in the kernel alone."""
    mine = [grant for grant in grants if grant.card.is_nvidia]
    return way_of(machine, domain, mine, host) if mine and machine.type == "lxc" else None
