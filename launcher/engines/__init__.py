"""The servers of language models, a module each, and the page that people use them by: a new one is a module with an
`Engine`, and its line here. See docs/how-to/add-an-engine.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.engines import llama_server, ollama, open_webui

if TYPE_CHECKING:
    from collections.abc import Collection

    from launcher.engines.engine import Engine
    from launcher.engines.service import Service

__all__ = ["ENGINES", "PAGE", "engines_of", "own_defaults", "services"]

ENGINES: dict[str, Engine] = {engine.role: engine for engine in (ollama.ENGINE, llama_server.ENGINE)}
"""By role; of several in one machine, the first of these is looked at."""

PAGE = open_webui.PAGE


def services() -> tuple[Service, ...]:
    """All that is known here: the engines and the page."""
    return (*ENGINES.values(), PAGE)


def engines_of(roles: Collection[str]) -> tuple[Engine, ...]:
    """The engines that these roles name, in the table's order."""
    return tuple(engine for role, engine in ENGINES.items() if role in roles)


def own_defaults() -> dict[str, str]:
    """Values of variables for an image that provides a role and does not declare them."""
    return {name: value for service in services() for name, value in service.defaults.items()}
