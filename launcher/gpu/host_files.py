"""What the daemon's own files say of its host's cards, read once and handed on: nothing behind it looks at a file."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.gpu.driver import Driver, read_driver
from launcher.gpu.vendors.amd import KFD
from launcher.gpu.vendors.nvidia_driver import has_hook, has_tool
from launcher.observe.daemon import daemon_root

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.incus.client import Incus

__all__ = ["HostFiles", "host_files_of", "read_host_files"]

_IOMMU = "sys/kernel/iommu_groups"


@dataclass(frozen=True)
class HostFiles:
    """The host behind a local socket; `member` is its name as a member of a cluster.

    `driver` is NVIDIA's. `container_tool` and `lxc_hook` are what `nvidia.runtime` calls, `kfd` is ROCm's node.
    """

    driver: Driver = field(default_factory=Driver)
    container_tool: bool = False
    lxc_hook: bool = False
    kfd: bool = False
    iommu: bool = False
    member: str = ""


def host_files_of(incus: Incus) -> HostFiles | None:
    """Those of the host of this server; None where they are out of reach."""
    root = daemon_root(incus.address)
    return None if root is None else read_host_files(root, incus.server.name)


def read_host_files(root: Path, member: str = "") -> HostFiles:
    """Read them below the daemon's root."""
    groups = root / _IOMMU
    return HostFiles(
        read_driver(root),
        has_tool(root),
        has_hook(root),
        os.path.lexists(root / KFD.lstrip("/")),
        groups.is_dir() and any(groups.iterdir()),
        member,
    )
