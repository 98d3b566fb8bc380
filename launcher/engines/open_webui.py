"""Open WebUI: a page that uses Ollama and servers with OpenAI's interface."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.engines.page import Connection, NoAdministrator, Page
from launcher.engines.probe import Outcome, failed

if TYPE_CHECKING:
    from launcher.engines.probe import GuestLike, Probe
    from launcher.engines.settings import Settings

__all__ = ["OLLAMA_API", "OPENAI_API", "PAGE"]

OLLAMA_API = Connection(
    "open_webui_ollama_url",
    probe="/api/tags",
    usual="http://localhost:11434",
    switch="open_webui_ollama_enabled",
)
OPENAI_API = Connection(
    "open_webui_openai_url",
    probe="/models",
    suffix="/v1",
    key_variable="open_webui_openai_key",
)

_TITLE = re.compile(r"<title>([^<]*)</title>", re.IGNORECASE)
_PASSWORD = "open_webui_admin_password"  # noqa: S105 - a variable's name
_NO_ADMINISTRATOR = "/run/open-webui/no-administrator"  # the reason why the image's page stays closed, when it does


def _missing_administrator(inside: GuestLike, settings: Settings) -> NoAdministrator | None:
    """What is seen of a missing administrator from inside; None when nothing is.

    The shipped image stays closed then and leaves the reason in a file. Another, or an older one, may serve its page:
    to those without an account its `/api/config` says `onboarding` while there is no user.
    """
    noted = inside.run("cat", _NO_ADMINISTRATOR)
    if noted.code == 0 and (reason := " ".join(noted.stdout.decode(errors="replace").split())):
        return NoAdministrator(reason, is_open=False)
    if not settings[_PASSWORD]:
        return None
    reply = inside.request(PAGE.own_url(settings) + "/api/config")
    document = reply.json() if reply.ok else None
    if isinstance(document, dict) and document.get("onboarding"):
        return NoAdministrator("/api/config: there is no user yet, and anybody may sign up", is_open=True)
    return None


def _front_page(probe: Probe) -> Outcome:
    """The front page is Open WebUI's HTML, and its administrator is there where one was asked for."""
    missing = _missing_administrator(probe.inside, probe.settings)
    if missing is not None:
        return failed(f"there is no administrator: {missing.reason}")
    reply = probe.inside.request(f"{probe.url}/")
    if not reply.ok:
        return failed(f"/: {reply.said()}")
    title = _TITLE.search(reply.text)
    text = f"/: HTTP 200, {len(reply.text.encode())} bytes, title {title[1]!r}" if title else "/: HTTP 200, no title"
    return Outcome("ok" if title and "Open WebUI" in title[1] else "failed", text)


def _reach_engines(probe: Probe) -> Outcome:
    """From inside, the engines at the addresses that Open WebUI was given answer."""
    upstreams = PAGE.upstreams(probe.settings)
    if not upstreams:
        return Outcome("skipped", "it was given no engine")
    replies = [(upstream.probe, probe.inside.request(upstream.probe, bearer=upstream.key)) for upstream in upstreams]
    text = "; ".join(f"{url}: {reply.said()}" for url, reply in replies)
    return Outcome("ok" if all(reply.ok for _, reply in replies) else "failed", text)


PAGE = Page(
    role="open_webui",
    title="Open WebUI",
    unit="open-webui",
    prefix="open_webui",
    port=3000,
    connections=(OLLAMA_API, OPENAI_API),
    checks={"webui-page": _front_page, "webui-engine": _reach_engines},
    password=_PASSWORD,
    missing_administrator=_missing_administrator,
)
