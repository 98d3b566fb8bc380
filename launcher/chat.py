"""A conversation with the server of models in one machine, asked from inside it, so that it needs no route to it."""

from __future__ import annotations

import codecs
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from anklume_images.errors import AnklumeError, IncusError
from anklume_images.nearest import nearest
from launcher.engines import ENGINES, engines_of
from launcher.engines.chat import Question
from launcher.engines.probe import names_in
from launcher.inspect.guest import Answer, Guest
from launcher.inspect.logs import require_ours
from launcher.inspect.services import offered, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anklume_images.incus.client import Incus
    from launcher.engines.chat import ChatInterface, Piece
    from launcher.engines.engine import Engine
    from launcher.inspect.images import ImageLookup
    from launcher.observe.instances import InstanceState

__all__ = ["Conversation", "Listener", "Reply", "begin", "machine_to_ask"]

_LONGEST_ERROR = 1000  # characters of what is no line of an answer


class ChatError(AnklumeError):
    """A machine's engine cannot be talked to."""


class Listener(Protocol):
    """Who is told an answer while it is made."""

    def text(self, piece: str) -> None:
        """More of the answer."""

    def thought(self, piece: str) -> None:
        """More of what the model says to itself before it answers."""


@dataclass(frozen=True)
class Reply:
    """A whole answer; `first` is when its first piece came and `seconds` when its last did, of the question's sending.

    Where the server does not tell how many tokens it makes in a second, that is counted from the first piece on.
    """

    text: str = ""
    tokens: int | None = None
    tokens_per_second: float | None = None
    first: float = 0.0
    seconds: float = 0.0


def machine_to_ask(instances: Iterable[InstanceState], book: ImageLookup, file: str) -> InstanceState:
    """The one machine of a file that serves models; ChatError when there is none, or more than one."""
    able = [seen for seen in instances if engines_of(offered(seen, book.facts(seen)))]
    if not able:
        roles = " or ".join(ENGINES)
        raise ChatError("no machine of the file serves models", where=file, hint=f"give one the role {roles}")
    if len(able) > 1:
        names = ", ".join(seen.machine.name for seen in able)
        raise ChatError(
            f"several machines serve models: {names}", where=file, hint=f"name one: --machine {able[0].machine.name}"
        )
    return able[0]


def begin(incus: Incus, seen: InstanceState, book: ImageLookup, file: str, *, model: str | None = None) -> Conversation:
    """A conversation with a machine's engine, with its default model unless one is named.

    ChatError when it does not run, does not answer, or has no such model.
    """
    name = seen.machine.name
    require_ours(seen)
    facts = book.facts(seen)
    engine = next(iter(engines_of(offered(seen, facts))), None)
    if engine is None:
        raise ChatError(f"{name} serves no models", where=seen.machine.where)
    if not seen.running:
        raise IncusError(f"{name} is {seen.state}", hint=f"anklume-launch {file} starts it")
    settings = settings_of(seen, facts)
    if not engine.enabled(settings):
        raise ChatError(
            f"{engine.title} of {name} is switched off", where=seen.machine.where, hint=f"set {engine.switch} to true"
        )
    guest, url, key = Guest(incus, seen), engine.own_url(settings), settings[engine.key_variable]
    chat = engine.chat
    reply = guest.request(f"{url}{chat.models_path}", bearer=key)
    names = names_in(reply, chat.listed, chat.named)
    why = f"anklume-launch doctor {file} --only {name} looks for the reason"
    if names is None:
        raise ChatError(f"{engine.title} of {name} does not answer: {reply.said()}", where=url, hint=why)
    wanted = model or (settings[chat.default_model] if chat.default_model else "")
    return Conversation(guest, engine, name, url, key, _choose(chat, wanted, names, f"{engine.title} of {name}", why))


