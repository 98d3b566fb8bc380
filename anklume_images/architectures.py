"""The architectures that images are made for, by Debian's name and by the kernel's."""

from __future__ import annotations

import os

__all__ = ["ARCHITECTURES", "MACHINES", "architecture_of", "host_architecture"]

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What the kernel, Incus and Python's wheels call Debian's architectures."""

ARCHITECTURES = tuple(MACHINES)


def architecture_of(machine: str) -> str:
    """Debian's name for what the kernel calls so; the same name where images are not made for it."""
    return next((name for name, kernel_name in MACHINES.items() if kernel_name == machine), machine)


def host_architecture() -> str:
    """Debian's name for this machine's architecture."""
    return architecture_of(os.uname().machine)
