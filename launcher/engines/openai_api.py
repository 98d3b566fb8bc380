"""Checks of any server with OpenAI's interface: https://platform.openai.com/docs/api-reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.engines.probe import TOKENS, Outcome, failed, names_in, shown

if TYPE_CHECKING:
    from launcher.engines.probe import Probe, Reply

__all__ = ["answer", "models"]


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
