"""The checks of `verify`, one function each: ask inside the machine, and say what was seen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from launcher.gpu.nvidia_smi import nvidia_smi
from launcher.inspect.administrator import missing_administrator
from launcher.inspect.cards import QUERY, strangers
from launcher.inspect.guest import NOT_FOUND
from launcher.inspect.services import LLAMA_SERVER, OLLAMA, OPEN_WEBUI, listening_url

if TYPE_CHECKING:
    from launcher.gpu.cards import Card
    from launcher.gpu.nvidia_smi import Figures
    from launcher.inspect.guest import Answer, Inside
    from launcher.inspect.services import Settings

__all__ = [
    "Outcome",
    "Probe",
    "failed",
    "gpu",
    "llama_health",
    "llama_inference",
    "llama_models",
    "ollama_api",
    "ollama_inference",
    "webui_engine",
    "webui_page",
]

_TITLE = re.compile(r"<title>([^<]*)</title>", re.IGNORECASE)
_TOKENS = 64  # an answer need not be long to be one
_SHOWN = 200


@dataclass(frozen=True)
class Outcome:
    """What a check came to; `models` are those that it found."""

    state: Literal["ok", "failed", "skipped"]
    evidence: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe:
    """A machine to ask, the host's cards, and what to ask a model; `models` are those that an earlier check found."""

    inside: Inside
    settings: Settings
    cards: tuple[Card, ...]
    prompt: str
    seconds: int
    models: tuple[str, ...] = ()


def failed(evidence: str) -> Outcome:
    """A failed check."""
    return Outcome("failed", evidence)


def gpu(probe: Probe) -> Outcome:
    """nvidia-smi inside shows cards, and they are the host's."""
    if probe.cards and not any(card.is_nvidia for card in probe.cards):
        return Outcome("skipped", "the host has no NVIDIA card; nvidia-smi knows no other")
    result = probe.inside.run(*QUERY)
    said = (result.stderr or result.stdout).decode(errors="replace").strip()
    if result.code == NOT_FOUND:
        return failed("there is no nvidia-smi in the machine: anklume-launch doctor says why")
    if result.code:
        return failed(f"nvidia-smi ended with {result.code}: {said[:_SHOWN]}")
    found = nvidia_smi(result.stdout.decode(errors="replace"))
    if not found:
        return failed(f"nvidia-smi lists no card: {said[:_SHOWN]}")
    text = "; ".join(_card(card) for card in found)
    if others := strangers(found, probe.cards):
        return failed(f"not a card of this host: {'; '.join(_card(card) for card in others)}")
    return Outcome("ok", f"{text}: the host's")


def _card(card: Figures) -> str:
    return f"{card.name}, {card.uuid}, {card.pci}, driver {card.driver_version}"


def ollama_api(probe: Probe) -> Outcome:
    """GET /api/tags lists the models."""
    answer = probe.inside.request(f"{listening_url(OLLAMA, probe.settings)}/api/tags")
    models = _names(answer, "models", "name")
    if models is None:
        return failed(f"/api/tags: {answer.said()}")
    return Outcome("ok", f"/api/tags: HTTP 200, models: {', '.join(models) or 'none'}", models)


def ollama_inference(probe: Probe) -> Outcome:
    """POST /api/generate answers a prompt."""
    wanted = probe.settings["ollama_default_model"]
    model = _choose(wanted, probe.models)
    if model is None:
        if wanted:
            return failed(f"the model {wanted} is not there: anklume-launch logs … --unit ollama-models says why")
        return Outcome("skipped", "there is no model: set ollama_default_model, or bring one into the volume")
    body = {"model": model, "prompt": probe.prompt, "stream": False, "options": {"num_predict": _TOKENS}}
    answer = probe.inside.request(f"{listening_url(OLLAMA, probe.settings)}/api/generate", body, seconds=probe.seconds)
    document = answer.json() if answer.ok else None
    if not isinstance(document, dict) or not isinstance(document.get("response"), str):
        return failed(f"{model}: /api/generate: {answer.said()}")
    text = document["response"] or document.get("thinking")  # a model that thinks first may not come further
    if not text:
        return failed(f"{model}: /api/generate: HTTP 200, but the answer is empty")
    return Outcome("ok", f"{model}: {_shown(str(text))}{_speed(document)}")


