"""A plan as a person reads it, and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from anklume_images.console import human_size
from launcher.infra.names import DOMAIN, IMAGE, MACHINE
from launcher.plan.changes import MODELS
from launcher.plan.removal import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.plan.changes import Change
    from launcher.plan.difference import Plan, Step
    from launcher.resources import Key, Resource

__all__ = ["document", "label", "lines", "notes", "summary"]

_SIGNS = {"create": "+", "change": "~", "start": ">", "restart": "!", "replace": "!", "none": " "}
_WORDS = {"create": "create", "change": "change", "start": "start", "restart": "RESTART", "replace": "REPLACE"}
_HIDDEN = "(secret)"


def lines(plan: Plan) -> Iterator[str]:
    """The plan, a line for each thing to do, and its sum."""
    for line in describe(plan.removing):
        yield f"- {line}"
    for step in plan.todo:
        word = "" if step.action == "create" else f"  {_word(step)}"
        yield f"{_SIGNS[step.action]} {label(step.resource)}{word}"
        if step.action != "create":
            yield from (f"    {_change(change)}" for change in step.changes if change.key not in _MARKS)
    yield from notes(plan)
    yield summary(plan)


def notes(plan: Plan) -> Iterator[str]:
    """What is worth knowing beside the steps."""
    for notice in plan.notices:
        yield f"note: {notice}"
    for machine, running, image in plan.waiting:
        yield f"note: {machine} runs {running}; --replace makes it anew from {image} (its volumes stay)"
    for key in plan.orphans:
        if key.kind == "volume":
            yield f"note: volume {key.name} (project {key.project}) is no machine's; destroy --volumes removes it"
        elif key not in plan.removing:
            yield f"note: {key.kind} {key.name} is no longer in the file; --prune removes it"


_MARKS = frozenset({f"config.{DOMAIN}", f"config.{IMAGE}", f"config.{MACHINE}"})


def summary(plan: Plan) -> str:
    """What the plan comes to, in one line."""
    counts = {word: sum(step.action == action for step in plan.steps) for action, word in _WORDS.items()}
    counts["remove"] = len(plan.removing)
    parts = [f"{count} to {word}" for word, count in counts.items() if count]
    unchanged = len(plan.steps) - len(plan.todo)
    unread = f", {plan.unread} of them not read (--deep reads them)" if plan.unread else ""
    return f"{', '.join(parts) or 'nothing to do'}; {unchanged} unchanged{unread}"


def _word(step: Step) -> str:
    return "start" if step.action == "restart" and step.stopped else _WORDS[step.action]


def label(resource: Resource) -> str:
    """What an object is, in words."""
    key = resource.key
    if key.kind == "machine":
        assert resource.machine is not None  # noqa: S101 - a machine's resource has it
        where = f"  {resource.machine.address}" if resource.machine.address else ""
        image = resource.image.ref if resource.image else str(resource.machine.image.remote)
        return f"machine {resource.machine.name}  {image}{where}  (project {key.project})"
    if key.kind == "image":
        assert resource.image is not None  # noqa: S101 - an image's resource has it
        return f"image {resource.image.ref}  {key.name[:12]}"
    if key.kind == "network":
        return f"network {key.name}  {resource.config['ipv4.address']}"
    text = f"{key.kind} {key.name}"
    if key.kind == "models":
        names = ", ".join(f"{model.name} ({human_size(model.size)})" for model in resource.models)
        text = f"models in volume {key.name}: {names}"
    return f"{text}  (project {key.project})" if key.kind in ("volume", "models", "profile") else text


def _change(change: Change) -> str:
    if change.secret:
        return f"{change.key}: {_HIDDEN} → {_HIDDEN}"
    if change.key.startswith(MODELS):
        return f"{change.key.removeprefix(MODELS)}: {human_size(change.after)} to copy"
    return f"{change.key}: {_text(change.before)} → {_text(change.after)}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= 200 else f"{printable[:200]}…"


def document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON: every step that does something, with its changes; secrets are not in it."""
    return {
        "steps": [
            {
                "kind": step.key.kind,
                "project": step.key.project,
                "name": step.key.name,
                "domain": step.resource.domain or None,
                "machines": list(step.resource.machines),
                "image": step.resource.image.ref if step.resource.image and step.key.kind != "volume" else None,
                "action": "start" if step.action == "restart" and step.stopped else step.action,
                "changes": [
                    {
                        "key": change.key,
                        "before": _HIDDEN if change.secret else change.before,
                        "after": _HIDDEN if change.secret else change.after,
                    }
                    for change in step.changes
                ],
            }
            for step in plan.todo
        ],
        "unchanged": len(plan.steps) - len(plan.todo),
        "unread": plan.unread,
        "waiting": [{"machine": name, "running": running, "wanted": image} for name, running, image in plan.waiting],
        "orphans": [_plain(key) for key in plan.orphans],
        "removing": [_plain(key) for key in plan.removing],
        "notices": list(plan.notices),
    }


def _plain(key: Key) -> dict[str, str]:
    return {"kind": key.kind, "project": key.project, "name": key.name}
