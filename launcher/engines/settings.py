"""The values of an instance's variables, as texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What an instance was given, else the defaults of its image; a variable without either is an empty text."""

    given: Mapping[str, str]
    defaults: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.given.get(name) or self.defaults.get(name, "")
