"""A host's cards and instances in the form in which Incus gives them, for the tests of the GPU policy."""

from __future__ import annotations

from typing import Any

from launcher.gpu.cards import Card, cards_of
from launcher.infra.model import Domain, GpuSelector, ImageChoice, Infra, Machine, Profile, Settings


def nvidia(index: int, *, pci: str | None = None, **more: Any) -> dict[str, Any]:
    """An entry of `gpu.cards[]`, as recorded from Incus 6.0 with NVIDIA's tools."""
    return {
        "driver": "nvidia",
        "driver_version": "550.54.15",
        "drm": {
            "id": index,
            "card_name": f"card{index}",
            "card_device": f"226:{index}",
            "render_name": f"renderD{128 + index}",
            "render_device": f"226:{128 + index}",
        },
        "nvidia": {
            "cuda_version": "12.4",
            "nvrm_version": "550.54.15",
            "brand": "GeForce",
            "model": "NVIDIA GeForce RTX 4090",
            "uuid": f"GPU-00000000-0000-0000-0000-{index:012d}",
            "architecture": "8.9",
            "card_name": f"nvidia{index}",
            "card_device": f"195:{index}",
        },
        "numa_node": 0,
        "pci_address": pci or address(index),
        "vendor": "NVIDIA Corporation",
        "vendor_id": "10de",
        "product": "AD102 [GeForce RTX 4090]",
        "product_id": "2684",
        **more,
    }


def amd(index: int, **more: Any) -> dict[str, Any]:
    return {
        "driver": "amdgpu",
        "driver_version": "6.12",
        "drm": nvidia(index)["drm"],
        "pci_address": address(index),
        "vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
        "vendor_id": "1002",
        "product": "Navi 31",
        "product_id": "744c",
        **more,
    }


def intel(index: int, **more: Any) -> dict[str, Any]:
    return {
        "driver": "xe",
        "driver_version": "6.12",
        "drm": nvidia(index)["drm"],
        "pci_address": address(index),
        "vendor": "Intel Corporation",
        "vendor_id": "8086",
        "product": "Arc B580",
        "product_id": "e20b",
        **more,
    }


def console_chip(index: int) -> dict[str, Any]:
    return {
        "driver": "ast",
        "pci_address": address(index),
        "vendor": "ASPEED",
        "vendor_id": "1a03",
        "product_id": "2000",
    }


def address(index: int) -> str:
    return f"0000:{index + 1:02x}:00.0"


def host(*entries: dict[str, Any], member: str = "none") -> tuple[Card, ...]:
    return cards_of({"gpu": {"cards": list(entries), "total": len(entries)}}, member)


def two_cards() -> tuple[Card, ...]:
    return host(nvidia(0), nvidia(1))


def instance(
    name: str,
    *,
    project: str = "default",
    status: str = "Stopped",
    kind: str = "container",
    location: str = "none",
    config: dict[str, str] | None = None,
    **devices: dict[str, str],
) -> dict[str, Any]:
    return {
        "name": name,
        "project": project,
        "status": status,
        "type": kind,
        "location": location,
        "profiles": ["default"],
        "config": {},
        "devices": {},
        "expanded_config": config or {},
        "expanded_devices": {key.replace("_", "-"): device for key, device in devices.items()},
    }


def gpu(**keys: str) -> dict[str, str]:
    return {"type": "gpu", **{key.replace("_", "."): value for key, value in keys.items()}}


def machine(name: str, *, domain: str = "ai", pci: str | None = None, **more: Any) -> Machine:
    selectors = (GpuSelector(pci=pci),) if pci else more.pop("gpu_devices", ())
    more.setdefault("gpu", True)
    return Machine(
        name, domain, "10.110.0.1", ImageChoice("debian"), "infra.yml:7:5", gpu_devices=tuple(selectors), **more
    )


def infra(*machines: Machine, policy: str = "exclusive", profiles: dict[str, Profile] | None = None) -> Infra:
    domains = {}
    for name in dict.fromkeys(entry.domain for entry in machines):
        own = {entry.name: entry for entry in machines if entry.domain == name}
        domains[name] = Domain(
            name, "10.110.0.0/24", "10.110.0.254", "infra.yml:5:3", machines=own, profiles=profiles or {}
        )
    return Infra("infra.yml", "test", Settings(gpu_policy=policy), domains)  # type: ignore[arg-type]


def place(entry: Machine) -> tuple[str, str]:
    return entry.domain, entry.name
