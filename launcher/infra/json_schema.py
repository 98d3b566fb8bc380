"""The JSON Schema of an infra.yml, by which editors complete its keys and mark what is wrong.

Draft 2020-12. It says what keys there are and what kind of value each takes; what only holds for several together, and
how a value must be written, `anklume-launch check` says.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher.infra.keys import CHANGES
from launcher.infra.schema import INFRA, SECTIONS

if TYPE_CHECKING:
    from launcher.infra.keys import KeyInfo

__all__ = ["json_schema"]

_NEED_NO_KEYS = [
    {"$ref": f"#/$defs/{model.__name__}"}
    for model in SECTIONS.values()
    if not any(info.required for info in model.infos().values())
]
_LINK = re.compile(r"\[([^]]+)\]\(#[^)]*\)")  # of the reference, to a place on its page


def json_schema() -> dict[str, Any]:
    """The schema as plain data."""
    schema = INFRA.model_json_schema()
    sections = schema.pop("$defs")
    for model in SECTIONS.values():
        section = schema if model is INFRA else sections[model.__name__]
        for name in ("title", "description"):
            section.pop(name, None)
        infos = model.infos()
        for name, entry in section["properties"].items():
            section["properties"][name] = _key(entry, infos[name])
        required = [name for name, info in infos.items() if info.required or info.present]
        section |= {"required": required} if required else {}
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "infra.yml"}
    return {**title, **schema, "$defs": sections}


def _key(entry: dict[str, Any], info: KeyInfo) -> dict[str, Any]:
    """A key without a value is as if it were not there; a thing that needs no keys may be nothing."""
    told = {name: entry.pop(name) for name in ("title", "description", "default") if name in entry}
    described = {"description": _described(info)} if info.meaning else {}
    usual = {"default": told["default"]} if told.get("default") not in (None, "", [], {}) else {}
    for pattern, kind in entry.get("patternProperties", {}).items():
        entry["patternProperties"][pattern] = _or_nothing(kind) if kind in _NEED_NO_KEYS else kind
        entry["additionalProperties"] = False
    return {**(_or_nothing(entry) if entry and not info.required else entry), **described, **usual}


def _described(info: KeyInfo) -> str:
    """What it means, and what a change of it does."""
    meaning = _LINK.sub(r"\1", info.meaning)
    change = "" if info.foreign or info.changing is None else CHANGES[info.changing][1]
    return f"{meaning}. {change}" if change else meaning


def _or_nothing(kind: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [kind, {"type": "null"}]}
