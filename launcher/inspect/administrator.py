"""Whether Open WebUI has the administrator that its settings ask for; without one, a stranger could become it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.inspect.facts import Finding, NoAdministrator
from launcher.inspect.services import NO_ADMINISTRATOR, OPEN_WEBUI, listening_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.infra.model import Infra
    from launcher.inspect.facts import MachineEvidence
    from launcher.inspect.guest import Inside
    from launcher.inspect.services import Settings

__all__ = ["administrator_findings", "missing_administrator"]

_PASSWORD = "open_webui_admin_password"  # noqa: S105 - a variable's name


def missing_administrator(inside: Inside, settings: Settings) -> NoAdministrator | None:
    """What is seen of a missing administrator from inside; None when nothing is.

    The shipped image stays closed then and leaves the reason in a file. Another, or an older one, may serve its page:
    to those without an account its `/api/config` says `onboarding` while there is no user.
    """
    noted = inside.run("cat", NO_ADMINISTRATOR)
    if noted.code == 0 and (reason := " ".join(noted.stdout.decode(errors="replace").split())):
        return NoAdministrator(reason, is_open=False)
    if not settings[_PASSWORD]:
        return None
    answer = inside.request(listening_url(OPEN_WEBUI, settings) + "/api/config")
    document = answer.json() if answer.ok else None
    if isinstance(document, dict) and document.get("onboarding"):
        return NoAdministrator("/api/config: there is no user yet, and anybody may sign up", is_open=True)
    return None


def administrator_findings(infra: Infra, machine: MachineEvidence) -> Iterator[Finding]:
    """A finding when the administrator is missing."""
    missing = machine.no_administrator
    if missing is None:
        return
    cause = f"the account that {_PASSWORD} asks for was not made"
    if missing.is_open:
        what = "Open WebUI has no administrator: whoever signs up first becomes it"
        remedy = f"make the machine anew from the newest image: anklume-launch {infra.file} --replace"
    else:
        what = "Open WebUI has no administrator, so its page stays closed"
        remedy = (
            f"correct {_PASSWORD} (at most 72 bytes) and apply; "
            f"anklume-launch logs {infra.file} {machine.name} --unit open-webui shows more"
        )
    yield Finding("no-administrator", "error", machine.name, what, (missing.reason,), cause, remedy)
