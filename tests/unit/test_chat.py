"""Talking to an engine: what each interface says in its lines, which machine is asked, and what cannot be."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from anklume_images.errors import AnklumeError, IncusError
from anklume_images.incus.client import Result
from launcher.chat import Conversation, Reply, begin, machine_to_ask
from launcher.engines import ENGINES
from launcher.engines.chat import ChatInterface, Question
from launcher.inspect.guest import Answer
from launcher.inspect.images import Facts
from tests.unit.look import machine, seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.incus.client import Incus
    from launcher.inspect.guest import Guest
    from launcher.inspect.images import ImageLookup

OLLAMA, LLAMA = ENGINES["ollama_server"], ENGINES["llama_server"]
FILE = "infra.yml"


@dataclass
class Book:
    """A stand-in for what store and specs say: every image provides these roles."""

    provides: frozenset[str] = frozenset()

    def facts(self, _seen: object) -> Facts:
        return Facts(provides=self.provides)


@dataclass
class Inside:
    """A stand-in for a machine: its engine lists these models, and answers with these pieces."""

    pieces: list[bytes] = field(default_factory=list)
    answer: Answer = field(default_factory=lambda: Answer(0, 200))
    interrupted: bool = False
    asked: list[Any] = field(default_factory=list)

    def stream(self, url: str, body: Any, receive: Callable[[bytes], None], *, bearer: str = "") -> Answer:
        self.asked.append((url, body, bearer))
        for piece in self.pieces:
            receive(piece)
        if self.interrupted:
            raise KeyboardInterrupt
        return self.answer


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []

    def text(self, piece: str) -> None:
        self.texts.append(piece)

    def thought(self, piece: str) -> None:
        self.thoughts.append(piece)


def event(**document: Any) -> str:
    return f"data: {json.dumps(document)}\n\n"


def delta(**parts: Any) -> str:
    return event(choices=[{"delta": parts}])


OPENAI = (
    delta(role="assistant", content=None)
    + delta(reasoning_content="Hm.")
    + delta(content="Grün")
    + ": a comment\n\n"
    + delta(content=" ist es.\n")
    + event(choices=[], usage={"completion_tokens": 7}, timings={"predicted_n": 7, "predicted_per_second": 80.5})
    + "data: [DONE]\n\n"
)
NATIVE = "".join(
    json.dumps(line) + "\n"
    for line in (
        {"message": {"role": "assistant", "thinking": "Hm."}, "done": False},
        {"message": {"role": "assistant", "content": "Grün"}, "done": False},
        {"message": {"role": "assistant", "content": " ist es.\n"}, "done": False},
        {"message": {"content": ""}, "done": True, "eval_count": 7, "eval_duration": 86956522},
    )
)
INTERFACES = [(LLAMA, OPENAI), (OLLAMA, NATIVE)]


def talk(inside: Inside, engine: Any = LLAMA, **keys: Any) -> Conversation:
    return Conversation(cast("Guest", inside), engine, "llm", "http://127.0.0.1:1", "key", "small", **keys)


@pytest.mark.parametrize(("engine", "said"), INTERFACES, ids=["openai", "ollama"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_answer_is_told_as_it_comes_in_whatever_pieces(engine: Any, said: str, size: int) -> None:
    whole = said.encode()
    inside = Inside([whole[start : start + size] for start in range(0, len(whole), size)])
    listener = Listener()
    reply = talk(inside, engine).ask("Which colour?", listener)
    assert (reply.text, reply.tokens) == ("Grün ist es.\n", 7)
    assert reply.tokens_per_second == pytest.approx(80.5)
    assert listener.texts == ["Grün", " ist es.\n"]
    assert listener.thoughts == ["Hm."]


@pytest.mark.parametrize(("engine", "said"), INTERFACES, ids=["openai", "ollama"])
def test_the_next_question_goes_with_what_was_said(engine: Any, said: str) -> None:
    inside = Inside([said.encode()])
    conversation = talk(inside, engine, temperature=0.0, max_tokens=9)
    conversation.instruct("Be brief.")
    conversation.ask("One?", Listener())
    conversation.ask("Two?", Listener())
    url, body, key = inside.asked[1]
    assert url == f"http://127.0.0.1:1{engine.chat.path}"
    assert key == "key"
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "Grün ist es.\n"),
        ("user", "Two?"),
    ]
    assert body["stream"] is True
    given = body.get("options", body)
    assert given["temperature"] == 0
    assert 9 in (given.get("max_tokens"), given.get("num_predict"))


@pytest.mark.parametrize("engine", ENGINES.values(), ids=lambda engine: engine.role)
def test_what_nobody_chose_is_left_to_the_server(engine: Any) -> None:
    chat: ChatInterface = engine.chat
    body = json.dumps(chat.body(Question("m", ({"role": "user", "content": "?"},))))
    assert not {"temperature", "max_tokens", "num_predict"} & set(body.replace('"', " ").split())


def test_interrupted_what_was_said_is_kept() -> None:
    inside = Inside([delta(content="As far as").encode()], interrupted=True)
    conversation = talk(inside)
    with pytest.raises(KeyboardInterrupt):
        conversation.ask("Long?", Listener())
    assert conversation.messages[-1] == {"role": "assistant", "content": "As far as"}


@pytest.mark.parametrize(
    ("engine", "pieces", "answer", "said"),
    [
        (LLAMA, event(error={"message": "too long for the context"}), Answer(0, 400), "too long for the context"),
        (LLAMA, '{"error": {"message": "Loading model"}}', Answer(0, 503), "HTTP 503: {"),
        (LLAMA, "<html>Bad gateway</html>", Answer(0, 502), "HTTP 502: <html>Bad gateway"),
        (LLAMA, delta(content="half"), Answer(0, 200), "the answer broke off"),
        (LLAMA, "", Answer(7, error="curl: (7) refused"), "curl: (7) refused"),
        (OLLAMA, '{"error": "model runner has stopped"}\n', Answer(0, 200), "model runner has stopped"),
        (OLLAMA, '{"error": "no such model"}', Answer(0, 404), "no such model"),
        (OLLAMA, '{"error": "\\"m\\" does not support chat"}', Answer(0, 400), "its weights are not in the volume"),
    ],
)
def test_a_refusal_is_told_in_the_servers_words_and_not_part_of_the_talk(
    engine: Any, pieces: str, answer: Answer, said: str
) -> None:
    conversation = talk(Inside([pieces.encode()], answer), engine)
    with pytest.raises(AnklumeError) as failed:
        conversation.ask("?", Listener())
    assert said in failed.value.message
    assert conversation.messages == []


def test_without_the_servers_own_figure_tokens_are_counted_from_the_first_piece() -> None:
    pieces = [delta(content=word) for word in "abc"] + [event(usage={"completion_tokens": 3}), "data: [DONE]\n\n"]
    reply = talk(Inside([piece.encode() for piece in pieces])).ask("?", Listener())
    assert reply.tokens == 3
    assert reply.tokens_per_second == pytest.approx(2 / (reply.seconds - reply.first))
    assert replace(reply, tokens_per_second=None) != Reply()


# which machine


def test_the_one_machine_that_serves_models_is_asked() -> None:
    llm, webui = seen(machine("llm", roles=("llama_server",))), seen(machine("webui", roles=("open_webui",)))
    book = cast("ImageLookup", Book())
    assert machine_to_ask([webui, llm], book, FILE) is llm
    with pytest.raises(AnklumeError, match="no machine of the file serves models"):
        machine_to_ask([webui], book, FILE)
    other = seen(machine("other", roles=("ollama_server",)))
    with pytest.raises(AnklumeError, match="llm, other") as failed:
        machine_to_ask([llm, other], book, FILE)
    assert failed.value.hint == "name one: --machine llm"


@dataclass
class Server:
    """A stand-in for a connection to Incus: curl is answered with this text and status, or fails."""

    text: str
    status: int = 200
    code: int = 0

    def within(self, _project: str) -> Server:
        return self

    def execute(self, _name: str, _command: Any, **_options: Any) -> Result:
        return Result(self.code, f"{self.text}\n{self.status}".encode(), b"curl: (7) refused")


TAGS = json.dumps({"models": [{"name": "llama3.2:latest"}, {"name": "qwen3:4b"}]})


def chosen(one: Any, server: Server, model: str | None = None) -> str:
    return begin(cast("Incus", server), one, cast("ImageLookup", Book()), FILE, model=model).model


@pytest.mark.parametrize(
    ("default", "named", "model"),
    [
        ("", None, "llama3.2:latest"),
        ("qwen3:4b", None, "qwen3:4b"),
        ("qwen3:4b", "llama3.2", "llama3.2:latest"),
    ],
)
def test_the_model_is_the_named_one_the_default_or_the_first(default: str, named: str | None, model: str) -> None:
    config = {"user.anklume.ollama_default_model": default} if default else {}
    one = seen(machine("llm", roles=("ollama_server",)), config=config)
    assert chosen(one, Server(TAGS), named) == model


@pytest.mark.parametrize(
    ("keys", "server", "model", "said", "hint"),
    [
        ({"state": "stopped"}, Server(TAGS), None, "llm is stopped", "starts it"),
        ({"state": "missing"}, Server(TAGS), None, "never launched", "anklume-launch"),
        ({"config": {"user.anklume.ollama_service_enabled": "false"}}, Server(TAGS), None, "switched off", "to true"),
        ({}, Server("", code=7), None, "does not answer: curl: (7) refused", "doctor infra.yml --only llm"),
        ({}, Server('{"models": []}'), None, "no model", "doctor infra.yml --only llm"),
        ({}, Server(TAGS), "qwen3:4", "no model qwen3:4", "did you mean 'qwen3:4b'?"),
        ({}, Server(TAGS), "lama3.2", "no model lama3.2", "did you mean 'llama3.2'?"),
        ({}, Server(TAGS), "gpt", "no model gpt", "there are: llama3.2:latest, qwen3:4b"),
    ],
)
def test_what_cannot_be_asked_is_told_with_what_to_do(
    keys: dict[str, Any], server: Server, model: str | None, said: str, hint: str
) -> None:
    one = seen(machine("llm", roles=("ollama_server",)), **{"state": "running", **keys})
    with pytest.raises((AnklumeError, IncusError)) as failed:
        chosen(one, server, model)
    assert said in failed.value.message
    assert hint in str(failed.value.hint)


def test_a_machine_without_an_engine_is_told() -> None:
    with pytest.raises(AnklumeError, match="web serves no models"):
        chosen(seen(machine("web", roles=("open_webui",))), Server(TAGS))
