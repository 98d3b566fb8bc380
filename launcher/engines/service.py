"""What engines and the page have in common: a role of images, a unit of systemd, a port, checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from launcher.engines.probe import Outcome, Probe
    from launcher.engines.settings import Settings

__all__ = ["Service"]


@dataclass(frozen=True, kw_only=True)
class Service(ABC):
    """A service that machines offer.

    `role` is what specs say in `provides`, `title` its name in sentences, `unit` its unit of systemd without
    `.service`. The names of its image's variables begin with `prefix` and `_`. `port` is the TCP port that it listens
    on when nothing is set. `checks` are those of `verify`, by name and in order: each is handed the models that an
    earlier one found.
    """

    role: str
    title: str
    unit: str
    prefix: str
    port: int
    checks: Mapping[str, Callable[[Probe], Outcome]]

    @property
    def port_variable(self) -> str:
        """The variable with its port."""
        return f"{self.prefix}_port"

    @property
    def key_variable(self) -> str:
        """The variable with the key that clients have to send, for a service that has one."""
        return f"{self.prefix}_api_key"

    @property
    @abstractmethod
    def defaults(self) -> Mapping[str, str]:
        """Values of its variables where an image that provides the role does not declare them."""

    @abstractmethod
    def own_url(self, settings: Settings) -> str:
        """Where it answers its own machine: `http://127.0.0.1:8080`."""

    @abstractmethod
    def enabled(self, settings: Settings) -> bool:
        """Whether it is to be started at all."""
