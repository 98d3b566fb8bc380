"""Ollama: models in a store of its own, and an interface of its own.

The interface: https://github.com/ollama/ollama/blob/main/docs/api.md. Lines of its journal: its server and runner
(server/routes.go, discover/, llm/server.go of https://github.com/ollama/ollama), and ggml's, which is in the runner.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from anklume_images.models.layout import as_manifest
from launcher.engines import ggml
from launcher.engines.chat import ChatInterface, Piece, Question
from launcher.engines.engine import Engine, Journal, Loaded, Pulls, StoreModels, any_of
from launcher.engines.open_webui import OLLAMA_API
from launcher.engines.probe import TOKENS, Outcome, failed, names_in, shown

if TYPE_CHECKING:
    from launcher.engines.probe import GuestLike, Probe

__all__ = ["ENGINE"]

_HIDDEN = r"user overrode visible devices"  # CUDA_VISIBLE_DEVICES and its like
_JOURNAL = Journal(
    on_cpu=any_of(
        *ggml.ON_CPU,
        r"no compatible GPUs were discovered",
        r"unable to load (?:cuda|nvidia|vulkan)[ \w]*library",
        r"cuda\w* driver[^:]*(?:: |failure: |context )\d{3}",
    ),
    # A backend that is not there or cannot be loaded is passed over without a word; `library=cpu` below is all then.
    reasons=any_of(
        r"failure during llama-server GPU discovery",
        r"GPU discovery watchdog timed out",
        r"(?:NVIDIA|AMD) driver (?:is )?too old",
        _HIDDEN,
    ),
    hidden=re.compile(_HIDDEN),
    # One such line for each device that it will use: `msg="inference compute" id=… library=CUDA …`.
    devices=re.compile(r'msg="inference compute".*?\blibrary=(\w+)'),
    no_vram=any_of(
        *ggml.NO_VRAM,
        r"insufficient VRAM to load any model layers",
        r"llama-server reported out-of-memory during startup",
        r"runtime OOM detected",
    ),
    no_ram=any_of(r"model requires more system memory"),
    # The runner is a process of its own, and this is what it or its server said last.
    died=any_of(r"(?:llama runner|llama-server) (?:process )?(?:has )?terminated", *ggml.DIED),
    model=ggml.MODEL,
    layers=ggml.LAYERS,
    shortage=ggml.SHORTAGE,
    buffers=ggml.BUFFERS,
    not_loaded=ggml.NOT_LOADED,
    unknown=ggml.UNKNOWN,
    damaged=any_of(*ggml.DAMAGED),
)

# What image_specs/ollama/files/ollama-models says, which pulls the wanted models.
_PULLS = Pulls("ollama-models", re.compile(r"(\S+) cannot be pulled: (.+)"))


def _list_models(probe: Probe) -> Outcome:
    """GET /api/tags lists the models."""
    reply = probe.inside.request(f"{probe.url}/api/tags")
    models = names_in(reply, "models", "name")
    if models is None:
        return failed(f"/api/tags: {reply.said()}")
    return Outcome("ok", f"/api/tags: HTTP 200, models: {', '.join(models) or 'none'}", models)


def _answer(probe: Probe) -> Outcome:
    """POST /api/generate answers a prompt."""
    default = probe.settings["ollama_default_model"]
    model = _choose(default, probe.models)
    if model is None:
        if default:
            return failed(f"the model {default} is not there: anklume-launch logs … --unit {_PULLS.unit} says why")
        return Outcome("skipped", "there is no model: set ollama_default_model, or bring one into the volume")
    body = {"model": model, "prompt": probe.prompt, "stream": False, "options": {"num_predict": TOKENS}}
    reply = probe.inside.request(f"{probe.url}/api/generate", body, seconds=probe.seconds)
    document = reply.json() if reply.ok else None
    if not isinstance(document, dict) or not isinstance(document.get("response"), str):
        return failed(f"{model}: /api/generate: {_explained(reply.said())}")
    text = document["response"] or document.get("thinking")  # a model that thinks first may not come further
    if not text:
        return failed(f"{model}: /api/generate: HTTP 200, but the answer is empty")
    return Outcome("ok", f"{model}: {shown(str(text))}{_speed(document)}")


def _explained(error: str) -> str:
    """An error with what it may mean: a model is listed by its manifest alone, and then "does not support generate"."""
    if re.search(r"does not support (?:chat|generate)", error):
        return f"{error} (its weights are not in the volume, or it is a model for something else)"
    return error


def _choose(default: str, models: tuple[str, ...]) -> str | None:
    if not default:
        return models[0] if models else None
    return next((model for model in models if _short(model) == _short(default)), None)


def _short(name: str) -> str:
    """A name without a tag means `latest`."""
    return name.removesuffix(":latest")


def _speed(document: dict[str, Any]) -> str:
    """Tokens in a second, where Ollama tells count and nanoseconds."""
    count, duration = document.get("eval_count"), document.get("eval_duration")
    if not isinstance(count, int) or not isinstance(duration, int) or not duration:
        return ""
    return f" ({count} tokens, {count / duration * 1e9:.1f} a second)"


def _loaded(document: Any) -> tuple[Loaded, ...]:
    models = document.get("models") if isinstance(document, dict) else None
    return tuple(
        Loaded(str(model.get("name")), int(model.get("size") or 0), int(model.get("size_vram") or 0))
        for model in models or ()
    )


def _file_of(inside: GuestLike, url: str, name: str) -> str:
    """POST /api/show answers with a Modelfile, whose first FROM is the file of the model's weights."""
    reply = inside.request(f"{url}/api/show", {"model": name})
    document = reply.json() if reply.ok else None
    text = document.get("modelfile") if isinstance(document, dict) else None
    found = re.search(r"^FROM (/.+)$", text, re.MULTILINE) if isinstance(text, str) else None
    return found[1] if found else ""


def _body(question: Question) -> dict[str, Any]:
    chosen = {"temperature": question.temperature, "num_predict": question.max_tokens}
    return {
        "model": question.model,
        "messages": [dict(message) for message in question.messages],
        "stream": True,
        "options": {key: value for key, value in chosen.items() if value is not None},
    }


def _piece(line: str) -> Piece | None:
    """A line is a JSON document, and the last one has `done`, a count and nanoseconds."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    if document.get("error"):
        return Piece(error=_explained(str(document["error"])))
    message = document.get("message") or {}
    count, duration = document.get("eval_count"), document.get("eval_duration")
    return Piece(
        answer=message.get("content") or "",
        thought=message.get("thinking") or "",
        tokens=count,
        tokens_per_second=count / duration * 1e9 if count and duration else None,
        end=bool(document.get("done")),
    )


_CHAT = ChatInterface(
    path="/api/chat",
    body=_body,
    piece=_piece,
    models_path="/api/tags",
    listed="models",
    named="name",
    default_model="ollama_default_model",
    short=_short,
)

ENGINE = Engine(
    role="ollama_server",
    title="Ollama",
    unit="ollama",
    prefix="ollama",
    port=11434,
    listens_as="listen",
    connection=OLLAMA_API,
    chat=_CHAT,
    checks={"ollama-api": _list_models, "ollama-inference": _answer},
    journal=_JOURNAL,
    smaller_model="llama3.2:3b needs about 2 GiB",
    model_store="/root/.ollama",
    from_store=StoreModels(("ollama_default_model", "ollama_extra_models"), as_manifest, pulls=_PULLS),
    loaded_path="/api/ps",
    loaded=_loaded,
    file_of=_file_of,
)
