"""Who else has the host's cards: the machines of its own Incus, which a private one cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError

if TYPE_CHECKING:
    from anklume_images.console import Console

__all__ = ["neighbours_of_host"]


def neighbours_of_host(console: Console) -> list[dict[str, Any]]:
    """The instances of the Incus at this host's own socket, whatever the client's default remote; a note says when not.

    Each is of a project that no file can have, so that it is nobody's own machine.
    """
    from anklume_images.incus.client import Incus

    try:
        with Incus.find("local") as incus:
            instances, where = incus.instances(), incus.address
    except IncusError as error:
        console.note(f"whether a machine of the host's own Incus has a card is not known: {error}")
        return []
    return [instance | {"project": f"{instance.get('project', 'default')} of {where}"} for instance in instances]
