"""The machines of a document one by one, each with what its domain and its profiles give it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from anklume_images.incus.values import is_true
from launcher.infra.merge import merged, named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anklume_images.specs.yamlfile import KeyPath

__all__ = ["WrittenMachine", "entries", "written_names"]


@dataclass(frozen=True)
class WrittenMachine:
    """One machine as it was read: `data` are its own keys, `of` those of its domain."""

    domain: str
    name: str
    data: Mapping[str, Any]
    of: Mapping[str, Any]

    @property
    def path(self) -> KeyPath:
        """Where it stands."""
        return ("domains", self.domain, "machines", self.name)

    @property
    def enabled(self) -> bool:
        """Whether its domain is."""
        return bool(self.of["enabled"])

    @property
    def is_vm(self) -> bool:
        """Whether it is a virtual machine."""
        return bool(self.data["type"] == "vm")

    @property
    def profiles(self) -> tuple[str, ...]:
        """The names of its profiles, each once."""
        return tuple(dict.fromkeys(name for _, name in self.data["profiles"]))

    @cached_property
    def devices(self) -> Mapping[str, tuple[KeyPath, Mapping[str, str]]]:
        """Its devices, and where each stands: a later profile's beats an earlier one's, its own beat all."""
        return merged(self._placed("devices"))

    def setting(self, key: str) -> tuple[KeyPath, str] | None:
        """Where a key of Incus' configuration is set for it, and to what."""
        return self._config.get(key)

    def settings(self, prefix: str) -> dict[str, KeyPath]:
        """The keys of Incus' configuration that begin so, and where each is set."""
        return {key: where for key, (where, _) in self._config.items() if key.startswith(prefix)}

    def is_set(self, key: str) -> KeyPath | None:
        """Where a key of Incus' configuration is set to true, if it is."""
        setting = self.setting(key)
        return setting[0] if setting and is_true(setting[1]) else None

    @cached_property
    def _config(self) -> Mapping[str, tuple[KeyPath, str]]:
        return merged(self._placed("config"))

    def _placed(self, kind: str) -> Iterator[dict[str, tuple[KeyPath, Any]]]:
        """The config or the devices of its profiles and its own, each value with where it stands."""
        profiles = {
            name: (("domains", self.domain, "profiles", name), profile) for name, profile in self.of["profiles"].items()
        }
        for path, part in (*named(self.profiles, profiles), (self.path, self.data)):
            yield {name: ((*path, kind, name), value) for name, value in part[kind].items()}

    @property
    def gpus(self) -> list[tuple[KeyPath, Mapping[str, str]]]:
        """Its gpu devices."""
        return [(path, device) for path, device in self.devices.values() if device["type"] == "gpu"]

    @property
    def wants_gpu(self) -> bool:
        """Whether it has a GPU, by whatever way."""
        return bool(self.data.get("gpu") or self.data["gpu_devices"] or self.gpus)


def entries(domains: Mapping[str, Any]) -> list[WrittenMachine]:
    """Every machine, in file order, those of disabled domains too."""
    return [
        WrittenMachine(name, machine, data, domain)
        for name, domain in domains.items()
        for machine, data in domain["machines"].items()
    ]


def written_names(data: Mapping[Any, Any]) -> tuple[set[str], set[str]]:
    """The names of domains and of machines that a person wrote; what is wrong with one does not make it unknown."""
    domains = data.get("domains")
    names: set[str] = set()
    machines: set[str] = set()
    for name, domain in domains.items() if isinstance(domains, dict) else ():
        names.add(str(name))
        within = domain.get("machines") if isinstance(domain, dict) else None
        machines.update(str(machine) for machine in (within if isinstance(within, dict) else ()))
    return names, machines
