"""Make the frozen model out of what was read, chosen and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.specs.values import value_text
from launcher.infra.addressing import GATEWAY, Addresses
from launcher.infra.model import (
    Domain,
    GpuSelector,
    ImageChoice,
    Infra,
    Machine,
    PersistentData,
    Policy,
    Profile,
    ResourcePolicy,
    Settings,
    StorageVolume,
)
from launcher.infra.schema import MACHINE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.infra.entries import WrittenMachine
    from launcher.infra.images import ImageIndex
    from launcher.infra.mounts import Shares
    from launcher.infra.report import Report

__all__ = ["build_infra"]


def build_infra(
    report: Report,
    tree: Mapping[str, Any],
    machines: Sequence[WrittenMachine],
    addresses: Addresses,
    choices: Mapping[str, ImageChoice],
    variables: Mapping[str, Mapping[str, str]],
    shares: Shares,
    policies: Sequence[Policy],
    shelf: ImageIndex,
) -> Infra:
    """The model of a document in which nothing structural is wrong."""
    settings = _settings(tree["global"])
    made: dict[str, dict[str, Machine]] = {}
    for entry in machines:
        name, image = entry.name, choices[entry.name]
        given: dict[str, Any] = {
            "name": name,
            "domain": entry.domain,
            "address": str(addresses.machines[name]),
            "image": image,
            "where": report.source.where(entry.path),
            "ephemeral": entry.data.get("ephemeral", entry.of["ephemeral"]),
            "gpu": entry.wants_gpu,
            "gpu_driver": entry.data.get("gpu_driver", settings.gpu_driver),
            "gpu_devices": tuple(GpuSelector(**card) for card in entry.data["gpu_devices"]),
            "profiles": entry.profiles,
            "roles": tuple(dict.fromkeys(entry.data["roles"])),
            "tags": shelf.specs[image.store].tags if image.store else (),
            "variables": variables.get(name, {}),
            "volumes": tuple(_volumes(entry, settings.storage_pool)),
            "persistent_data": tuple(_persistent_data(entry, settings.persistent_data_base)),
            "shares": shares.get(name, ()),
            "keys": _incus_keys(entry),
        }
        as_written = {key: value for key, value in entry.data.items() if key in Machine.__dataclass_fields__}
        made.setdefault(entry.domain, {})[name] = Machine(**(as_written | given))
    domains = {
        name: Domain(
            name=name,
            subnet=str(addresses.subnets[name]),
            gateway=str(addresses.subnets[name][GATEWAY]),
            where=report.source.where(("domains", name)),
            profiles=_profiles(domain["profiles"]),
            machines=made.get(name, {}),
            **{key: domain[key] for key in ("description", "enabled") if key in domain},
        )
        for name, domain in tree["domains"].items()
    }
    return Infra(
        file=report.source.file,
        project_name=tree["project_name"],
        settings=settings,
        domains=domains,
        policies=tuple(policies),
        notices=tuple(report.notices),
    )


def _incus_keys(entry: WrittenMachine) -> dict[str, str]:
    """What the keys that become one of Incus' say there."""
    written = {key.incus: entry.data[name] for name, key in MACHINE.infos().items() if key.incus and name in entry.data}
    return {name: value_text(value) for name, value in written.items()}


def _settings(written: Mapping[str, Any]) -> Settings:
    plain = {key: value for key, value in written.items() if key in Settings.__dataclass_fields__}
    policy = plain.pop("resource_policy", None)
    if policy is not None:
        reserve = policy["host_reserve"]
        keys = {key: value for key, value in policy.items() if key != "host_reserve"}
        plain["resource_policy"] = ResourcePolicy(**keys, **{f"reserve_{key}": value for key, value in reserve.items()})
    return Settings(**plain)


def _profiles(written: Mapping[str, Any]) -> dict[str, Profile]:
    return {
        name: Profile(name, profile["config"], profile["devices"], description=profile.get("description", ""))
        for name, profile in written.items()
    }


def _volumes(entry: WrittenMachine, pool: str) -> list[StorageVolume]:
    return [
        StorageVolume(name, volume["path"], volume.get("pool", pool), volume.get("size"))
        for name, volume in entry.data["storage_volumes"].items()
    ]


def _persistent_data(entry: WrittenMachine, base: str) -> list[PersistentData]:
    folder = f"{base.rstrip('/')}/{entry.domain}/{entry.name}"
    return [
        PersistentData(name, f"{folder}/{name}", data["path"], data["readonly"], data["shift"])
        for name, data in entry.data["persistent_data"].items()
    ]
