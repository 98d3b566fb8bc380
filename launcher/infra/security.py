"""What of Incus' configuration makes a machine privileged, or protects it from being deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.incus.values import is_true

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRIVILEGED", "PROTECTION", "is_privileged", "is_protected"]

PRIVILEGED = "security.privileged"
PROTECTION = "security.protection.delete"


def is_privileged(config: Mapping[str, str]) -> bool:
    """Whether root in a container is root on the host; `config` with what the profiles give."""
    return is_true(config.get(PRIVILEGED))


def is_protected(config: Mapping[str, str]) -> bool:
    """Whether Incus refuses to delete an instance with this configuration."""
    return is_true(config.get(PROTECTION))
