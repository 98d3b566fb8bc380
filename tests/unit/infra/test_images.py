"""Images of other specs than those that come with the program: several for one role, broken ones, other bases."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from anklume_images.console import Console
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from launcher.cli.session import Session
from launcher.infra.host import HostFacts
from launcher.infra.load import Checked, check_infra
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

SPEC = """name: {name}
description: One for a test
version: "1"
from: debian
provides: [{roles}]
default: {default}
"""


HEAD = "project_name: p\nglobal: {addressing: {}}\ndomains:\n  lab:\n    machines:\n      web: "


def check(folder: Path, machine: str) -> Checked:
    file = folder / "infra.yml"
    file.write_text(f"{HEAD}{machine}\n")
    return check_infra(file, Catalog.load([folder / "specs", builtin_specs()]), host=HostFacts())


def spec(folder: Path, name: str, roles: str = "", *, default: str = "true", text: str = SPEC) -> None:
    (folder / "specs" / name).mkdir(parents=True)
    (folder / "specs" / name / "spec.yml").write_text(text.format(name=name, roles=roles, default=default))


def image(checked: Checked) -> str:
    assert checked.valid, checked.errors
    assert checked.infra is not None
    (machine,) = checked.infra.machines()
    return machine.image.ref


def only(checked: Checked) -> str:
    (problem,) = checked.errors
    return problem.code


def test_several_images_of_one_role_are_not_chosen_from_silently(tmp_path: Path):
    spec(tmp_path, "ollama-mine", "ollama_server")
    checked = check(tmp_path, "{roles: [ollama_server]}")
    assert only(checked) == "several-images"
    assert "ollama, ollama-mine" in checked.errors[0].message or "ollama-mine, ollama" in checked.errors[0].message
    assert image(check(tmp_path, "{roles: [ollama_server], image: ollama-mine}")) == "ollama-mine@latest"


def test_one_that_is_not_built_by_default_is_not_in_the_way(tmp_path: Path):
    spec(tmp_path, "ollama-mine", "ollama_server", default="false")
    assert image(check(tmp_path, "{roles: [ollama_server]}")) == "ollama@latest"


def test_the_image_that_provides_all_roles(tmp_path: Path):
    spec(tmp_path, "everything", "ollama_server, open_webui")
    assert image(check(tmp_path, "{roles: [base_system, ollama_server, open_webui]}")) == "everything@latest"
    assert image(check(tmp_path, "{roles: [ollama_server]}")) == "ollama@latest"


def test_roles_of_a_base_are_provided_too(tmp_path: Path):
    spec(tmp_path, "ours", "our_role", text=SPEC.replace("from: debian", "from: ollama"))
    assert image(check(tmp_path, "{roles: [ollama_server, our_role]}")) == "ours@latest"


def test_a_user_spec_of_the_same_name_wins(tmp_path: Path):
    spec(tmp_path, "ollama", "ollama_server, stt_server")
    assert image(check(tmp_path, "{roles: [stt_server]}")) == "ollama@latest"


@pytest.mark.parametrize("machine", ["{image: bad}", "{os_image: bad}"])
def test_a_broken_spec_that_is_wanted(tmp_path: Path, machine: str):
    spec(tmp_path, "bad", text="name: bad\n")
    checked = check(tmp_path, machine)
    assert only(checked) == "broken-spec"
    assert "missing key" in str(checked.errors[0].hint)


def test_a_broken_spec_that_nobody_wants(tmp_path: Path):
    spec(tmp_path, "bad", text="name: bad\n")
    assert image(check(tmp_path, "{roles: [ollama_server]}")) == "ollama@latest"
    checked = check(tmp_path, "{roles: [bad_role]}")
    assert only(checked) == "role-without-image"
    assert "'bad'" in str(checked.errors[0].hint)


def test_reasons_are_given_for_the_plan(tmp_path: Path):
    (tmp_path / "specs").mkdir()
    reasons = {}
    for machine in ("{roles: [ollama_server]}", "{image: ollama}", "{}", "{os_image: 'images:alpine/3.20'}"):
        infra = check(tmp_path, machine).infra
        assert infra is not None
        (found,) = infra.machines()
        reasons[machine] = found.image.reason
    assert list(reasons.values()) == [
        "provides 'ollama_server'",
        "named by image",
        "the store's image for default_os_image images:debian/13",
        "named by os_image",
    ]


def test_tags_are_those_of_the_image(tmp_path: Path):
    (tmp_path / "specs").mkdir()
    infra = check(tmp_path, "{roles: [ollama_server]}").infra
    assert infra is not None
    (machine,) = infra.machines()
    assert machine.tags == ("llm",)


def test_an_image_that_was_only_received_is_known_by_its_manifest(tmp_path: Path):
    """Its roles and variables count; an image with a spec comes first for a role that both have."""
    store = Store(tmp_path / "store")
    debian = put(store, "debian")
    for name, roles, base in (
        ("wiki", ["wiki"], debian),
        ("ollama-theirs", ["ollama_server"], debian),
        ("own", [], None),
    ):
        own = put(store, name, base=base)
        manifest = Images(store).folder(name, own.version, own.architecture) / "manifest.json"
        document = json.loads(manifest.read_bytes())
        variable = {"type": "string", "default": "x", "description": "Its name", "secret": False}
        document["spec"] |= {"provides": roles, "variables": {"wiki_name": variable}}
        manifest.write_text(json.dumps(document))
    file = tmp_path / "infra.yml"
    session = Session((), store.home, Console())

    def ask(machine: str) -> Checked:
        file.write_text(HEAD + machine + "\n")
        return check_infra(file, session.catalog, host=HostFacts())

    checked = ask("{roles: [wiki], vars: {wiki_name: ours}}")
    assert image(checked) == "wiki@latest"
    assert image(ask("{roles: [ollama_server]}")) == "ollama@latest"
    assert image(ask("{image: ollama-theirs}")) == "ollama-theirs@latest"
    assert image(ask("{os_image: 'images:debian/13'}")) == "debian@latest"  # no other root is of that release
    assert only(ask("{image: wikki}")) == "unknown-image"
