"""The JSON Schema of a spec.yml, by which editors complete its keys and mark what is wrong.

Draft 2020-12. It says what keys there are and what kind of value each takes; what only holds for several together,
`anklume-images` says when it reads the file.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from anklume_images.specs.keys import NOT_IN_VARIANTS, SpecDocument

__all__ = ["json_schema"]

_REFERENCE = "#/$defs/"
_CHANGED = "Changed"  # what a section is called of which a variant says some keys


def json_schema() -> dict[str, Any]:
    """The schema as plain data."""
    schema = SpecDocument.model_json_schema()
    sections = schema.pop("$defs")
    for section in (schema, *sections.values()):
        section.pop("title", None)
        section.pop("description", None)
        for entry in section["properties"].values():
            _tidy(entry)
    variant = _changed(schema, sections)
    for name in NOT_IN_VARIANTS:
        del variant["properties"][name]
    (pattern,) = schema["properties"]["variants"]["patternProperties"]
    schema["properties"]["variants"]["patternProperties"][pattern] = variant
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "spec.yml"}
    return {**title, **schema, "$defs": sections}


def _tidy(entry: dict[str, Any]) -> None:
    """Leave out what an editor's user has no use for, and allow no other names than those with the pattern."""
    entry.pop("title", None)
    if entry.get("default") in (None, [], {}):
        entry.pop("default", None)
    if "patternProperties" in entry:
        entry["additionalProperties"] = False
    entry["description"] = entry["description"].removesuffix(", see below")


def _changed(section: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """The same where only some keys are said, or null, which takes one away; lists are said anew as a whole."""
    changed = deepcopy(section)
    changed.pop("required", None)
    for name, entry in changed["properties"].items():
        told = {"description": entry.pop("description")}
        entry.pop("default", None)
        changed["properties"][name] = {"anyOf": [_merged(entry, sections), {"type": "null"}], **told}
    return changed


def _merged(entry: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """A value of a variant: mappings are merged with those of the image."""
    if "anyOf" in entry:
        return {**entry, "anyOf": [_merged(kind, sections) for kind in entry["anyOf"]]}
    if "patternProperties" in entry:
        kinds = {pattern: _merged(kind, sections) for pattern, kind in entry["patternProperties"].items()}
        return {**entry, "patternProperties": {key: {"anyOf": [kind, {"type": "null"}]} for key, kind in kinds.items()}}
    if "$ref" not in entry:
        return entry
    name = entry["$ref"].removeprefix(_REFERENCE)
    if name + _CHANGED not in sections:
        sections[name + _CHANGED] = {}
        sections[name + _CHANGED] = _changed(sections[name], sections)
    return {**entry, "$ref": _REFERENCE + name + _CHANGED}
