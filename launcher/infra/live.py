"""What Incus changes while an instance runs: which keys of its configuration, and which types of devices."""

from __future__ import annotations

from launcher.infra.names import PROFILES, VARIABLE

__all__ = ["LIVE_CONFIG", "RESTARTING_CONFIG", "RESTARTING_DEVICES", "is_live_config"]

LIVE_CONFIG = ("limits.", "boot.", "snapshots.", "security.protection.", "cluster.", "user.")
"""Beginnings of the keys that a running instance takes."""

RESTARTING_CONFIG = (VARIABLE, PROFILES)
"""Beginnings of those among them that need a restart all the same: an image's templates are rendered at a start."""

RESTARTING_DEVICES = ("nic", "gpu", "tpm", "pci", "none")
"""Types of devices that come, go and change only at a start."""


def is_live_config(name: str) -> bool:
    """Whether a running instance takes a change of that config key."""
    return name.startswith(LIVE_CONFIG) and not name.startswith(RESTARTING_CONFIG)
