"""Whether the page has the administrator that its settings ask for; without one, a stranger could become it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.engines import PAGE
from launcher.inspect.facts import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.infra.model import Infra
    from launcher.inspect.facts import MachineFacts

__all__ = ["administrator_findings"]


def administrator_findings(infra: Infra, machine: MachineFacts) -> Iterator[Finding]:
    """A finding when the administrator is missing."""
    missing = machine.no_administrator
    if missing is None:
        return
    cause = f"the account that {PAGE.password} asks for was not made"
    if missing.is_open:
        what = f"{PAGE.title} has no administrator: whoever signs up first becomes it"
        remedy = f"make the machine anew from the newest image: anklume-launch {infra.file} --replace"
    else:
        what = f"{PAGE.title} has no administrator, so its page stays closed"
        remedy = (
            f"correct {PAGE.password} (at most 72 bytes) and apply; "
            f"anklume-launch logs {infra.file} {machine.name} --unit {PAGE.unit} shows more"
        )
    yield Finding("no-administrator", "error", machine.name, what, (missing.reason,), cause, remedy)