def _choose(wanted: str, models: tuple[str, ...]) -> str | None:
    if not wanted:
        return models[0] if models else None
    # A name without a tag means `latest`.
    return next((model for model in models if model in (wanted, f"{wanted}:latest")), None)


def _speed(document: dict[str, Any]) -> str:
    """Tokens in a second, where Ollama tells count and nanoseconds."""
    count, duration = document.get("eval_count"), document.get("eval_duration")
    if not isinstance(count, int) or not isinstance(duration, int) or not duration:
        return ""
    return f" ({count} tokens, {count / duration * 1e9:.1f} a second)"


def llama_health(probe: Probe) -> Outcome:
    """GET /health: the model is loaded."""
    answer = probe.inside.request(f"{listening_url(LLAMA_SERVER, probe.settings)}/health")
    return Outcome("ok" if answer.ok else "failed", f"/health: {answer.said()}")


def llama_models(probe: Probe) -> Outcome:
    """GET /v1/models names the model."""
    url = f"{listening_url(LLAMA_SERVER, probe.settings)}/v1/models"
    answer = probe.inside.request(url, bearer=probe.settings["llama_server_api_key"])
    models = _names(answer, "data", "id")
    if not models:
        return failed(f"/v1/models: {answer.said()}")
    return Outcome("ok", f"/v1/models: HTTP 200, models: {', '.join(models)}", models)


def llama_inference(probe: Probe) -> Outcome:
    """POST /v1/chat/completions answers a prompt."""
    body = {
        "model": probe.models[0] if probe.models else "default",
        "messages": [{"role": "user", "content": probe.prompt}],
        "max_tokens": _TOKENS,
    }
    url = f"{listening_url(LLAMA_SERVER, probe.settings)}/v1/chat/completions"
    key = probe.settings["llama_server_api_key"]
    answer = probe.inside.request(url, body, bearer=key, seconds=probe.seconds)
    text = _completion(answer)
    if not text:
        return failed(f"/v1/chat/completions: {answer.said()}{'' if text is None else ', but the answer is empty'}")
    return Outcome("ok", f"{body['model']}: {_shown(text)}")


def _completion(answer: Answer) -> str | None:
    try:
        message = answer.json()["choices"][0]["message"] if answer.ok else {}
        text = message.get("content") or message.get("reasoning_content") or message.get("content")
    except (LookupError, TypeError, AttributeError):
        return None
    return text if isinstance(text, str) else None


def webui_page(probe: Probe) -> Outcome:
    """The front page is Open WebUI's HTML, and its administrator is there where one was asked for."""
    missing = missing_administrator(probe.inside, probe.settings)
    if missing is not None:
        return failed(f"there is no administrator: {missing.reason}")
    answer = probe.inside.request(listening_url(OPEN_WEBUI, probe.settings) + "/")
    if not answer.ok:
        return failed(f"/: {answer.said()}")
    title = _TITLE.search(answer.text)
    text = f"/: HTTP 200, {len(answer.text.encode())} bytes, title {title[1]!r}" if title else "/: HTTP 200, no title"
    return Outcome("ok" if title and "Open WebUI" in title[1] else "failed", text)


def webui_engine(probe: Probe) -> Outcome:
    """From inside, the engines at the addresses that Open WebUI was given answer."""
    engines = probe.settings.engines
    if not engines:
        return Outcome("skipped", "it was given no engine")
    answers = [(engine, probe.inside.request(engine.probe, bearer=engine.key)) for engine in engines]
    text = "; ".join(f"{engine.probe}: {answer.said()}" for engine, answer in answers)
    return Outcome("ok" if all(answer.ok for _, answer in answers) else "failed", text)


def _names(answer: Answer, listed: str, key: str) -> tuple[str, ...] | None:
    """The names in a list of models; None when it is no such answer."""
    document = answer.json() if answer.ok else None
    entries = document.get(listed) if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return None
    return tuple(str(entry.get(key)) for entry in entries if isinstance(entry, dict))


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…")
