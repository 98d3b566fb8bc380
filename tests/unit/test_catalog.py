"""Finding specs in several folders, following `from`, and staying usable when one of them is broken."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest

from anklume_images.cli.session import Session
from anklume_images.console import Console
from anklume_images.errors import InvalidFileError
from anklume_images.specs.catalog import Catalog, ReceivedError, UnknownImageError, builtin_specs
from anklume_images.specs.model import request_of
from anklume_images.specs.stored import stored_spec
from anklume_images.store.images import SPEC_KEYS, Images
from anklume_images.store.store import Store
from tests.support.stored_images import put

ROOT = """\
name: {name}
description: A root
version: "1"
distribution: debian
release: trixie
inputs: {{debian: {{suites: [{{archive: debian, suite: trixie}}]}}}}
"""
CHILD = 'name: {name}\ndescription: A child\nversion: "1"\nfrom: {base}\n'


@pytest.fixture
def add(tmp_path):
    def write(where: str, text: str, **words: str):
        folder = tmp_path / where
        folder.mkdir(parents=True)
        (folder / "spec.yml").write_text(text.format(name=folder.name, **words))
        return folder

    return write


def test_chain_leads_from_the_root_and_brings_its_release(add, tmp_path):
    add("specs/os", ROOT)
    add("specs/middle", CHILD, base="os")
    add("specs/app", CHILD, base="middle")
    catalog = Catalog.load([tmp_path / "specs"])
    assert [spec.name for spec in catalog.chain("app")] == ["os", "middle", "app"]
    assert catalog.get("app").release == "trixie"
    assert catalog.get("app").distribution == "debian"
    assert catalog.names() == ("app", "middle", "os")


def test_folders_that_are_no_specs(add, tmp_path):
    add("specs/os", ROOT)
    add("specs/_shared", ROOT)
    add("specs/.git", ROOT)
    (tmp_path / "specs" / "notes").mkdir()
    (tmp_path / "specs" / "README.md").write_text("")
    catalog = Catalog.load([tmp_path / "specs"])
    assert catalog.names() == ("os",)
    assert catalog.partials == (tmp_path / "specs" / "_partials",)


def test_the_first_folder_that_has_a_name_wins(add, tmp_path):
    add("mine/os", ROOT.replace("A root", "Mine"))
    add("theirs/os", ROOT)
    add("theirs/app", CHILD, base="os")
    catalog = Catalog.load([tmp_path / "mine", tmp_path / "theirs"])
    assert [spec.description for spec in catalog.chain("app")] == ["Mine", "A child"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UnknownImageError) as caught:
        Catalog.load([tmp_path / "none"])
    assert caught.value.where == str(tmp_path / "none")
    assert caught.value.exit_code == 2


def test_unknown_image_names_the_nearest(add, tmp_path):
    add("specs/nginx", ROOT)
    catalog = Catalog.load([tmp_path / "specs"])
    with pytest.raises(UnknownImageError, match="no image is called 'ngnix'") as caught:
        catalog.get("ngnix")
    assert caught.value.hint == "did you mean 'nginx'?"
    with pytest.raises(UnknownImageError) as caught:
        catalog.get("zzz")
    assert caught.value.hint == "there are: nginx"


def test_an_image_of_the_store_that_no_spec_makes_was_received(add, tmp_path):
    add("specs/nginx", ROOT)
    catalog = Catalog.load([tmp_path / "specs"], stored=lambda: {"nginx", "app"})
    assert catalog.get("nginx")
    with pytest.raises(ReceivedError) as caught:
        catalog.get("app")
    assert "bundle import" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", Catalog.load([builtin_specs()]).names())
def test_an_image_without_a_spec_is_launched_as_with_it(name, tmp_path):
    spec = Catalog.load([builtin_specs()]).get(name)
    kept = {key: value for key, value in spec.document().items() if key in SPEC_KEYS}
    stored = stored_spec(name, spec.description, json.loads(json.dumps(kept)), tmp_path, is_root=spec.base is None)
    assert {key: value for key, value in stored.spec.document().items() if key in SPEC_KEYS} == kept


@pytest.mark.parametrize(
    ("command", "specs", "checkout", "refused"),
    [
        ("bundle import", False, False, True),
        ("pull", False, False, True),
        ("bundle import", True, False, False),
        ("bundle import", False, True, False),
        ("build", False, False, False),
        ("migration", False, False, False),
    ],
)
def test_a_store_that_only_receives_has_no_specs(command, specs, checkout, refused, tmp_path, monkeypatch):
    monkeypatch.setattr("anklume_images.specs.folders.checkout", lambda: tmp_path if checkout else None)
    store = Store(tmp_path / "store")
    session = Session((tmp_path,) if specs else (), store.home, None, Console())
    session.want_specs()  # an empty store is one to build in
    put(store, "app", channels=())
    Images(store).set_channel("app", "amd64", "latest", "1.0-000000000001", command=command)
    with pytest.raises(ReceivedError, match="all of its images were received") if refused else nullcontext():
        session.want_specs()


def test_unknown_base_stands_at_from(add, tmp_path):
    folder = add("specs/app", CHILD, base="debain")
    add("specs/debian", ROOT)
    with pytest.raises(InvalidFileError) as caught:
        Catalog.load([tmp_path / "specs"]).get("app")
    (problem,) = caught.value.problems
    assert str(problem) == f"{folder}/spec.yml:4:7: no image is called 'debain' (did you mean 'debian'?)"
    assert problem.code == "unknown-base"


def test_a_circle_of_bases(add, tmp_path):
    add("specs/one", CHILD, base="two")
    add("specs/two", CHILD, base="three")
    add("specs/three", CHILD, base="two")
    catalog = Catalog.load([tmp_path / "specs"])
    with pytest.raises(InvalidFileError, match="one from two from three from two") as caught:
        catalog.get("one")
    assert caught.value.problems[0].code == "base-cycle"
    assert caught.value.problems[0].file.endswith("three/spec.yml")


def test_a_base_must_be_there_for_every_architecture(add, tmp_path):
    add("specs/os", ROOT + "architectures: [amd64]\n")
    add("specs/app", CHILD, base="os")
    with pytest.raises(InvalidFileError, match="the base 'os' is not made for arm64"):
        Catalog.load([tmp_path / "specs"]).get("app")


def test_variants_are_found_by_their_name(add, tmp_path):
    add("specs/os", ROOT + "variants: {{tiny: {{tags: [small]}}}}\n")
    add("specs/app", CHILD + "variants: {{small: {{from: os-tiny}}}}\n", base="os")
    catalog = Catalog.load([tmp_path / "specs"])
    assert [spec.name for spec in catalog.chain("app-small")] == ["os-tiny", "app-small"]
    assert catalog.names() == ("app", "app-small", "os", "os-tiny")
    assert catalog.defaults() == ("app", "os")


def test_unknown_base_of_a_variant_stands_at_its_own_from(add, tmp_path):
    add("specs/os", ROOT)
    add("specs/app", CHILD + "variants:\n  small:\n    from: us\n", base="os")
    with pytest.raises(InvalidFileError) as caught:
        Catalog.load([tmp_path / "specs"]).get("app-small")
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (7, 11)


def test_images_not_built_by_default(add, tmp_path):
    add("specs/os", ROOT)
    add("specs/extra", CHILD + "default: false\n", base="os")
    assert Catalog.load([tmp_path / "specs"]).defaults() == ("os",)


def test_a_broken_spec_stops_only_itself_and_its_children(add, tmp_path):
    add("specs/os", ROOT)
    add("specs/app", CHILD, base="os")
    add("specs/broken", "name: {name}\ncolour: red\n")
    add("specs/child", CHILD, base="broken")
    catalog = Catalog.load([tmp_path / "specs"])
    assert catalog.get("app").name == "app"
    for name in ("broken", "child"):
        for _ in range(2):
            with pytest.raises(InvalidFileError, match="unknown key 'colour'"):
                catalog.get(name)
    assert catalog.names() == ("app", "broken", "child", "os")
    assert "broken" in catalog.defaults()


def test_request_covers_the_bases(add, tmp_path):
    add("specs/os", ROOT)
    add("specs/app", CHILD, base="os")
    catalog = Catalog.load([tmp_path / "specs"])
    root, app = catalog.chain("app")
    assert catalog.request("app", "amd64") == request_of(app, "amd64", request_of(root, "amd64", None))
    text = (root.folder / "spec.yml").read_text()
    (root.folder / "spec.yml").write_text(text.replace("suite: trixie", "suite: sid"))
    assert Catalog.load([tmp_path / "specs"]).request("app", "amd64") != catalog.request("app", "amd64")


def test_variables_of_the_bases_are_those_of_the_image_too(add, tmp_path):
    add("specs/os", ROOT + "variables: {{a: {{type: integer, default: 1, description: x}}}}\n")
    text = CHILD + "variables: {{a: {{type: integer, default: 2, description: x}}, b: {{type: url, description: x}}}}\n"
    add("specs/app", text, base="os")
    variables = Catalog.load([tmp_path / "specs"]).variables("app")
    assert {name: variable.default for name, variable in variables.items()} == {"a": 2, "b": None}


def test_the_specs_that_come_with_the_program_are_right():
    catalog = Catalog.load([builtin_specs()])
    for name in catalog.names():
        assert catalog.chain(name)
    assert {"debian", "debian-12"} <= set(catalog.defaults())
    assert catalog.get("debian").provides == ("base_system",)
    assert catalog.get("debian-12").release == "bookworm"
