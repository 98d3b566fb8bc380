"""The four roles of signed metadata, how many keys each takes and how long its signature counts.

https://theupdateframework.github.io/specification/latest/#roles-and-pki
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FOLDER", "ONE", "ROLES", "STRICT", "Policy"]

FOLDER = "metadata"  # of a store, where what they sign is

ROLES = ("root", "targets", "snapshot", "timestamp")


@dataclass(frozen=True)
class Policy:
    """`days` a signature of each role counts; `thresholds` are how many keys have to sign."""

    days: Mapping[str, int]
    thresholds: Mapping[str, int]

    def lifetime(self, role: str) -> timedelta:
        """How long a new signature counts."""
        return timedelta(days=self.days[role])


ONE = Policy(
    MappingProxyType({"root": 1826, "targets": 365, "snapshot": 90, "timestamp": 90}),
    MappingProxyType(dict.fromkeys(ROLES, 1)),
)
STRICT = Policy(
    MappingProxyType({"root": 365, "targets": 90, "snapshot": 7, "timestamp": 1}),
    MappingProxyType({"root": 2, "targets": 2, "snapshot": 1, "timestamp": 1}),
)
