"""Each key is declared once: it does something, the reference tells of it, and editors know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from launcher.infra.incus_keys import config_keys
from launcher.infra.json_schema import json_schema
from launcher.infra.load import check_infra
from launcher.infra.schema import SECTIONS
from launcher.plan.difference import difference
from tests.support import reference
from tests.unit.infra.effects import Made, document_for, made_of, set_key, value_of
from tests.unit.infra.test_corpus import FILES
from tests.unit.test_plan import as_made

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.catalog import Catalog
    from launcher.infra.keys import KeyInfo

NO_CHOICE = {"addressing.base_octet"}  # it has one value
LIVE_OR_NOT = [("limits.cpu", "1", "live"), ("user.mine", "1", "live"), ("security.nesting", "true", "restart")]
KEYS = [
    f"{section}.{name}"
    for section, model in SECTIONS.items()
    for name, info in model.infos().items()
    if not info.foreign
]


def info_of(key: str) -> KeyInfo:
    section, _, name = key.partition(".")
    return SECTIONS[section].infos()[name]


def before_and_after(key: str, file: Path, catalog: Catalog) -> tuple[Any, Any]:
    """What comes of a file without a key, and with it."""
    section, _, name = key.partition(".")
    cards = 2 if section == "gpu_device" else 1
    document = document_for(section, name)
    before = made_of(document, file, catalog, cards=cards)
    value = value_of(section, name)
    assert value is not None, f"VALUES has no value for {key}"
    set_key(document, section, name, value)
    return before, made_of(document, file, catalog, cards=cards)


@pytest.mark.parametrize("key", sorted({*KEYS} - NO_CHOICE))
def test_it_does_something(key: str, tmp_path: Path, catalog: Catalog) -> None:
    before, after = (
        made.effect if isinstance(made, Made) else made
        for made in before_and_after(key, tmp_path / "infra.yml", catalog)
    )
    assert after != before


def what_is_done(before: Made, after: Made) -> str:
    """What a plan does to the machines that the file made before, all of them running."""
    live = as_made({resource.key: resource for resource in before.resources})
    plan = difference(after.resources, live, after.infra.project_name)
    if plan.conflicts:
        return "recreate"
    if any(step.action == "restart" for step in plan.todo):
        return "restart"
    if plan.waiting:
        return "replace"
    if any(key.kind == "machine" for key in plan.orphans):
        return "prune"
    return "live" if plan.todo else "nothing"


def test_each_key_with_keys_of_its_own_or_of_incus_leaves_it_to_them_what_a_change_does() -> None:
    parts = {key for key in KEYS if info_of(key).changing == "parts"}
    sections = {"infra.global", "infra.domains", "domain.profiles", "domain.machines"}
    assert parts == sections | {"machine.config", "machine.devices", "profile.config", "profile.devices"}


@pytest.mark.parametrize("key", sorted(key for key in {*KEYS} - NO_CHOICE if info_of(key).changing != "parts"))
def test_a_change_does_what_its_declaration_says(key: str, tmp_path: Path, catalog: Catalog) -> None:
    made = before_and_after(key, tmp_path / "infra.yml", catalog)
    refused = [one for one in made if not isinstance(one, Made) or one.cards.refusals]
    done = "nothing" if refused else what_is_done(*made)
    assert info_of(key).changing == done


@pytest.mark.parametrize(("key", "value", "done"), LIVE_OR_NOT)
def test_a_key_of_incus_restarts_or_not(key: str, value: str, done: str, tmp_path: Path, catalog: Catalog) -> None:
    document = document_for("machine", "config")
    made = []
    for text in ("", value):
        document["domains"]["lab"]["machines"]["web"]["config"] = {key: text} if text else {}
        made.append(made_of(document, tmp_path / "infra.yml", catalog))
    assert what_is_done(*made) == done


def test_a_key_that_becomes_one_of_incus_is_one_that_it_has() -> None:
    written = {info.incus for info in SECTIONS["machine"].infos().values()} - {""}
    assert written
    assert {key for key in written if config_keys().find(key) is None} == set()


def test_the_reference_has_every_table_as_declared() -> None:
    pages = [page.read_text("utf-8") for page in reference.PAGES]
    assert sorted(name for page in pages for name in reference.sections(page)) == sorted([*SECTIONS, *reference.OTHERS])
    assert [reference.written(page) for page in pages] == pages, "run: make reference"


@pytest.fixture(scope="module")
def editor() -> jsonschema.Draft202012Validator:
    """What an editor knows of an infra.yml."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_what_an_editor_shows_of_a_key_can_be_read_alone() -> None:
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    shown = {name: entry["description"] for section in sections for name, entry in section["properties"].items()}
    assert len(shown) > 50
    assert not {name: text for name, text in shown.items() if text.startswith("see ") or "](" in text}
    assert not {name: text for name, text in shown.items() if len(text.split()) < 2}


@pytest.mark.parametrize("file", [file for file in FILES if file.name.startswith("valid-")], ids=lambda file: file.stem)
def test_editors_find_nothing_wrong_in_a_valid_file(file: Path, editor: jsonschema.Draft202012Validator) -> None:
    assert [error.message for error in editor.iter_errors(yaml.safe_load(file.read_text("utf-8")))] == []


@pytest.mark.parametrize("code", ["unknown-key", "missing-key", "wrong-type"])
def test_editors_find_what_is_wrong_with_one_key(
    code: str, editor: jsonschema.Draft202012Validator, catalog: Catalog
) -> None:
    with_it = [file for file in FILES if {code} == {error.code for error in check_infra(file, catalog).errors}]
    missed = [file.name for file in with_it if editor.is_valid(yaml.safe_load(file.read_text("utf-8")))]
    assert len(with_it) > 3
    assert set(missed) <= {"invalid-older-form-no-subnet-id.yml"}  # which the other form does not need
