"""What one has to say of a server of language models, so that the rest need not know which one it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from anklume_images.specs.listen import Listen, ListenError, hosts, listen
from launcher.engines.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anklume_images.models.library import Model
    from anklume_images.store.blobs import Blobs
    from anklume_images.store.models import ModelFile
    from launcher.engines.chat import ChatInterface
    from launcher.engines.page import Connection
    from launcher.engines.probe import GuestLike
    from launcher.engines.settings import Settings

__all__ = ["Engine", "Journal", "Loaded", "Pulls", "StoreModels", "any_of"]

_NEVER = re.compile(r"(?!)")


def any_of(*patterns: str) -> re.Pattern[str]:
    """A pattern that is found where one of these is; letters in either case."""
    return re.compile("|".join(patterns), re.IGNORECASE)


@dataclass(frozen=True)
class Journal:
    """Patterns that are searched for in the lines of an engine's journal.

    `on_cpu`: it computes on the CPU. `reasons`: why it does, if it does; `hidden`: that a variable hides cards from it.
    `devices`: a line for each device that it uses, with the library as its group,
    which is `cpu` in either case where there is no other. `no_vram`: a card's memory is too small. `no_ram`: the
    machine's is. `died`: the process that runs the model ended. `model`: a model begins to be loaded, with its file as
    the group. `layers`: how many of its layers are on cards, and of how many, as the groups. `shortage`: how much of a
    card's memory a model wants and how much is free. `buffers`: a card's name and the MiB of a model that are on it.
    `not_loaded`: a model could not be loaded, with the reason as its group. `unknown`: it is of a kind that the engine
    does not know, which is its group. `damaged`: its file is damaged, or not whole.
    """

    on_cpu: re.Pattern[str] = _NEVER
    reasons: re.Pattern[str] = _NEVER
    hidden: re.Pattern[str] = _NEVER
    devices: re.Pattern[str] = _NEVER
    no_vram: re.Pattern[str] = _NEVER
    no_ram: re.Pattern[str] = _NEVER
    died: re.Pattern[str] = _NEVER
    model: re.Pattern[str] = _NEVER
    layers: re.Pattern[str] = _NEVER
    shortage: re.Pattern[str] = _NEVER
    buffers: re.Pattern[str] = _NEVER
    not_loaded: re.Pattern[str] = _NEVER
    unknown: re.Pattern[str] = _NEVER
    damaged: re.Pattern[str] = _NEVER

    @property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """All of them: lines without one of them tell nothing."""
        return tuple(pattern for pattern in vars(self).values() if pattern is not _NEVER)


@dataclass(frozen=True)
class Loaded:
    """A model that an engine holds in memory; sizes in bytes, `in_vram` of `size`.

    `file` is that of its weights, as the engine's journal names it; empty where that is not known.
    """

    name: str
    size: int
    in_vram: int
    file: str = ""


@dataclass(frozen=True)
class Pulls:
    """How an engine gets models by itself: `unit` pulls what is missing, and tries again until it has it.

    `failed` is searched for in what that says, with a model and why it could not be had as its groups.
    """

    unit: str
    failed: re.Pattern[str]


@dataclass(frozen=True)
class StoreModels:
    """How an engine is given models of the store, which its `variables` name: one each, or words of a list.

    `files` are what its volume holds of a model under the name that was asked for, and `value` is what a variable says
    then. What ends like one of `own_files` is no name of the store but a file in the volume. With `pulls`, the engine
    gets by itself what the store lacks.
    """

    variables: tuple[str, ...]
    files: Callable[[Model, str, Blobs], tuple[ModelFile, ...]]
    value: Callable[[str], str] = str
    own_files: tuple[str, ...] = ()
    pulls: Pulls | None = None


@dataclass(frozen=True, kw_only=True)
class Engine(Service):
    """One server of language models.

    `listens_as` is the type that its spec gives the variable `PREFIX_host`: `listen` has the port in it, and `hosts`
    has it in `PREFIX_port`. `connection` is the one by which Open WebUI uses it, and `chat` the
    one by which `anklume-launch chat` does. `smaller_model` is advice for a card
    that is too small, as a part of a sentence. `model_store` is the path of its volume of models where these are of a
    form of its own; empty for one that serves GGUF files. `from_store` says how it is given models of the store, None
    that it is not. `loaded_path` is where it tells which models it holds, and `loaded` reads the JSON that it answers;
    empty where it tells nothing. `file_of` asks the server in a machine, at its address there, for the file of the
    weights of a model of this name.
    """

    connection: Connection
    chat: ChatInterface
    smaller_model: str
    listens_as: Literal["listen", "hosts"] = "hosts"
    journal: Journal = Journal()
    model_store: str = ""
    from_store: StoreModels | None = None
    loaded_path: str = ""
    loaded: Callable[[Any], tuple[Loaded, ...]] = lambda _document: ()
    file_of: Callable[[GuestLike, str, str], str] = lambda _inside, _url, _name: ""

    @property
    def host_variable(self) -> str:
        """The variable that says where it listens."""
        return f"{self.prefix}_host"

    @property
    def switch(self) -> str:
        """The variable that says whether it is started."""
        return f"{self.prefix}_service_enabled"

    def everywhere(self, port: int) -> str:
        """The value of `host_variable` for every address, and this port where the port is in it."""
        return f"0.0.0.0:{port}" if self.listens_as == "listen" else "0.0.0.0"  # noqa: S104 - of an instance

    @property
    def defaults(self) -> Mapping[str, str]:
        """Every address, its port, and that it is started."""
        values = {self.host_variable: self.everywhere(self.port), self.switch: "true"}
        return values if self.listens_as == "listen" else values | {self.port_variable: str(self.port)}

    def enabled(self, settings: Settings) -> bool:
        """Whether it is to be started at all."""
        return settings[self.switch] == "true"

    def listening(self, settings: Settings) -> Listen:
        """Where it is told to listen; what was set past the file and cannot be is its own machine's loopback."""
        text, port = settings[self.host_variable], self.port
        if self.listens_as == "hosts":
            number = settings[self.port_variable]
            port = int(number) if number.isdecimal() else 0
        try:
            return listen(text, port) if self.listens_as == "listen" else hosts(text, port)
        except ListenError:
            return Listen(("127.0.0.1",), port)

    def own_url(self, settings: Settings) -> str:
        """Where it answers its own machine."""
        return self.listening(settings).own_url

    def served_port(self, settings: Settings) -> int | None:
        """The port at which other machines reach it, None where they do not."""
        where = self.listening(settings)
        return where.port if self.enabled(settings) and where.served else None