def _choose(chat: ChatInterface, wanted: str, names: tuple[str, ...], where: str, why: str) -> str:
    if not names:
        raise ChatError("it has no model", where=where, hint=why)
    if not wanted:
        return names[0]
    found = next((name for name in names if chat.short(name) == chat.short(wanted)), None)
    if found is None:
        close = nearest(wanted, [chat.short(name) for name in names])
        hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(names)}"
        raise ChatError(f"it has no model {wanted}", where=where, hint=hint)
    return found


@dataclass
class Conversation:
    """What was said so far with one model; `messages` begin with a system's where there is one."""

    guest: Guest
    engine: Engine
    machine: str
    url: str
    key: str
    model: str
    temperature: float | None = None
    max_tokens: int | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def instruct(self, text: str) -> None:
        """Say beforehand what the model is to be."""
        self.messages.append({"role": "system", "content": text})

    def ask(self, text: str, listener: Listener) -> Reply:
        """Ask, and return the answer when it is whole.

        Interrupted, what was answered so far is part of the conversation. ChatError when the server refuses; the
        conversation then goes on as if nothing had been asked.
        """
        chat = self.engine.chat
        asked = [*self.messages, {"role": "user", "content": text}]
        reader = _Reader(chat, listener)
        body = chat.body(Question(self.model, tuple(asked), self.temperature, self.max_tokens))
        try:
            answer = self.guest.stream(f"{self.url}{chat.path}", body, reader.receive, bearer=self.key)
        except KeyboardInterrupt:
            self.messages = [*asked, {"role": "assistant", "content": reader.reply().text}]
            raise
        reply = reader.reply()
        problem = reader.error
        if not answer.ok:
            problem = problem or Answer(answer.code, answer.status, reader.rest, answer.error).said()
        elif not problem and not reader.ended:
            problem = "the answer broke off"
        if problem:
            raise ChatError(f"{self.engine.title} of {self.machine}: {problem}", where=f"{self.url}{chat.path}")
        self.messages = [*asked, {"role": "assistant", "content": reply.text}]
        return reply


class _Reader:
    """Takes an answer in as it comes, in whatever pieces, and tells what its lines bring."""

    def __init__(self, chat: ChatInterface, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self._chat = chat
        self._listener = listener
        self._clock = clock
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._begin = clock()
        self._first: float | None = None
        self._last = 0.0
        self._texts: list[str] = []
        self._tokens: int | None = None
        self._speed: float | None = None
        self.ended = False
        self.error = ""
        self.rest = ""

    def receive(self, piece: bytes) -> None:
        """Some more bytes."""
        *lines, self._line = (self._line + self._decoder.decode(piece)).split("\n")
        for line in lines:
            self._take(line)

    def _take(self, line: str) -> None:
        found = self._chat.piece(line.strip()) if line.strip() else None
        if found is not None:
            self._bring(found)
        else:
            self._keep(line)

    def _keep(self, line: str) -> None:
        """What is no line of an answer may be an error page."""
        if len(self.rest) < _LONGEST_ERROR:
            self.rest = f"{self.rest}\n{line}".strip()

    def _bring(self, found: Piece) -> None:
        if found.answer or found.thought:
            self._last = self._clock() - self._begin
            self._first = self._last if self._first is None else self._first
        if found.thought:
            self._listener.thought(found.thought)
        if found.answer:
            self._texts.append(found.answer)
            self._listener.text(found.answer)
        self._tokens = found.tokens or self._tokens
        self._speed = found.tokens_per_second or self._speed
        self.ended = self.ended or found.end
        self.error = found.error or self.error

    def reply(self) -> Reply:
        """The answer, as far as it came."""
        if self._line:  # an error may come without an end of line
            self._take(self._line)
            self._line = ""
        first = self._first or 0.0
        speed = self._speed
        if speed is None and self._tokens and self._tokens > 1 and self._last > first:
            speed = (self._tokens - 1) / (self._last - first)
        return Reply("".join(self._texts), self._tokens, speed, first, self._last)
