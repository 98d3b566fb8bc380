"""The stand-in for Ollama does as a real one does, fact by fact: its interface, and models at work."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ollama.checks import Checks
from tests.support.ollama.facts import Fact, facts_of
from tests.support.ollama.running import CARD, NVIDIA, SECONDS, StandIn

if TYPE_CHECKING:
    from pathlib import Path

holds = Checks()
ROOMS = facts_of("interface", "answers")


@pytest.mark.parametrize("fact", ROOMS, ids=lambda fact: fact.code)
def test_fact(fact: Fact, tmp_path: Path) -> None:
    holds.hold(fact, tmp_path)


def test_every_fact_has_its_check() -> None:
    assert {fact.code for fact in ROOMS} == holds.keys()


OK = {"role": "user", "content": "hello"}


# the interface


@holds("version")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    version = stand_in.ask("/api/version").json()["version"]
    assert stand_in.command("--version").stdout == f"ollama version is {version}\n"
    assert stand_in.ask("/").body == b"Ollama is running"
    assert stand_in.ask("/", method="HEAD").status == 200


@holds("not-found")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    assert stand_in.ask("/api/nothing").status == 404
    answer = stand_in.ask("/api/show", {"model": "none"})
    assert (answer.status, answer.json()["error"]) == (404, "model 'none' not found")


@holds("tags")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny:1b")
    stand_in.start()
    (model,) = stand_in.ask("/api/tags").json()["models"]
    manifest = (stand_in.models / "manifests/registry.ollama.ai/library/tiny/1b").read_bytes()
    assert (model["name"], model["digest"]) == ("tiny:1b", hashlib.sha256(manifest).hexdigest())
    assert model["size"] == sum(file.stat().st_size for file in (stand_in.models / "blobs").iterdir())
    assert (model["details"]["format"], model["details"]["quantization_level"]) == ("gguf", "Q4_1")
    assert stand_in.command("list").stdout == "tiny:1b\n"


@holds("show")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    (weights,) = [line for line in shown(stand_in) if line.startswith("FROM ")]
    digest = hashlib.sha256(b"GGUF of a stand-in").hexdigest()
    assert weights == f"FROM {stand_in.models}/blobs/sha256-{digest}"


def shown(stand_in: StandIn) -> list[str]:
    return str(stand_in.ask("/api/show", {"model": "tiny"}).json()["modelfile"]).splitlines()


@holds("openai-models")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    assert [model["id"] for model in stand_in.ask("/v1/models").json()["data"]] == stand_in.names() == ["tiny:latest"]


def origin(stand_in: StandIn, text: str) -> int:
    answer = stand_in.ask("/api/version", Origin=text)
    assert (answer.status == 403) == (answer.body == b"")
    return answer.status


@holds("foreign-origin")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    known = (
        "http://localhost",
        "http://localhost:3000",
        "https://127.0.0.1",
        "app://x",
        f"http://127.0.0.1:{stand_in.port}",
    )
    assert {origin(stand_in, text) for text in known} == {200}
    assert {origin(stand_in, text) for text in ("https://web.example", "http://localhost.example")} == {403}


@holds("origins-added")
def _(stand_in: StandIn) -> None:
    stand_in.start(OLLAMA_ORIGINS="https://web.example,http://*.lan")
    allowed = ("https://web.example", "http://a.lan", "http://localhost")
    assert {origin(stand_in, text) for text in allowed} == {200}
    assert origin(stand_in, "https://other.example") == 403


@holds("foreign-host")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    names = ("localhost", "127.0.0.1:1", socket.gethostname(), "x.internal", "web.example", "web.example:80")
    found = [stand_in.ask("/api/version", Host=name).status for name in names]
    assert found == [200, 200, 200, 200, 403, 403]


@holds("foreign-host-elsewhere")
def _(stand_in: StandIn) -> None:
    stand_in.start(OLLAMA_HOST="0.0.0.0:0")
    assert stand_in.ask("/api/version", Host="web.example").status == 200


# models at work


@holds("generate")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    answer = stand_in.ask("/api/generate", {"model": "tiny", "prompt": "grün", "stream": False})
    (whole,) = answer.lines()
    assert (whole["model"], whole["response"], whole["done"]) == ("tiny", "stand-in: grün", True)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    figures(whole)


def figures(last: dict[str, Any]) -> None:
    """What the last object tells of tokens, in nanoseconds."""
    for name in ("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"):
        assert last[name] > 0
    assert last["eval_count"] / last["eval_duration"] * 1e9 == 2000


def streamed(stand_in: StandIn, path: str, body: dict[str, Any]) -> list[Any]:
    answer = stand_in.ask(path, {"model": "tiny"} | body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["transfer-encoding"] == "chunked"
    lines = answer.lines()
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    figures(lines[-1])
    assert lines[-1]["done_reason"] == "stop"
    return lines


@holds("generate-streamed")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    lines = streamed(stand_in, "/api/generate", {"prompt": "hello"})
    assert len(lines) == 4
    assert "".join(line["response"] for line in lines) == "stand-in: hello"


@holds("chat-streamed")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    said = [OK, {"role": "assistant", "content": "x"}, {"role": "user", "content": 'one "two"\n42'}]
    lines = streamed(stand_in, "/api/chat", {"messages": said})
    assert {line["message"]["role"] for line in lines} == {"assistant"}
    assert "".join(line["message"]["content"] for line in lines) == 'stand-in: one "two"\n42'


COMPLETIONS = "/v1/chat/completions"


@holds("openai")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    whole = stand_in.ask(COMPLETIONS, {"model": "tiny", "messages": [OK]}).json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "stand-in: hello"}
    assert (whole["object"], whole["usage"]["completion_tokens"]) == ("chat.completion", 4)


@holds("openai-streamed")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    body = {"model": "tiny", "messages": [OK], "stream": True}
    for usage in (False, True):
        answer = stand_in.ask(COMPLETIONS, body | {"stream_options": {"include_usage": usage}})
        assert answer.headers["content-type"] == "text/event-stream"
        *events, done, rest = answer.body.decode().split("\n\n")
        assert (done, rest) == ("data: [DONE]", "")
        found = [json.loads(event.removeprefix("data: ")) for event in events]
        said = [choice["delta"]["content"] for event in found for choice in event["choices"]]
        assert "".join(said) == "stand-in: hello"
        assert [event["usage"]["completion_tokens"] for event in found if "usage" in event] == [4] * usage


@holds("as-it-is-made")
def _(stand_in: StandIn) -> None:
    stand_in.give("slow")  # which waits after each token for longer than a test may take
    stand_in.start()
    for path in ("/api/generate", "/api/chat", COMPLETIONS):
        connection = http.client.HTTPConnection("127.0.0.1", stand_in.port, timeout=SECONDS)
        body = {"model": "slow", "messages": [OK], "prompt": "hello", "stream": True}
        connection.request("POST", path, json.dumps(body))
        line = connection.getresponse().readline()
        assert b'"stand"' in line
        assert b"hello" not in line
        connection.close()


@holds("num-predict")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    last = stand_in.ask("/api/chat", {"model": "tiny", "messages": [OK], "options": {"num_predict": 2}}).lines()[-1]
    assert (last["eval_count"], last["done_reason"]) == (2, "length")


@holds("base-model")
def _(stand_in: StandIn) -> None:
    stand_in.give("base", template=False)
    stand_in.start(OLLAMA_CONTEXT_LENGTH="7")
    for options, count in (({}, 70), ({"num_predict": 9}, 9)):
        last = stand_in.ask("/api/chat", {"model": "base", "messages": [OK], "options": options}).lines()[-1]
        assert (last["eval_count"], last["done_reason"]) == (count, "length")


@holds("unknown-model")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    for path in ("/api/generate", "/api/chat"):
        answer = stand_in.ask(path, {"model": "none", "messages": [OK]})
        assert (answer.status, answer.json()["error"]) == (404, "model 'none' not found")
    answer = stand_in.ask(COMPLETIONS, {"model": "none", "messages": [OK]})
    assert (answer.status, answer.json()["error"]["message"]) == (404, "model 'none' not found")


@holds("no-model-blob")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny", model=b"GGUF gone")
    (stand_in.models / f"blobs/sha256-{hashlib.sha256(b'GGUF gone').hexdigest()}").unlink()
    stand_in.start()
    assert stand_in.names() == ["tiny:latest"]
    for path, verb in (("/api/generate", "generate"), ("/api/chat", "chat")):
        answer = stand_in.ask(path, {"model": "tiny", "messages": [OK]})
        assert (answer.status, answer.json()["error"]) == (400, f'"tiny" does not support {verb}')


def loaded(stand_in: StandIn, name: str = "tiny") -> tuple[int, int, str]:
    """Size, bytes on a card and what `ollama ps` says, once the model has answered."""
    assert stand_in.ask("/api/generate", {"model": name, "prompt": "x"}).status == 200
    (model,) = stand_in.ask("/api/ps").json()["models"]
    assert model["name"] == f"{name}:latest"
    return model["size"], model["size_vram"], stand_in.command("ps").stdout.split(maxsplit=1)[1].strip()


@holds("ps-cpu")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    stand_in.start()
    assert stand_in.ask("/api/ps").json() == {"models": []}
    assert loaded(stand_in) == (287246908, 0, "100% CPU")


@holds("ps-card")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    stand_in.give("tiny")
    stand_in.start()
    assert loaded(stand_in) == (325708676, 325708676, "100% GPU")
    assert "load_tensors: offloaded 31/31 layers to GPU\n" in stand_in.log()
    assert re.search(r"Vulkan0 model buffer size = +87\.74 MiB", stand_in.log())


@holds("names-its-file")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    stand_in.give("tiny")
    stand_in.start()
    assert loaded(stand_in) == (325708676, 325708676, "100% GPU")
    (named,) = re.findall(r"loaded meta data with .* from (.+) \(version ", stand_in.log())
    assert f"FROM {named}" in shown(stand_in)


@holds("ps-partly")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    stand_in.give("half-large")
    stand_in.start()
    for _again in range(2):
        assert loaded(stand_in, "half-large") == (3246145640, 1069977435, "67%/33% CPU/GPU")
    assert "projected to use 2991 MiB of device memory vs. 2048 MiB of free device memory" in stand_in.log()
    assert "offloaded 10/31 layers to GPU" in stand_in.log()
    assert "level=WARN" not in stand_in.log()


@holds("ps-until")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    for setting, asked, there in (("", 0, False), ("0", None, False), ("0", "1m", True), ("-1", None, True)):
        with stand_in.serving(OLLAMA_KEEP_ALIVE=setting):
            stand_in.ask("/api/generate", {"model": "tiny", "prompt": "x", "keep_alive": asked})
            assert bool(stand_in.ask("/api/ps").json()["models"]) == there, (setting, asked)
    with stand_in.serving(OLLAMA_KEEP_ALIVE="1s"):
        stand_in.ask("/api/generate", {"model": "tiny", "prompt": "x"})
        end = time.monotonic() + SECONDS
        while stand_in.ask("/api/ps").json()["models"]:
            assert time.monotonic() < end
            time.sleep(0.1)


def fails(stand_in: StandIn, name: str) -> str:
    stand_in.give(name)
    stand_in.start()
    answer = stand_in.ask("/api/chat", {"model": name, "messages": [OK]})
    assert answer.status == 500
    error = answer.json()["error"]
    assert error.startswith("llama-server process has terminated: ")
    assert stand_in.ask("/api/ps").json() == {"models": []}
    return str(error)


@holds("out-of-memory")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    error = fails(stand_in, "too-large")
    assert "exit status 1: alloc_tensor_range: failed to allocate Vulkan0 buffer of size " in error
    assert "ErrorOutOfDeviceMemory" in stand_in.log()
    assert "llama-server reported out-of-memory during startup: " in stand_in.log()


@holds("out-of-memory-cuda")
def _(stand_in: StandIn) -> None:
    stand_in.put(*NVIDIA)
    assert "cudaMalloc failed: out of memory" in fails(stand_in, "too-large")
    assert "cudaMalloc failed: out of memory" in stand_in.log()


@holds("runner-died")
def _(stand_in: StandIn) -> None:
    assert "signal: killed" in fails(stand_in, "dies")
