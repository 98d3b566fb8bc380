"""The resource policy: the host's CPUs and memory divided over the machines that set no limits of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.console import human_size
from anklume_images.errors import AnklumeError
from anklume_images.incus.values import bytes_of
from launcher.infra.merge import layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.infra.model import Infra, Machine, ResourcePolicy

__all__ = ["Capacity", "Limits", "capacity_of", "limits_of"]

_SMALLEST_MEMORY = 64 << 20
_CPU_KEYS = ("limits.cpu", "limits.cpu.allowance")
_MEMORY_KEYS = ("limits.memory",)


@dataclass(frozen=True)
class Capacity:
    """What a host has: CPUs (threads), and memory in bytes."""

    cpus: int
    memory: int


@dataclass(frozen=True)
class Limits:
    """Config per machine, and what a person should know about it."""

    config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


def capacity_of(resources: Mapping[str, Any]) -> Capacity:
    """The capacity that `/1.0/resources` tells of."""
    return Capacity(int(resources["cpu"]["total"]), int(resources["memory"]["total"]))


def limits_of(infra: Infra, capacity: Capacity) -> Limits:
    """Divide what the reserve leaves over the machines, by weight or equally; an AnklumeError when too much is asked.

    What machines ask for themselves is taken off first. Allowance is CPU time in percent of the whole host, which the
    kernel grants beyond that while nobody else wants it; count is a number of CPUs.
    """
    policy = infra.settings.resource_policy
    if policy is None:
        return Limits()
    machines = list(infra.machines())
    cpus = capacity.cpus - _reserved(policy.reserve_cpu, capacity.cpus)
    memory = capacity.memory - _reserved(policy.reserve_memory, capacity.memory)
    asked_cpus = {machine.name: _own_cpus(infra, machine, capacity) for machine in machines}
    asked_memory = {machine.name: _own_memory(infra, machine, capacity) for machine in machines}
    used_cpus = sum(value for value in asked_cpus.values() if value is not None)
    used_memory = sum(value for value in asked_memory.values() if value is not None)
    free_cpus = [machine for machine in machines if asked_cpus[machine.name] is None]
    free_memory = [machine for machine in machines if asked_memory[machine.name] is None]
    problems = _overcommitted(used_cpus, cpus, used_memory, memory)
    if problems and not policy.overcommit:
        raise AnklumeError(
            "; ".join(problems),
            where=infra.file,
            hint="lower the machines' limits or resource_policy.host_reserve, or set resource_policy.overcommit: true",
        )
    config: dict[str, dict[str, str]] = {machine.name: {} for machine in machines}
    for machine, share in _shares(free_cpus, policy):
        config[machine.name] |= _cpu_config(policy, machine, max(0.0, cpus - used_cpus) * share, capacity)
    for machine, share in _shares(free_memory, policy):
        size = max(_SMALLEST_MEMORY, int(max(0.0, memory - used_memory) * share) >> 20 << 20)
        config[machine.name] |= {"limits.memory": f"{size >> 20}MiB"}
        if policy.memory_enforce == "soft" and machine.type == "lxc":
            config[machine.name] |= {"limits.memory.enforce": "soft"}
    return Limits({name: keys for name, keys in config.items() if keys}, tuple(problems))


def _overcommitted(used_cpus: float, cpus: float, used_memory: float, memory: float) -> list[str]:
    problems = []
    if used_cpus > cpus:
        problems.append(f"machines ask for {used_cpus:g} CPUs; {cpus:g} are available")
    if used_memory > memory:
        problems.append(f"machines ask for {human_size(used_memory)} of memory; {human_size(memory)} are available")
    return problems


def _reserved(text: str, whole: int) -> float:
    if text.endswith("%"):
        return whole * float(text[:-1]) / 100
    size = bytes_of(text)
    return float(text) if size is None else float(size)


def _own(infra: Infra, machine: Machine, keys: Sequence[str]) -> tuple[str, str] | None:
    """The limit that a machine has by itself or by a profile, as key and value."""
    configs = [layer.config for layer in reversed(layers(machine, infra.domains[machine.domain]))]
    return next(((key, config[key]) for config in configs for key in keys if key in config), None)


def _own_cpus(infra: Infra, machine: Machine, capacity: Capacity) -> float | None:
    limit = _own(infra, machine, _CPU_KEYS)
    if limit is None:
        return None
    key, value = limit
    if key == "limits.cpu.allowance":
        percent = re.fullmatch(r"(\d+)%", value)
        if percent:
            return capacity.cpus * int(percent[1]) / 100
        times = re.fullmatch(r"(\d+)ms/(\d+)ms", value)
        return int(times[1]) / max(1, int(times[2])) if times else 0.0
    if value.isdigit():
        return float(value)
    return float(sum(_span(part) for part in value.split(",")))


def _span(part: str) -> int:
    first, _, last = part.partition("-")
    return int(last) - int(first) + 1 if first.isdigit() and last.isdigit() else 1


def _own_memory(infra: Infra, machine: Machine, capacity: Capacity) -> float | None:
    limit = _own(infra, machine, _MEMORY_KEYS)
    if limit is None:
        return None
    value = limit[1]
    if re.fullmatch(r"\d+%", value):
        return capacity.memory * int(value[:-1]) / 100
    return float(bytes_of(value) or 0)


def _shares(machines: Iterable[Machine], policy: ResourcePolicy) -> list[tuple[Machine, float]]:
    chosen = list(machines)
    weights = [machine.weight if policy.mode == "proportional" else 1 for machine in chosen]
    return [(machine, weight / sum(weights)) for machine, weight in zip(chosen, weights, strict=True)]


def _cpu_config(policy: ResourcePolicy, machine: Machine, cpus: float, capacity: Capacity) -> dict[str, str]:
    if policy.cpu_mode == "count" or machine.type == "vm":  # Incus takes no allowance for a VM
        return {"limits.cpu": str(max(1, int(cpus)))}
    return {"limits.cpu.allowance": f"{max(1, int(100 * cpus / capacity.cpus))}%"}
