"""Which machines of a file a command is about: those that `--only` and `--tags` name, or all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError
from anklume_images.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.infra.model import Infra, Machine

__all__ = ["SelectionError", "selected"]


class SelectionError(AnklumeError):
    """A name or a tag is nowhere in the file."""

    exit_code = 2


def selected(infra: Infra, only: Iterable[str] = (), tags: Iterable[str] = ()) -> tuple[Machine, ...]:
    """The machines of the enabled domains that are meant, in file order.

    `only` names machines or domains, and a machine has to be named by any of them; `tags` likewise. Both together: a
    machine has to be named by both. SelectionError tells every name that means nothing.
    """
    machines = tuple(infra.machines())
    only, tags = tuple(only), tuple(tags)
    domains = {name for name, domain in infra.domains.items() if domain.enabled}
    known_tags = {tag for machine in machines for tag in machine.tags}
    problems = [_unknown(name, infra, domains) for name in only if name not in domains and not infra.machine(name)]
    problems += [_unknown_tag(tag, known_tags) for tag in tags if tag not in known_tags]
    if problems:
        raise SelectionError("; ".join(problems), where=infra.file)
    return tuple(
        machine
        for machine in machines
        if (not only or machine.name in only or machine.domain in only)
        and (not tags or not set(tags).isdisjoint(machine.tags))
    )


def _unknown(name: str, infra: Infra, domains: set[str]) -> str:
    if name in infra.domains:
        return f"the domain {name} is not enabled"
    if any(name in domain.machines for domain in infra.domains.values()):
        return f"the machine {name} is in a domain that is not enabled"
    close = nearest(name, [*(machine.name for machine in infra.machines()), *domains])
    return f"no machine and no domain is called {name!r}" + (f" (did you mean '{close}'?)" if close else "")


def _unknown_tag(tag: str, known: set[str]) -> str:
    close = nearest(tag, known)
    hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(sorted(known)) or 'none'}"
    return f"no machine has the tag {tag!r} ({hint})"
