"""A file without the cards that it asks for, for who tries it on the CPU; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.infra.model import Infra, Machine, Profile

__all__ = ["without_cards"]

Holder = TypeVar("Holder", "Machine", "Profile")


def without_cards(infra: Infra) -> Infra:
    """The file as if no machine wanted a GPU: neither by `gpu` nor by `gpu_devices` nor by devices of type gpu.

    What goes by other ways, as nodes in `raw.lxc` do, stays as it is written.
    """
    domains = {
        name: replace(
            domain,
            profiles={key: _without_devices(profile) for key, profile in domain.profiles.items()},
            machines={key: _without_card(machine) for key, machine in domain.machines.items()},
        )
        for name, domain in infra.domains.items()
    }
    return replace(infra, domains=domains)


def _without_card(machine: Machine) -> Machine:
    bare = replace(machine, gpu=False, gpu_devices=(), gpu_memory=None, gpu_driver="auto")
    return _without_devices(bare)


def _without_devices(holder: Holder) -> Holder:
    return replace(holder, devices=_others(holder.devices))


def _others(devices: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    return {name: device for name, device in devices.items() if device.get("type") != "gpu"}
