"""Any server with OpenAI's interface: its checks, and how one talks to it.

The interface: https://platform.openai.com/docs/api-reference. `timings` are llama.cpp's addition to it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from launcher.engines.chat import ChatInterface, Piece, Question
from launcher.engines.probe import TOKENS, Outcome, failed, names_in, shown

if TYPE_CHECKING:
    from launcher.engines.probe import Probe, Reply

__all__ = ["CHAT", "answer", "models"]


def models(probe: Probe) -> Outcome:
    """GET /v1/models names the model."""
    reply = probe.inside.request(f"{probe.url}/v1/models", bearer=probe.key)
    names = names_in(reply, "data", "id")
    if not names:
        return failed(f"/v1/models: {reply.said()}")
    return Outcome("ok", f"/v1/models: HTTP 200, models: {', '.join(names)}", names)


def answer(probe: Probe) -> Outcome:
    """POST /v1/chat/completions answers a prompt."""
    body = {
        "model": probe.models[0] if probe.models else "default",
        "messages": [{"role": "user", "content": probe.prompt}],
        "max_tokens": TOKENS,
    }
    url = f"{probe.url}/v1/chat/completions"
    reply = probe.inside.request(url, body, bearer=probe.key, seconds=probe.seconds)
    text = _completion(reply)
    if not text:
        return failed(f"/v1/chat/completions: {reply.said()}{'' if text is None else ', but the answer is empty'}")
    return Outcome("ok", f"{body['model']}: {shown(text)}")


def _completion(reply: Reply) -> str | None:
    try:
        message = reply.json()["choices"][0]["message"] if reply.ok else {}
        text = message.get("content") or message.get("reasoning_content") or message.get("content")
    except (LookupError, TypeError, AttributeError):
        return None
    return text if isinstance(text, str) else None


def _body(question: Question) -> dict[str, Any]:
    body: dict[str, Any] = {"model": question.model, "messages": [dict(message) for message in question.messages]}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    chosen = {"temperature": question.temperature, "max_tokens": question.max_tokens}
    return body | {key: value for key, value in chosen.items() if value is not None}


def _piece(line: str) -> Piece | None:
    """A line of server-sent events: `data: JSON`, and `data: [DONE]` at the end."""
    field, _, value = line.partition(":")
    if field not in ("data", "error"):
        return None
    if value.strip() == "[DONE]":
        return Piece(end=True)
    try:
        document = json.loads(value)
    except ValueError:
        return None
    return _brought(document) if isinstance(document, dict) else None


def _brought(document: dict[str, Any]) -> Piece:
    error = document.get("error")
    if error:
        return Piece(error=str(error.get("message") or error) if isinstance(error, dict) else str(error))
    choices = document.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    timings, usage = document.get("timings") or {}, document.get("usage") or {}
    return Piece(
        answer=delta.get("content") or "",
        thought=delta.get("reasoning_content") or "",
        tokens=timings.get("predicted_n") or usage.get("completion_tokens"),
        tokens_per_second=timings.get("predicted_per_second"),
    )


CHAT = ChatInterface(
    path="/v1/chat/completions",
    body=_body,
    piece=_piece,
    models_path="/v1/models",
    listed="data",
    named="id",
)
