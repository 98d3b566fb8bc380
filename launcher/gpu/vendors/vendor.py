"""What one has to say of a maker of cards, so that the rest need not know who makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.gpu.host_files import HostFiles
    from launcher.infra.model import Domain, Machine

__all__ = ["VIDEO", "Diagnosis", "Extras", "Obstacle", "Vendor", "render_nodes"]

# The group `video` has this number in every Debian (base-passwd) and Ubuntu; services of images are in it.
VIDEO: Mapping[str, str] = {"gid": "44", "mode": "0660"}


@dataclass(frozen=True)
class Obstacle:
    """One thing in the way of a card: its cause and its remedy. One that is not `fatal` is only to be known.

    `code` is that of the finding about the host, where the host is what it is about. A `note` is for the plan: nothing
    is in the way.
    """

    machine: str
    cause: str
    remedy: str
    fatal: bool = True
    code: str = ""
    note: bool = False

    def __str__(self) -> str:
        return f"{self.machine}: {self.cause} ({self.remedy})"


@dataclass(frozen=True)
class Diagnosis:
    """Why an engine does not use the card that it has; `code` is the finding's."""

    code: str
    cause: str
    remedy: str


@dataclass(frozen=True)
class Extras:
    """What a container needs beside its gpu devices: devices by name, and keys of Incus' configuration."""

    devices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    config: Mapping[str, str] = field(default_factory=dict)


def render_nodes(card: Card, _ways: Sequence[str] | None) -> tuple[str, ...]:
    """The node by which programs compute on a card without drawing: all that Vulkan wants."""
    return tuple(f"/dev/dri/{name}" for name in card.drm if name.startswith("render"))


@dataclass(frozen=True)
class Vendor:
    """One maker of cards.

    `name` is one word, by which specs name the maker in small letters. `pci_id` is its number on the PCI bus, four
    hexadecimal digits. `diagnose` reads the lines of an engine's journal that say that it computes on the CPU; each
    code that it has is in docs/how-to/troubles.md. `extras` and `obstacles` are told the machine, its domain, what it
    is granted of this maker's cards, what the host's files say, None where they are out of reach, and the ways by which
    the machine's image computes on these cards, None where nobody knows. `nodes` are those that a container has to open
    to compute on a card by these ways. `shared_node` is a device node that all its cards share. `major` is the number
    of its driver's own nodes, `node` their path with the minor number as its group, and `minor` that of a card by its
    place among its maker's cards. `opened_by` are keys of a container's gpu device that let more than root open its
    nodes. `selected_by` names variables of a container's environment that choose cards, and what each value chooses.
    """

    name: str
    pci_id: str
    diagnose: Callable[[Sequence[str]], Diagnosis]
    extras: Callable[[Machine, Domain, Sequence[Grant], HostFiles | None, Sequence[str] | None], Extras] = (
        lambda _machine, _domain, _grants, _host, _ways: Extras()
    )
    obstacles: Callable[
        [Machine, Domain, Sequence[Grant], HostFiles | None, Sequence[str] | None], Iterator[Obstacle]
    ] = lambda _machine, _domain, _grants, _host, _ways: iter(())
    nodes: Callable[[Card, Sequence[str] | None], tuple[str, ...]] = render_nodes
    shared_node: str = ""
    major: str = ""
    node: re.Pattern[str] | None = None
    minor: Callable[[Card, int], str] = lambda _card, place: str(place)
    opened_by: Mapping[str, str] = field(default_factory=dict)
    selected_by: Mapping[str, Callable[[Sequence[Card], str], tuple[Card, ...]]] = field(default_factory=dict)
