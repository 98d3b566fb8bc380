"""Which services a machine offers, by its roles and its image, and what they were set to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.engines import own_defaults, services
from launcher.engines.settings import Settings
from launcher.infra.names import VARIABLE

if TYPE_CHECKING:
    from launcher.inspect.images import Facts
    from launcher.observe.instances import InstanceState

__all__ = ["offered", "settings_of", "wants_gpu"]


def settings_of(seen: InstanceState, facts: Facts) -> Settings:
    """The variables of an instance: what it was given, else the image's defaults."""
    given = {key.removeprefix(VARIABLE): value for key, value in seen.config.items() if key.startswith(VARIABLE)}
    return Settings(given, {**own_defaults(), **facts.defaults})


def offered(seen: InstanceState, facts: Facts) -> frozenset[str]:
    """The roles of the services that are known here, of the machine's own and of those that its image provides."""
    known = frozenset(service.role for service in services())
    return known & (frozenset(seen.machine.roles) | facts.provides)


def wants_gpu(seen: InstanceState) -> bool:
    """Whether the file or the instance says that it has a card."""
    return seen.machine.gpu or bool(seen.gpus)
