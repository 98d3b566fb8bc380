"""Which services a machine offers, by its roles and its image, and where they are told to listen and to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.specs.listen import OLLAMA_PORT, Listen, ListenError, hosts, listen
from launcher.infra.names import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from launcher.inspect.images import Facts
    from launcher.observe.instances import Seen

__all__ = [
    "LLAMA_SERVER",
    "NO_ADMINISTRATOR",
    "OLLAMA",
    "OPEN_WEBUI",
    "Engine",
    "Settings",
    "listening_url",
    "offered",
    "wants_gpu",
]

OLLAMA, LLAMA_SERVER, OPEN_WEBUI = "ollama_server", "llama_server", "open_webui"
NO_ADMINISTRATOR = "/run/open-webui/no-administrator"
"""Where an image that provides `open_webui` says why its page stays closed, when it does."""
_KNOWN = frozenset({OLLAMA, LLAMA_SERVER, OPEN_WEBUI})
_OWN_DEFAULTS = {  # for an image of the user's own that provides the role and leaves the variable out
    "ollama_host": "0.0.0.0:11434",
    "ollama_service_enabled": "true",
    "llama_server_host": "0.0.0.0",  # noqa: S104 - what an instance listens on
    "llama_server_port": "8080",
    "llama_server_service_enabled": "true",
    "open_webui_port": "3000",
    "open_webui_ollama_url": "http://localhost:11434",
    "open_webui_ollama_enabled": "true",
}


@dataclass(frozen=True)
class Engine:
    """A server that Open WebUI was told to use: `probe` answers when it is there."""

    variable: str
    url: str
    probe: str
    key: str = ""


@dataclass(frozen=True)
class Settings:
    """The variables of an instance: what it was given, else the image's defaults."""

    given: Mapping[str, str]
    defaults: Mapping[str, str]

    @classmethod
    def of(cls, seen: Seen, facts: Facts) -> Settings:
        """Those of an instance."""
        given = {key.removeprefix(VARIABLE): value for key, value in seen.config.items() if key.startswith(VARIABLE)}
        return cls(given, {**_OWN_DEFAULTS, **facts.defaults})

    def __getitem__(self, name: str) -> str:
        return self.given.get(name) or self.defaults.get(name, "")

    def enabled(self, service: str) -> bool:
        """Whether an engine is to be started at all."""
        prefix = "ollama" if service == OLLAMA else service
        return service == OPEN_WEBUI or self[f"{prefix}_service_enabled"] == "true"

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines that Open WebUI was given."""
        found = []
        if self["open_webui_ollama_enabled"] == "true" and self["open_webui_ollama_url"]:
            url = self["open_webui_ollama_url"].rstrip("/")
            found.append(Engine("open_webui_ollama_url", url, f"{url}/api/tags"))
        if self["open_webui_openai_url"]:
            url = self["open_webui_openai_url"].rstrip("/")
            found.append(Engine("open_webui_openai_url", url, f"{url}/models", self["open_webui_openai_key"]))
        return tuple(found)


def offered(seen: Seen, facts: Facts) -> frozenset[str]:
    """The services that are known here, of the machine's roles and of those that its image provides."""
    return _KNOWN & (frozenset(seen.machine.roles) | facts.provides)


def wants_gpu(seen: Seen) -> bool:
    """Whether the file or the instance says that it has a card."""
    return seen.machine.gpu or bool(seen.gpus)


def listening_url(service: str, settings: Settings) -> str:
    """Where the service answers its own machine."""
    if service == OPEN_WEBUI:
        return f"http://127.0.0.1:{settings['open_webui_port']}"
    if service == LLAMA_SERVER:
        port = settings["llama_server_port"]
        return _listen(hosts, settings["llama_server_host"], int(port) if port.isdecimal() else 0).own_url
    return _listen(listen, settings["ollama_host"], OLLAMA_PORT).own_url


def _listen(read: Callable[[str, int], Listen], text: str, port: int) -> Listen:
    """Where it listens; what was set past the file and cannot be is asked for at its own machine, in vain."""
    try:
        return read(text, port)
    except ListenError:
        return Listen(("127.0.0.1",), port)
