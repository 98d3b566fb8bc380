"""The machines that commands look at: what Incus has of a file's, and what store and specs know of their images."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anklume_images.incus.client import Incus
    from launcher.cli.session import Session
    from launcher.infra.model import Infra
    from launcher.inspect.images import ImageLookup
    from launcher.observe.instances import InstanceState

__all__ = ["find_instance", "find_instances", "image_lookup"]


def image_lookup(session: Session) -> ImageLookup:
    """What store and specs know of images."""
    from launcher.inspect.images import ImageLookup

    return ImageLookup(session.images(), session.catalog)


def find_instances(
    session: Session, incus: Incus, infra: Infra, only: tuple[str, ...] = (), tags: tuple[str, ...] = ()
) -> tuple[InstanceState, ...]:
    """The instances of the machines that are meant; one that is not there is among them, as missing."""
    from launcher.infra.names import names_for
    from launcher.infra.selection import selected
    from launcher.observe.instances import look

    machines = selected(infra, only, tags)
    if not machines:
        session.console.warn("the file has no such machine: nothing to look at")
    return look(incus, infra, names_for(infra), machines)


def find_instance(session: Session, incus: Incus, infra: Infra, name: str) -> InstanceState:
    """The instance of one machine, which is there and ours."""
    from launcher.infra.selection import SelectionError
    from launcher.inspect.logs import require_ours

    if infra.machine(name) is None and name in infra.domains:
        raise SelectionError(f"{name} is a domain, not a machine", where=infra.file)
    instances = find_instances(session, incus, infra, (name,))
    seen = next(entry for entry in instances if entry.machine.name == name)  # its domain may have the same name
    require_ours(seen)
    return seen
