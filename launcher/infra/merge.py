"""What a machine has by its profiles and by itself, as Incus merges them.

The profiles that the machine names are laid over each other in that order, and the machine over all: `config` key by
key, `devices` one whole device for another of its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from launcher.infra.model import Domain, Machine, Profile

__all__ = ["layers", "merged", "merged_config", "merged_devices", "named"]

Part = TypeVar("Part")
Value = TypeVar("Value")


def named(names: Iterable[str], profiles: Mapping[str, Part]) -> list[Part]:
    """The profiles of a machine that are the domain's own, in its order; others are Incus' own."""
    return [profiles[name] for name in names if name in profiles]


def layers(machine: Machine, domain: Domain) -> list[Profile | Machine]:
    """What gives a machine config and devices, the weakest first."""
    return [*named(machine.profiles, domain.profiles), machine]


def merged(parts: Iterable[Mapping[str, Value]]) -> dict[str, Value]:
    """One mapping of several: a later one's key beats an earlier one's, and stands where the earlier one's stood."""
    result: dict[str, Value] = {}
    for part in parts:
        result |= part
    return result


def merged_config(machine: Machine, domain: Domain) -> dict[str, str]:
    """Incus' configuration of a machine, as the file has it."""
    return merged(layer.config for layer in layers(machine, domain))


def merged_devices(machine: Machine, domain: Domain) -> dict[str, Mapping[str, str]]:
    """The devices of a machine, as the file has them."""
    return merged(layer.devices for layer in layers(machine, domain))
