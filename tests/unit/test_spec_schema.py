"""What an editor knows of a spec.yml: it finds nothing wrong in a valid one, and what is wrong with one key."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from anklume_images.specs.json_schema import json_schema
from tests.conftest import Cli

ROOT = Path(__file__).parents[2]
SPECS = [*ROOT.glob("image_specs/*/spec.yml"), *ROOT.glob("examples/**/spec.yml")]
SPEC = """\
name: own
description: An image
version: {package: nginx}
from: debian
gpus: {nvidia: [vulkan]}
inputs: {debian: {suites: [{archive: debian, suite: trixie}], packages: [nginx]}}
files: [{source: a, path: /a}]
variables: {one: {type: port, description: A port, default: 80}}
variants:
  small:
    gpus: {}
    healthcheck: null
    inputs: {debian: {packages: []}}
    variables: {one: {default: 81}, two: {type: string, description: More}, three: null}
"""


@pytest.fixture(scope="module")
def editor() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("text", [SPEC, *(file.read_text() for file in SPECS)], ids=["own", *map(str, SPECS)])
def test_editors_find_nothing_wrong_in_a_valid_spec(text: str, editor: jsonschema.Draft202012Validator) -> None:
    assert len(SPECS) > 5
    assert [error.message for error in editor.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nmae",), "own"),
        (("name",), None),
        (("name",), "Own"),
        (("version",), 1.0),
        (("version", "python"), "nginx"),
        (("architectures",), ["amd46"]),
        (("gpus", "nvidia"), ["cdua"]),
        (("files", 0, "owner"), 0),
        (("files", 0), {"source": "a"}),
        (("ports",), [0]),
        (("inputs", "debian", "suites"), []),
        (("inputs", "debian", "suites", 0, "pin"), "900"),
        (("variables", "one", "type"), "prt"),
        (("variables", "One"), {"type": "port", "description": "A port"}),
        (("variants", "small", "name"), "other"),
        (("variants", "small", "variants"), {}),
        (("variants", "small", "inputs", "debian", "pakages"), []),
        (("variants", "small", "files"), [{"source": "a"}]),
        (("variants", "Small"), {}),
    ],
    ids=str,
)
def test_editors_find_what_is_wrong_with_one_key(
    path: tuple[Any, ...], value: Any, editor: jsonschema.Draft202012Validator
) -> None:
    document = deepcopy(yaml.safe_load(SPEC))
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert list(editor.iter_errors(document)) != []


def test_what_an_editor_shows_of_a_key_can_be_read_alone() -> None:
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    shown = [entry["description"] for section in sections for entry in section["properties"].values()]
    assert len(shown) > 50
    assert not [text for text in shown if "see " in text or "](" in text or len(text.split()) < 2]


def test_the_command_prints_it(tmp_path: Path) -> None:
    assert json.loads(Cli(tmp_path)("schema").stdout) == json_schema()
